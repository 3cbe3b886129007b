"""A page of the report taken apart, and reports to make pages of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

import sqlalchemy as sa

from kraken_pipeline.coverage.months import Months, breakdown
from kraken_pipeline.coverage.proof import Proven
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.coverage.routing import Route
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.tier import Tier
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.records import proof_records
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.page.contents import Contents, HeatMap
from kraken_pipeline.workflow.report.report import Report
from kraken_pipeline.workflow.run_spec import run_spec

YEAR = Months(2024 * 12, 12)


@dataclass(slots=True)
class Element:
    """A part of a page."""

    tag: str
    attributes: dict[str, str | None]
    parts: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """What stands in it, with single spaces."""
        return " ".join("".join(self._texts()).split())

    def _texts(self) -> Iterator[str]:
        for part in self.parts:
            if isinstance(part, str):
                yield part
            else:
                yield from part._texts()

    def walk(self) -> Iterator[Element]:
        """It, and every element in it, in their order."""
        yield self
        for part in self.parts:
            if isinstance(part, Element):
                yield from part.walk()

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """The elements of a kind."""
        return [each for each in self.walk() if each.tag == tag and attributes.items() <= {**each.attributes}.items()]

    def table(self, name: str) -> list[dict[str, str]]:
        """The rows of a table of the page, by the heads of its columns."""
        (found,) = self.all("details", id=f"table-{name}")
        heads = [each.text for each in found.all("th", scope="col")]
        rows = [[part for part in row.parts if isinstance(part, Element)] for row in found.all("tr")]
        return [dict(zip(heads, [cell.text for cell in row], strict=True)) for row in rows[1:]]

    @property
    def headline(self) -> dict[str, str]:
        """The headline numbers, without the words on them."""
        names = [each.text for each in self.all("dt")]
        values = ["".join(part for part in each.parts if isinstance(part, str)).strip() for each in self.all("dd")]
        return dict(zip(names, values, strict=True))


class _Parser(HTMLParser):
    _VOID = frozenset({"meta", "link", "img", "input", "path", "use", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("page", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        made = Element(tag, dict(attrs))
        self.open[-1].parts.append(made)
        if tag not in self._VOID:
            self.open.append(made)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].parts.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self._VOID:
            assert self.open.pop().tag == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.open[-1].parts.append(data)


def parsed(html: str) -> Element:
    """A page, of which every element must be closed."""
    parser = _Parser()
    parser.feed(html)
    parser.close()
    (page,) = parser.open
    return page


def small_map(interval: Interval = Interval.D1) -> HeatMap:
    """Two pairs over a year: one that is all covered and half proven, and one that begins late and has gaps."""
    edges = YEAR.edges.tolist()
    whole, late = (Span(edges[0], edges[12]),), (Span(edges[6], edges[12]),)
    legs = {Route.TRADES: (Span(edges[8], edges[9]),), Route.NONE: (Span(edges[10], edges[11]),)}
    kept = (Span(edges[6], edges[8]), Span(edges[9], edges[10]), Span(edges[11], edges[12]))
    full = breakdown(
        interval,
        YEAR,
        expected=whole,
        covered=whole,
        proven=Proven((Span(edges[0], edges[6]),), (Span(edges[0], edges[2]),)),
        legs={},
        conflicts=[Span(edges[7], edges[7] + 86_400)],
        candles={2024: [28] * 11 + [0]},
        suspicious=(Span(edges[9] + 86_400, edges[9] + 3 * 86_400),),
    )
    holed = breakdown(
        interval, YEAR, expected=late, covered=kept, proven=Proven(), legs=legs, conflicts=[], candles=None
    )
    return HeatMap(interval, (("XBTUSD", Tier.TIER1), ("ZORKUSD", Tier.TIER4)), (full, holed))


def contents_of(report: Report, **more: object) -> Contents:
    """The contents of a page that has this report and little else."""
    nothing: dict[str, object] = {
        "spec": run_spec(),
        "months": YEAR,
        "maps": (small_map(),),
        "trend": (),
        "disagreements": (),
        "disagreement_count": 0,
        "suspicions": (),
        "damages": (),
        "archives": (),
        "answered": (),
        "api_rate": 1.0,
    }
    return Contents(report=report, **{**nothing, **more})  # type: ignore[arg-type]


def contradict(
    stores: Stores,
    pair: str,
    start: int,
    *,
    end: int | None = None,
    state: str = "CONFLICT",
    reason: str = "they differ",
) -> None:
    """Puts on record that hours and a day of a pair contradict each other: the hours have no candle."""
    with stores.catalog.write() as connection:
        connection.execute(
            sa.insert(schema.contradictions).values(
                pair=pair,
                fine=60,
                coarse=1440,
                start=start,
                end=start + 86_400 if end is None else end,
                short_side="fine",
                fine_candle=None,
                coarse_candle=[1.5, 2.0, 1.0, 2.0, 3.0, 4],
                fine_trades=0,
                coarse_trades=4,
                state=state,
                reason=reason,
                made_at=start,
                changed_at=start,
            )
        )


def count_candles(stores: Stores) -> None:
    """Counts the lake's candles by month, as reconciliation does."""
    with stores.catalog.write() as connection:
        for series in stores.lake.series():
            years: dict[int, list[int]] = {}
            for time in stores.lake.read(series)["time"]:
                years.setdefault(time.year, [0] * 12)[time.month - 1] += 1
            proof_records.keep_counts(connection, {series: years})
