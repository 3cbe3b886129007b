"""Kept trades and what they claim: in a claimed span, the trades of its sources are all there, and nothing else is.

Where several sources answer for the same time, the result follows from the sources alone, in whatever order they come:

- Sources with ids are kept together. A trade that several of them have is one trade, as the best of them tells it.
- A source without ids is kept where no source with ids answers, and there the best one alone. Equal trades of one
  source are separate fills, and nothing tells a repeated fill from the same fill told by another source.

The best source is one with ids, then the exchange itself, then the later release, then the file that answers for more
time, then the name.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import polars as pl

from kraken_pipeline.coverage.ranges import Span, Spans, clip, intersect, lies_in, normalise, subtract
from kraken_pipeline.market.candle import seconds_in
from kraken_pipeline.market.trade import NO_TRADES

API = "API"
"""The name of the source that is the exchange itself."""
_NAME_DIGITS = 12


@dataclass(frozen=True, slots=True)
class TradeSource:
    """A source of trades.

    Attributes:
        name: `API`, or the first twelve digits of the SHA-256 of an archive's file.
        has_ids: Whether its trades have ids.
        release: The day on which the release of the file ends, in days since the epoch; 0 for none.
        length: The time that the file answers for, in seconds; 0 for the exchange.
    """

    name: str
    has_ids: bool
    release: int = 0
    length: int = 0

    @property
    def rank(self) -> tuple[bool, bool, int, int, str]:
        """The key by which sources are ordered, the best one last."""
        return self.has_ids, self.name == API, self.release, self.length, self.name


THE_EXCHANGE = TradeSource(API, has_ids=True)


def file_source_name(sha256: str) -> str:
    """Return the name of the source that is a file."""
    return sha256[:_NAME_DIGITS]


@dataclass(frozen=True, slots=True)
class TradeClaim:
    """A claim that all trades of a span are there.

    Attributes:
        span: The span.
        sources: The sources that answered for it, the best one first; one without ids is alone.
    """

    span: Span
    sources: tuple[TradeSource, ...]


@dataclass(frozen=True)
class KeptTrades:
    """Trades with the claims that they fulfil.

    Attributes:
        trades: The trades, with the columns of `TRADE_SCHEMA`, in order of time and id; each lies in a claimed span.
        claims: The claims, in order of time, disjoint.
    """

    trades: pl.DataFrame
    claims: tuple[TradeClaim, ...]

    @cached_property
    def claimed(self) -> Spans:
        """The claimed time."""
        return claimed_by(self.claims)


NOTHING = KeptTrades(NO_TRADES, ())


def claimed_by(claims: Iterable[TradeClaim]) -> Spans:
    """Return the time that is claimed."""
    return normalise(claim.span for claim in claims)


def within(trades: pl.DataFrame, spans: Spans) -> pl.DataFrame:
    """Return the trades that were made in some spans."""
    return trades.filter(lies_in(spans, seconds_in(trades)))


def answered_by(source: TradeSource, trades: pl.DataFrame, spans: Spans) -> KeptTrades:
    """Return the trades of one source, and the claims that it makes by answering for some spans.

    Args:
        source: The source.
        trades: Its trades, with the columns of `TOLD_SCHEMA`, in its order; those outside the spans are left out.
        spans: The spans.
    """
    named = within(trades, spans).with_columns(pl.lit(source.name, pl.String).alias("source"))
    return KeptTrades(_sorted(named), tuple(TradeClaim(span, (source,)) for span in spans))


def _sorted(trades: pl.DataFrame) -> pl.DataFrame:
    """Return trades in order of time and id; those without ids keep their order within an instant."""
    return trades.sort("time", "trade_id", maintain_order=True)


# --- several accounts


def merged(accounts: Iterable[KeptTrades]) -> KeptTrades:
    """Return what is kept of several accounts; their order does not matter."""
    kept = NOTHING
    for account in accounts:
        kept = _merged(kept, account)
    return kept


def _merged(one: KeptTrades, other: KeptTrades) -> KeptTrades:
    if not one.claims or not other.claims:
        return one if one.claims else other
    claims: list[TradeClaim] = []
    of_one: list[Span] = []
    of_other: list[Span] = []
    for span, here, there in _pieces(one.claims, other.claims):
        chosen = _chosen({*here, *there})
        is_of_one = not chosen.isdisjoint(here)
        if is_of_one:
            of_one.append(span)
        # What a source without ids says twice is the same, and is taken once.
        if not chosen.isdisjoint(there) and not (is_of_one and chosen == {*here} & {*there}):
            of_other.append(span)
        claims.append(TradeClaim(span, _ranked(chosen)))
    parts = within(one.trades, normalise(of_one)), within(other.trades, normalise(of_other))
    trades = pl.concat(parts) if all(part.height for part in parts) else parts[0] if parts[0].height else parts[1]
    joined = _joined(claims)
    return KeptTrades(_once(trades, joined), joined)


def _chosen(sources: set[TradeSource]) -> set[TradeSource]:
    with_ids = {source for source in sources if source.has_ids}
    return with_ids or {max(sources, key=lambda source: source.rank)}


def _ranked(sources: Iterable[TradeSource]) -> tuple[TradeSource, ...]:
    return tuple(sorted(sources, key=lambda source: source.rank, reverse=True))


def _pieces(
    one: Sequence[TradeClaim], other: Sequence[TradeClaim]
) -> Iterator[tuple[Span, tuple[TradeSource, ...], tuple[TradeSource, ...]]]:
    """Yield the time that either claims, cut where a claim begins or ends, with the sources of both."""
    edges = sorted({edge for claim in (*one, *other) for edge in (claim.span.start, claim.span.end)})
    for start, end in pairwise(edges):
        here, there = _sources_at(one, start), _sources_at(other, start)
        if here or there:
            yield Span(start, end), here, there


def _sources_at(claims: Sequence[TradeClaim], time: int) -> tuple[TradeSource, ...]:
    place = bisect_right(claims, time, key=lambda claim: claim.span.start) - 1
    return claims[place].sources if place >= 0 and time in claims[place].span else ()


def _joined(claims: Iterable[TradeClaim]) -> tuple[TradeClaim, ...]:
    """Return claims, in order of time, with those joined that touch and have the same sources."""
    found: list[TradeClaim] = []
    for claim in claims:
        if found and found[-1].span.end == claim.span.start and found[-1].sources == claim.sources:
            found[-1] = TradeClaim(Span(found[-1].span.start, claim.span.end), claim.sources)
        else:
            found.append(claim)
    return tuple(found)


def _once(trades: pl.DataFrame, claims: Sequence[TradeClaim]) -> pl.DataFrame:
    """Return trades in order, those with one id once, as the best source tells them."""
    repeated = trades["trade_id"].is_duplicated() & trades["trade_id"].is_not_null()
    if not repeated.any():
        return _sorted(trades)
    ranks = {source.name: number for number, source in enumerate(reversed(_ranked(_sources(claims))))}
    best = (
        trades.filter(repeated)
        .with_columns(pl.col("source").replace_strict(ranks, return_dtype=pl.Int64).alias("_rank"))
        .sort("trade_id", "_rank", descending=[False, True], maintain_order=True)
        .unique("trade_id", keep="first", maintain_order=True)
        .drop("_rank")
    )
    return _sorted(pl.concat([trades.filter(~repeated), best]))


def _sources(claims: Iterable[TradeClaim]) -> set[TradeSource]:
    return {source for claim in claims for source in claim.sources}


# --- parts of an account


def without_sources(kept: KeptTrades, names: Iterable[str]) -> KeptTrades:
    """Return what is left of kept trades without some sources.

    A source that is worse than a withdrawn one has lost its trades to it where both had them. So only the better ones
    go on to claim; the others have to be read again.
    """
    gone = set(names)
    claims: list[TradeClaim] = []
    taken: dict[tuple[TradeSource, ...], list[Span]] = {}
    for claim in kept.claims:
        first = next((place for place, source in enumerate(claim.sources) if source.name in gone), None)
        sources = claim.sources if first is None else claim.sources[:first]
        if first is not None:
            taken.setdefault(sources, []).append(claim.span)
        if sources:
            claims.append(TradeClaim(claim.span, sources))
    if not taken:
        return kept
    changed = normalise(span for spans in taken.values() for span in spans)
    parts = [within(kept.trades, subtract(kept.claimed, changed))]
    for sources, spans in taken.items():
        left = [source.name for source in sources]
        parts.append(within(kept.trades, normalise(spans)).filter(pl.col("source").is_in(left)))
    return KeptTrades(_sorted(pl.concat(parts)), _joined(claims))


def without_spans(kept: KeptTrades, spans: Spans) -> KeptTrades:
    """Return what is left of kept trades outside some spans."""
    return limited(kept, subtract(kept.claimed, spans))


def limited(kept: KeptTrades, spans: Spans) -> KeptTrades:
    """Return the part of kept trades that lies in some spans."""
    claims = [TradeClaim(part, claim.sources) for claim in kept.claims for part in clip(spans, claim.span)]
    return KeptTrades(within(kept.trades, spans), tuple(claims))


def overlap(one: Iterable[TradeClaim], other: Iterable[TradeClaim]) -> bool:
    """Return whether two accounts claim some of the same time."""
    return bool(intersect(claimed_by(one), claimed_by(other)))


# --- as text


def claims_text(claims: Sequence[TradeClaim]) -> str:
    """Return claims as text, for a file's footer and for its record."""
    sources = _ranked(_sources(claims))
    places = {source: place for place, source in enumerate(sources)}
    return json.dumps(
        {
            "sources": [[source.name, source.has_ids, source.release, source.length] for source in sources],
            "claims": [
                [claim.span.start, claim.span.end, [places[source] for source in claim.sources]] for claim in claims
            ],
        },
        separators=(",", ":"),
    )


def parsed_claims(text: str) -> tuple[TradeClaim, ...]:
    """Return the claims that `claims_text` wrote.

    Raises:
        ValueError: The text is something else.
    """
    try:
        said = json.loads(text)
        sources = [TradeSource(*source) for source in said["sources"]]
        return tuple(
            TradeClaim(Span(start, end), tuple(sources[place] for place in places))
            for start, end, places in said["claims"]
        )
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise ValueError(f"no claims of trades: {error!r}") from error
