"""What a reader asks for, checked before anything is read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.bars import Bars
from kraken_pipeline.market.candle import EARLIEST_TIME
from kraken_pipeline.market.flow import FLOW
from kraken_pipeline.market.moment import parse_moment
from kraken_pipeline.market.pair import did_you_mean, named_pair
from kraken_pipeline.workflow.reading.assembly import known_window
from kraken_pipeline.workflow.reading.evidence import TimeEvidence

Moment = str | datetime | int
"""An ISO date or time, a datetime, or seconds since the epoch; UTC where it has no zone."""

COLUMNS = ("time", "open", "high", "low", "close", "volume", "trade_count", "source", *FLOW)
STATE_COLUMNS = ("state", "proof")
PAIR = "pair"


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """The candles that are wanted of each pair.

    Attributes:
        bars: The grid of the candles.
        start: The earliest start of a candle, in seconds since the epoch; None for the first that is known.
        end: The end, likewise; a candle that starts then is left out. None for the last that is known.
        fill_quiet: Whether candles without a trade are filled in.
        incomplete: Whether candles are wanted of time that is not covered whole.
        require_complete: Whether a gap or suspicious quiet time is an error.
        with_state: Whether there is a row for each candle of the expected time, with its state and its proof.
        as_of: The moment as of which stored candles are wanted, in seconds since the epoch; None for the present.
    """

    bars: Bars
    start: int | None = None
    end: int | None = None
    fill_quiet: bool = False
    incomplete: bool = False
    require_complete: bool = False
    with_state: bool = False
    as_of: int | None = None

    def __post_init__(self) -> None:
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise InvalidRequest("end must be later than start; the range is half-open, so end itself is excluded")
        if self.as_of is not None and (not self.is_plain or self.bars.stored_as is None):
            raise InvalidRequest(
                "as_of reads candles of the stored intervals as the lake held them; coverage and proof of that time "
                "are not kept, so that other intervals, quiet time and states cannot be made"
            )

    @property
    def is_plain(self) -> bool:
        """Whether nothing is wanted but the candles."""
        return not (self.fill_quiet or self.incomplete or self.require_complete or self.with_state)

    def expected(self, evidence: TimeEvidence, now: int) -> Span | None:
        """Return the time in which candles are expected or known; None if nothing is.

        It begins with `start`, or else with the first candle or trade that is known. It ends with `end`, but not later
        than now or the last stored candle.
        """
        known = known_window(self.bars, evidence)
        firsts = [] if known is None else [known.start]
        if evidence.first_known is not None:
            firsts.append(self.bars.floor(evidence.first_known))
        if self.start is not None:
            firsts = [max(self.start, EARLIEST_TIME)]
        last = now if known is None else max(now, known.end)
        end = last if self.end is None else min(self.end, last)
        return Span(firsts_start, end) if firsts and (firsts_start := min(firsts)) < end else None


def seconds_of_moment(moment: Moment | None) -> int | None:
    """Return a moment in seconds since the epoch.

    Raises:
        InvalidRequest: A text is not a date or a time.
    """
    if isinstance(moment, str):
        return parse_moment(moment)
    if isinstance(moment, datetime):
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    return moment


def require_pair(name: str, known: Collection[str]) -> str:
    """Return the name of a known pair.

    Raises:
        InvalidRequest: The pair is unknown; the message names similar ones.
    """
    if (pair := named_pair(name, known)) not in known:
        near = did_you_mean(pair, known)
        raise InvalidRequest(
            f"{pair} is unknown: neither the lake nor the exchange's list has it{near}; "
            "`kraken-pipeline report` shows what the lake has"
        )
    return pair


def chosen_columns(columns: Sequence[str] | None, available: Iterable[str]) -> list[str]:
    """Return the columns that are wanted, in their order; all where none are named.

    Raises:
        InvalidRequest: There is no such column, or none is named, or one is named twice.
    """
    every = list(available)
    if columns is None:
        return every
    wanted = [columns] if isinstance(columns, str) else list(columns)
    unknown = [name for name in wanted if name not in every]
    if unknown or not wanted or len(set(wanted)) < len(wanted):
        what = f"there is no column {unknown[0]!r}" if unknown else "columns must be named once each"
        raise InvalidRequest(f"{what}; the columns are {', '.join(every)}")
    return wanted
