"""The specification of a run, checked before anything happens. The shell, jobs, schedules and sensors all use it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from kraken_pipeline.archive_path import ArchiveFolder, ArchivePath
from kraken_pipeline.coverage.ranges import ALWAYS, Span
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.interval import INTERVALS, Interval
from kraken_pipeline.market.moment import EARLIEST, LATEST, iso, parse_moment
from kraken_pipeline.market.pair import Pair, parse_pair
from kraken_pipeline.market.tier import Tier, TierTable

_SELECTION = ("tier", "pairs", "intervals", "start", "end")
_LIMITS = ("complete", "lookback_days", "max_gaps_per_asset", "budget")
_OPTIONS = {
    "plan": (*_SELECTION, "archive_dirs", "accept_unknown_pairs", "complete"),
    "ingest": (*_SELECTION, "archive_dirs", "accept_unknown_pairs", "api_backfill", *_LIMITS),
    "backfill": (*_SELECTION, *_LIMITS),
    "prove": ("tier", "pairs", "start", "end", "budget"),
}
"""The options of the commands that have others than those of a selection."""


class RunSpec(BaseModel):
    """The specification of one run.

    Lists may be given as comma-separated text, times as ISO dates or times (UTC). Ranges are half-open: with
    `end: 2023-10-01`, 1 October is left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    tier: Tier = Field(default=Tier.ALL, description="The tier: TIER1 to TIER4, or ALL.")
    intervals: tuple[Interval, ...] = Field(
        default=INTERVALS,
        description="The intervals, in minutes. By default all, but weekly and 15-day candles only where they are "
        "stored or kept.",
    )
    pairs: tuple[str, ...] = Field(default=(), description="The pairs; all of the tier if none is named.")
    start: int | None = Field(
        default=None,
        ge=EARLIEST,
        le=LATEST,
        description="The start of the selected time (UTC); nothing before it is selected.",
    )
    end: int | None = Field(
        default=None, ge=EARLIEST, le=LATEST, description="The end of the selected time (UTC), excluded."
    )
    archive_dirs: tuple[ArchiveFolder, ...] = Field(
        default=(),
        description="Further folders or files with archives, beside the drop folder, or buckets "
        "(`s3://bucket/prefix`). They are only read.",
    )
    api_backfill: bool = Field(
        default=True, description="Whether gaps are filled through the API. Resampling works without it."
    )
    complete: bool = Field(
        default=False,
        description="Whether to continue until no gap that can be filled is left, without limits of "
        "lookback, gaps or requests.",
    )
    accept_unknown_pairs: bool = Field(
        default=False, description="Whether to read loose files whose name ends with no known currency."
    )
    dry_run: bool = Field(default=False, description="Whether to show what would be done instead of doing it.")
    lookback_days: Annotated[
        int, Field(ge=1, le=365, description="The greatest age of a gap that is filled through the API, in days.")
    ] = 7
    max_gaps_per_asset: Annotated[
        int, Field(ge=1, le=100, description="The most gaps of a series that one run fills through the API.")
    ] = 10
    budget: Annotated[
        int | None,
        Field(ge=0, description="The most requests of the run; KRAKEN_MAX_REQUESTS_PER_RUN if it is not set."),
    ] = None

    @field_validator("tier", mode="before")
    @classmethod
    def _any_case(cls, value: Any) -> Any:
        return value.strip().upper() if isinstance(value, str) else value

    @field_validator("intervals", mode="before")
    @classmethod
    def _known_intervals(cls, value: Any) -> Any:
        if not (values := _listed(value)):
            raise InvalidRequest("no interval is named; to select the default, leave intervals out")
        return tuple(sorted({Interval.parse(text) for text in values}))

    @field_validator("pairs", mode="before")
    @classmethod
    def _resolved_pairs(cls, value: Any) -> Any:
        return tuple(dict.fromkeys(parse_pair(str(text).strip()).name for text in _listed(value)))

    @field_validator("archive_dirs", mode="after")
    @classmethod
    def _one_spelling(cls, value: tuple[ArchivePath, ...]) -> tuple[ArchivePath, ...]:
        for path in value:
            try:
                str(path).encode()
            except UnicodeEncodeError:  # a run's configuration is JSON
                raise InvalidRequest(f"the name of the folder {path} is not valid UTF-8; rename it") from None
        # Ingested files are known by their path, and a run may be resumed from another working directory.
        return tuple(dict.fromkeys(path.expanduser().resolve() for path in value))

    @field_validator("start", "end", mode="before")
    @classmethod
    def _seconds(cls, value: Any) -> Any:
        return parse_moment(value.strip()) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _runs_forward(self) -> RunSpec:
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise InvalidRequest("end must be later than start; the range is half-open, so end itself is excluded")
        return self

    @property
    def names_intervals(self) -> bool:
        """Whether intervals are named; naming all ten is not the same as naming none."""
        return "intervals" in self.model_fields_set

    def selecting(self, **instead: Any) -> RunSpec:
        """Return a spec with only the tier, pairs, intervals and time of this one; values given here replace them."""
        given = {name: getattr(self, name) for name in _SELECTION if name in self.model_fields_set}
        return RunSpec(**{**given, **instead})

    @property
    def selects_all_time(self) -> bool:
        """Whether no part of a file is excluded by its time."""
        return self.start is None and self.end is None

    @property
    def window(self) -> Span:
        """The time that a run is limited to; unlimited where no limit is set."""
        return Span(ALWAYS.start if self.start is None else self.start, ALWAYS.end if self.end is None else self.end)

    def selects(self, pair: Pair, tiers: TierTable) -> bool:
        """Return whether a pair is selected."""
        return (not self.pairs or pair.name in self.pairs) and self.tier.covers(tiers.tier_of(pair))

    def require_tier(self, tiers: TierTable) -> None:
        """Reject named pairs that are not in the selected tier.

        Raises:
            InvalidRequest: A pair is in another tier; the message names it.
        """
        for name in self.pairs:
            tier = tiers.tier_of(parse_pair(name))
            if not self.tier.covers(tier):
                raise InvalidRequest(f"{name} is in {tier}, not in {self.tier}; leave the tier out, or name {tier}")

    def as_config(self) -> dict[str, Any]:
        """Return the spec as plain values without defaults; `run_spec` restores it."""
        named = {"intervals": [interval.value for interval in self.intervals]} if self.names_intervals else {}
        return self.model_dump(mode="json", exclude_defaults=True) | named

    def as_command(self, command: str) -> str:
        """Return the command line that runs a command of `kraken-pipeline` on what this spec selects.

        Args:
            command: The command, such as `backfill`; options that it does not have are left out.
        """
        return shlex.join(["kraken-pipeline", command, *self._options(command)])

    def _options(self, command: str) -> Iterator[str]:
        for name in _OPTIONS.get(command, _SELECTION):
            value = getattr(self, name)
            is_default = value == type(self).model_fields[name].default
            is_given = self.names_intervals if name == "intervals" else not is_default
            if is_given:
                yield from _words(name, value)


def run_spec(values: Mapping[str, Any] | None = None, /, **more: Any) -> RunSpec:
    """Return the spec of a run from plain values; None counts as not given.

    Raises:
        InvalidRequest: A value is wrong; the message says which, and what is allowed.
    """
    given = {name: value for name, value in {**(values or {}), **more}.items() if value is not None}
    try:
        return RunSpec(**given)
    except ValidationError as error:
        problems = []
        for detail in error.errors(include_url=False):
            where = ".".join(str(part) for part in detail["loc"])
            if detail["type"] == "extra_forbidden":
                problems.append(f"{where}: there is no such option; the options are {', '.join(RunSpec.model_fields)}")
            else:
                problems.append(f"{where}={detail.get('input')!r}: {detail['msg'].removeprefix('Value error, ')}")
        raise InvalidRequest("; ".join(problems)) from None


def _words(name: str, value: Any) -> list[str]:
    """Return the words of the command line for one option that is not at its default."""
    option = "--" + {"max_gaps_per_asset": "max-gaps"}.get(name, name.replace("_", "-"))
    if name == "archive_dirs":
        return [word for path in value for word in ("--archive-dir", str(path))]
    if isinstance(value, bool):
        return [option if value else option.replace("--", "--no-", 1)]
    if isinstance(value, tuple):
        return [option, ",".join(str(item.value if isinstance(item, Interval) else item) for item in value)]
    if name in ("start", "end"):
        return [option, iso(value).removesuffix("T00:00:00Z")]
    return [option, str(value)]


def _listed(value: Any) -> list[Any]:
    if isinstance(value, str):
        if not (parts := [part.strip() for part in value.split(",") if part.strip()]):
            raise InvalidRequest(f"{value!r} names nothing; to select all, leave the option out")
        return parts
    return list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]
