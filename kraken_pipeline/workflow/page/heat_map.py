"""The heat map: the colour and the name of each state, the picture, and the numbers of its cells."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kraken_pipeline.coverage.months import State
from kraken_pipeline.workflow.page.contents import HeatMap

if TYPE_CHECKING:
    from matplotlib.colors import ListedColormap

COLOURS: Mapping[State, str] = {
    State.COVERED: "#adc7f2",
    State.RECONCILED: "#3464d6",
    State.VERIFIED: "#1f2d94",
    State.QUIET: "#808792",
    State.SUSPICIOUS: "#630048",
    State.ARCHIVE: "#e0d24b",
    State.RESAMPLE: "#44c497",
    State.OHLC: "#e29315",
    State.TRADES: "#c65e30",
    State.NONE: "#ab234e",
    State.CONFLICT: "#c17df0",
}
"""The colour of each state, on a light and a dark background; what is not expected shows the background.

The colours were found by a search within their hues. The least distance of two of them in OKLab is 0.14 for most
people, and 0.1 for people with protanopia, deuteranopia or tritanopia. A test measures it.
"""
NAMES: Mapping[State, str] = {
    State.NOTHING: "nothing expected",
    State.COVERED: "complete, not reconciled",
    State.RECONCILED: "complete and reconciled",
    State.VERIFIED: "complete and verified",
    State.QUIET: "quiet: nobody traded",
    State.SUSPICIOUS: "complete, quiet that is hard to believe",
    State.ARCHIVE: "gap, filled by an archive at hand",
    State.RESAMPLE: "gap, filled by finer candles",
    State.OHLC: "gap, filled by OHLC",
    State.TRADES: "gap, filled by Trades",
    State.NONE: "gap without a route",
    State.CONFLICT: "conflict",
}


def colour_map() -> ListedColormap:
    """Return the colours by the number of the state; NOTHING is transparent."""
    from matplotlib.colors import ListedColormap  # noqa: PLC0415

    return ListedColormap(["#00000000", *(COLOURS[state] for state in State if state in COLOURS)])


def png_of(states: npt.NDArray[np.uint8]) -> bytes:
    """Return a PNG with one pixel for each cell, which the browser enlarges.

    Args:
        states: The numbers of `State`, one row for each pair and one column for each month.
    """
    from matplotlib.image import imsave  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415

    drawn, packed = BytesIO(), BytesIO()
    imsave(drawn, states, cmap=colour_map(), vmin=min(State), vmax=max(State), format="png")
    # A palette is enough for so few colours, and takes a third of the size.
    Image.open(drawn).quantize(len(State), Image.Quantize.FASTOCTREE).save(packed, "png", optimize=True)
    return packed.getvalue()


PLANES = (
    *("state", "expected", "unrouted", "unproven", "unverified", "candles", "missing", "conflicts", "suspicious"),
)
"""The numbers of each cell, in this order, `missing` once for each route; `report.js` reads them."""


def packed_cells(drawn: HeatMap) -> str:
    """Return the numbers of all cells: planes of Int32 (little endian) by pair and month, gzipped, in base64.

    Numbers that are mostly the same are stored as differences that are mostly zero: to the missing, the expected, the
    covered and the reconciled. Candles are stored plus one; 0 means that they are not counted. They differ from cell to
    cell, so their plane has the first byte of each, then the second, and so on: it takes a fifth less.
    """
    found = drawn.breakdowns
    missing = np.array([breakdown.missing for breakdown in found]).transpose(1, 0, 2)
    planes = [
        drawn.states,
        np.array([breakdown.expected for breakdown in found]),
        np.array([breakdown.expected - breakdown.covered - breakdown.missing.sum(axis=0) for breakdown in found]),
        np.array([breakdown.covered - breakdown.proven for breakdown in found]),
        np.array([breakdown.proven - breakdown.verified for breakdown in found]),
        _by_byte(np.array([breakdown.candles + 1 for breakdown in found])),
        *missing,
        np.array([breakdown.conflicts for breakdown in found]),
        np.array([breakdown.suspicious for breakdown in found]),
    ]
    data = np.array(planes).astype("<i4").tobytes()
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()


def _by_byte(plane: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Return a plane whose bytes are the first byte of each number, then the second of each, and so on."""
    numbers = np.frombuffer(plane.astype("<i4").tobytes(), np.uint8).reshape(plane.size, 4)
    return np.frombuffer(numbers.T.tobytes(), "<i4").reshape(plane.shape)
