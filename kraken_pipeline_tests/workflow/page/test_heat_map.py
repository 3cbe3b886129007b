from __future__ import annotations

import base64
import gzip
import itertools
from io import BytesIO

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from kraken_pipeline.coverage.months import ROUTES, State
from kraken_pipeline.workflow.page.heat_map import COLOURS, NAMES, PLANES, packed_cells, png_of
from kraken_pipeline_tests.support.pages import YEAR, small_map

pytestmark = pytest.mark.slow

Numbers = npt.NDArray[np.float64]

# How colours are seen: G. M. Machado, M. M. Oliveira, L. A. F. Fernandes, "A Physiologically-based Model for
# Simulation of Color Vision Deficiency", 2009, in linear light, without a kind of cone.
VISIONS: dict[str, list[list[float]]] = {
    "most people": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(colour: str) -> Numbers:
    values = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    light: Numbers = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return light


def oklab(light: Numbers) -> Numbers:
    """B. Ottosson's space, in which distances are those that are seen."""
    cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    found: Numbers = lab @ np.cbrt(cones @ np.clip(light, 0, 1))
    return found


@pytest.mark.parametrize("vision", VISIONS)
def test_the_colours_of_the_states_can_be_told_apart(vision: str) -> None:
    seen = {state: oklab(np.array(VISIONS[vision]) @ linear(colour)) for state, colour in COLOURS.items()}
    distances = {(a, b): float(np.linalg.norm(seen[a] - seen[b])) for a, b in itertools.combinations(seen, 2)}
    assert min(distances.values()) > 0.1, min(distances, key=lambda both: distances[both])


@pytest.mark.parametrize("ground", ["#f3f5f8", "#1e242e"])
def test_the_colours_of_the_states_stand_out_from_light_and_dark_ground(ground: str) -> None:
    below = oklab(linear(ground))
    assert min(float(np.linalg.norm(oklab(linear(colour)) - below)) for colour in COLOURS.values()) > 0.15


def test_every_state_has_a_name_and_all_but_what_is_not_expected_a_colour() -> None:
    assert set(NAMES) == set(State)
    assert set(State) - set(COLOURS) == {State.NOTHING}


def test_a_picture_has_a_pixel_a_cell_in_the_colour_of_its_state() -> None:
    states = np.array([list(State), list(State)[::-1]], dtype=np.uint8)
    picture = Image.open(BytesIO(png_of(states)))
    assert (picture.mode, picture.size) == ("P", (len(State), 2))
    pixels = np.array(picture.convert("RGBA"))
    assert pixels[0, 0, 3] == pixels[1, -1, 3] == 0  # nothing is expected: the ground shows
    for place, state in enumerate(State):
        if state in COLOURS:
            colour = bytes.fromhex(COLOURS[state][1:]) + b"\xff"
            assert pixels[0, place].tobytes() == pixels[1, -1 - place].tobytes() == colour


def test_a_picture_of_one_state_is_of_that_state() -> None:
    for state, colour in COLOURS.items():
        pixels = Image.open(BytesIO(png_of(np.full((3, 5), state, dtype=np.uint8)))).convert("RGBA")
        assert pixels.getcolors() == [(15, (*bytes.fromhex(colour[1:]), 255))]


def test_the_numbers_of_the_cells_come_out_as_they_were_packed() -> None:
    drawn = small_map()
    data = np.frombuffer(gzip.decompress(base64.b64decode(packed_cells(drawn))), "<i4")
    planes = data.reshape(len(PLANES) - 1 + len(ROUTES), len(drawn.pairs), YEAR.count)
    state, expected, unrouted, unproven, unverified, by_byte, *missing, conflicts, suspicious = planes
    candles = np.frombuffer(by_byte.tobytes(), np.uint8).reshape(4, -1).T.copy().view("<i4").reshape(by_byte.shape)
    uncovered = unrouted + np.array(missing).sum(axis=0)
    full, holed = drawn.breakdowns
    assert (state == drawn.states).all()
    assert (expected[0] == full.expected).all()
    assert (expected[1] - uncovered[1] == holed.covered).all()
    assert (expected[0] - uncovered[0] - unproven[0] == full.proven).all()
    assert (full.proven - unverified[0] == full.verified).all()
    assert (candles[0] - 1 == full.candles).all()
    assert not candles[1].any()  # nobody has counted
    assert (np.array(missing)[:, 1] == holed.missing).all()
    assert conflicts[0].tolist() == [0] * 7 + [1] + [0] * 4
    assert suspicious[0].tolist() == [0] * 9 + [2, 0, 0]
    assert (expected - uncovered >= 0).all()


def test_the_same_cells_are_packed_to_the_same_text() -> None:
    assert packed_cells(small_map()) == packed_cells(small_map())
    assert png_of(small_map().states) == png_of(small_map().states)
