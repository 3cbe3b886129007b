"""Value classes for the explanation of one candle, which `explain` gathers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.coverage.routing import Leg
from kraken_pipeline.kraken.lines import Line
from kraken_pipeline.market.candle import Values
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.records.candle_records import ConflictRecord
from kraken_pipeline.storage.records.evidence_records import CoverageRecord
from kraken_pipeline.storage.records.file_records import FileRecord
from kraken_pipeline.storage.records.proof_records import ContradictionRecord, SuspicionRecord
from kraken_pipeline.storage.records.refutations import Refutation
from kraken_pipeline.storage.records.withdrawals import WithdrawalRecord
from kraken_pipeline.workflow.gaps.gaps import Gap

VALUES = ("open", "high", "low", "close", "volume", "trade_count")


class CandleState(StrEnum):
    """The state of a candle's time."""

    CANDLE = "CANDLE"
    QUIET = "QUIET"  # a source answered without a candle: nobody traded
    GAP = "GAP"  # no source has answered for it
    NOT_EXPECTED = "NOT_EXPECTED"


class ProofState(StrEnum):
    """The degree of proof of a candle or of quiet time."""

    VERIFIED = "VERIFIED"  # each value was compared with an independent account
    RECONCILED = "RECONCILED"  # no trade is missing; its own prices were not compared
    REFUTED = "REFUTED"
    CONFLICT = "CONFLICT"
    NOT_TESTED = "NOT_TESTED"


@dataclass(frozen=True, slots=True)
class CandleProof:
    """The degree of proof, with its evidence as sentences."""

    state: ProofState
    by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stored:
    """A candle as stored in the lake or the ledger.

    Attributes:
        values: Open, high, low, close, volume, trade count.
        source: A `market.candle.Source`.
        release: The day on which its release ends, in days since the epoch; 0 for none.
    """

    values: Values
    source: str
    release: int

    def as_json(self) -> dict[str, Any]:
        """Return it as `explain --json` shows it."""
        release = iso(self.release * 86_400)[:10] if self.release else None
        return {**_named(self.values), "source": self.source, "release_ends": release}


@dataclass(frozen=True, slots=True)
class Loser:
    """A candle of the ledger: its values, how it was lost, to what, and when (seconds since the epoch)."""

    candle: Stored
    lost: str
    by: str
    at: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """A source that answered for a candle, or a file that has a row of it.

    Attributes:
        source: A `market.candle.Source`.
        span: The span it answered for; None for a file that has a row but did not answer for it.
        verified_at: The time of the answer in seconds since the epoch.
        file: The file's record, if the source is a file.
        lines: The first lines of the file for this candle, if it can be read.
        count: The number of lines.
        note: The reason why there are no lines.
        request: The request to the exchange that gave the answer, or would give it.
        made_of: The interval it was resampled from, in minutes.
    """

    source: str
    span: Span | None
    verified_at: int
    file: FileRecord | None = None
    lines: tuple[Line, ...] = ()
    count: int = 0
    note: str | None = None
    request: str | None = None
    made_of: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as `explain --json` shows it."""
        return {
            "source": self.source,
            "start": None if self.span is None else iso(self.span.start),
            "end": None if self.span is None else iso(self.span.end),
            "verified_at": iso(self.verified_at),
            "file": self.file and self.file.name,
            "location": self.file and self.file.location,
            "run_id": self.file and self.file.run_id,
            "lines": [asdict(line) for line in self.lines],
            "lines_in_all": self.count,
            "note": self.note,
            "request": self.request,
            "made_of": None if self.made_of is None else int(self.made_of),
        }


@dataclass(frozen=True, slots=True)
class Explanation:
    """The explanation of one candle.

    Attributes:
        series: The series.
        span: The candle's time.
        standing: The state of that time.
        sentence: The state as a sentence.
        candle: The stored candle; None if there is none.
        coverage: The range of coverage that overlaps it; None if there is none.
        proof: The degree of proof.
        evidence: The sources that answered for it, in order of time.
        losers: Its candles in the ledger, in order of time.
        gaps: The gaps that overlap it, with their routes.
        refutations: The refutations of its time, each with its end in seconds since the epoch (None while active).
        contradictions: The present and past contradictions with other intervals.
        conflicts: The records of sources that disagree with it.
        suspicions: The suspicions about its quiet time.
        letters: The dead letters of its time.
        withdrawals: The withdrawals of its time, each with the file's name.
    """

    series: Series
    span: Span
    standing: CandleState
    sentence: str
    candle: Stored | None
    coverage: CoverageRecord | None
    proof: CandleProof
    evidence: tuple[Evidence, ...]
    losers: tuple[Loser, ...]
    gaps: tuple[Gap, ...]
    refutations: tuple[tuple[Refutation, int | None], ...]
    contradictions: tuple[ContradictionRecord, ...]
    conflicts: tuple[ConflictRecord, ...]
    suspicions: tuple[SuspicionRecord, ...]
    letters: tuple[Mapping[str, Any], ...]
    withdrawals: tuple[tuple[WithdrawalRecord, str | None], ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as `explain --json` shows it."""
        covered = self.coverage
        return {
            "pair": self.series.pair,
            "interval": self.series.interval.value,
            **_bounds(self.span),
            "standing": str(self.standing),
            "sentence": self.sentence,
            "candle": self.candle and self.candle.as_json(),
            "coverage": covered
            and {**_bounds(covered.span), "source": covered.source, "verified_at": iso(covered.verified_at)},
            "proof": {"state": str(self.proof.state), "by": list(self.proof.by)},
            "evidence": [evidence.as_json() for evidence in self.evidence],
            "replaced": [
                {"at": iso(loser.at), "lost": loser.lost, "by": loser.by, **loser.candle.as_json()}
                for loser in self.losers
            ],
            "gaps": [
                {
                    **gap.as_json(),
                    "routes": [{**_bounds(leg.span), "route": str(leg.route)} for leg in legs_over(gap, self.span)],
                }
                for gap in self.gaps
            ],
            "refutations": [
                {
                    **_bounds(refutation.span),
                    "refuted": refutation.refuted and _named(refutation.refuted),
                    "reason": refutation.reason,
                    "made_at": iso(refutation.made_at),
                    "ended_at": None if ended_at is None else iso(ended_at),
                }
                for refutation, ended_at in self.refutations
            ],
            "contradictions": [_contradiction_json(contradiction) for contradiction in self.contradictions],
            "conflicts": [
                {
                    **_bounds(conflict.span),
                    "candles": conflict.candles,
                    "reason": conflict.reason,
                    "made_at": iso(conflict.made_at),
                }
                for conflict in self.conflicts
            ],
            "suspicions": [
                {
                    **_bounds(suspicion.span),
                    "pair": suspicion.pair,
                    "reason": suspicion.reason,
                    "state": str(suspicion.state),
                    "changed_at": iso(suspicion.changed_at),
                }
                for suspicion in self.suspicions
            ],
            "dead_letters": [{**letter, "made_at": iso(letter["made_at"])} for letter in self.letters],
            "withdrawals": [
                {
                    **_bounds(withdrawal.span),
                    "file": name,
                    "candles": withdrawal.candles,
                    "reason": withdrawal.reason,
                    "made_at": iso(withdrawal.made_at),
                }
                for withdrawal, name in self.withdrawals
            ],
        }


def _bounds(span: Span) -> dict[str, str]:
    return {"start": iso(span.start), "end": iso(span.end)}


def _named(values: Values) -> dict[str, float]:
    return dict(zip(VALUES, values, strict=True))


def _contradiction_json(contradiction: ContradictionRecord) -> dict[str, Any]:
    return {
        "fine": contradiction.fine.value,
        "coarse": contradiction.coarse.value,
        **_bounds(contradiction.span),
        "short_side": contradiction.short_side,
        "culprit": None if contradiction.outlier is None else contradiction.outlier.value,
        "fine_candle": contradiction.fine_candle and _named(contradiction.fine_candle),
        "coarse_candle": contradiction.coarse_candle and _named(contradiction.coarse_candle),
        "fine_trades": contradiction.fine_trades,
        "coarse_trades": contradiction.coarse_trades,
        "state": str(contradiction.state),
        "reason": contradiction.reason,
        "made_at": iso(contradiction.made_at),
        "changed_at": iso(contradiction.changed_at),
    }


def legs_over(gap: Gap, span: Span) -> list[Leg]:
    """Return the legs of a gap that overlap a span."""
    return [leg for leg in gap.legs if leg.span.overlaps(span)]
