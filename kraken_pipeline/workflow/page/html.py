"""The page as HTML: its contents in the form that the template needs, with readable numbers and times.

The template escapes all values, because names of files and reasons come from outside. Only what is made here is not
escaped: pictures, and the page's own style and script.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from kraken_pipeline.coverage.completeness import Total, by_interval, by_tier, shown, total
from kraken_pipeline.coverage.months import State
from kraken_pipeline.coverage.routing import Route
from kraken_pipeline.market.candle import Values
from kraken_pipeline.market.moment import as_datetime, iso, short
from kraken_pipeline.market.tier import Tier
from kraken_pipeline.storage.catalog.states import ContradictionState, SuspicionState
from kraken_pipeline.storage.records.damage import REPAIR
from kraken_pipeline.storage.records.proof_records import ContradictionRecord
from kraken_pipeline.workflow.gaps.gaps import by_use
from kraken_pipeline.workflow.page.chart import Chart, TimeKind
from kraken_pipeline.workflow.page.contents import MOST_ROWS, Contents, HeatMap
from kraken_pipeline.workflow.page.drawing import trend_svgs
from kraken_pipeline.workflow.page.heat_map import COLOURS, NAMES, packed_cells, png_of
from kraken_pipeline.workflow.page.tables import HtmlTable, columns_of, environment, packed_rows
from kraken_pipeline.workflow.report.report import Report, reconciling
from kraken_pipeline.workflow.run_spec import RunSpec

_FOLDER = Path(__file__).parent
_DAY = 86_400
_WIDEST, _NARROWEST, _MAP_PIXELS = 34, 7, 900
_ROOMY = 40
_LABELLED = 24
"""The width in pixels from which a month has room for its number."""
_SHOWN_TREND = 30

_TIME_KINDS = {
    TimeKind.GAP: ("gap", COLOURS[State.NONE]),
    TimeKind.QUIET: (NAMES[State.QUIET], COLOURS[State.QUIET]),
    TimeKind.SUSPICIOUS: ("quiet that is hard to believe", COLOURS[State.SUSPICIOUS]),
    TimeKind.TRADED: ("traded, not reconciled", COLOURS[State.COVERED]),
    TimeKind.RECONCILED: ("traded and reconciled", COLOURS[State.RECONCILED]),
    TimeKind.VERIFIED: ("traded and verified", COLOURS[State.VERIFIED]),
}
"""The name and the colour of each kind of time under a chart; the colours are those of the map."""


def render(contents: Contents) -> str:
    """Return the page as HTML.

    Args:
        contents: The contents of the page.
    """
    from markupsafe import Markup  # noqa: PLC0415

    scripts = ["report.js", *(["chart.js"] if contents.charts else [])]
    script = "".join((_FOLDER / name).read_text(encoding="utf-8") for name in scripts)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            # The browser runs only the script with this digest.
            digest=digest,
            script=Markup(script),  # noqa: S704 - the page's own
            style=Markup((_FOLDER / "report.css").read_text(encoding="utf-8")),  # noqa: S704
            trend=[Markup(svg) for svg in trend_svgs(contents.trend)],  # noqa: S704 - drawn from numbers
            trend_summary=_trend_summary(contents),
            title=_title(contents),
            made_at=iso(contents.report.made_at),
            made_on=short(contents.report.made_at),
            selection=", ".join(f"{name} {value}" for name, value in selection(contents.spec).items()),
            headline=_headline(contents),
            unknown=contents.report.unknown,
            maps=[_map(heat_map, contents) for heat_map in contents.maps],
            years=[{"year": year, "place": place, "length": size} for year, place, size in contents.months.years],
            month_names=_month_names(contents),
            first_month=contents.months.first,
            month_count=contents.months.count,
            charts=[_chart(chart) for chart in contents.charts],
            advice=contents.report.advice,
            most=MOST_ROWS,
            conflict_tables=_conflict_tables(contents),
            source_tables=_source_tables(contents),
            tables=[_intervals(contents), _series(contents), _gaps(contents)],
            trend_table=_trend_table(contents),
        )
    )


def selection(spec: RunSpec) -> dict[str, str]:
    """Return what a report is limited to besides its tier, as people write it."""
    every = RunSpec()
    given = {
        "pairs": ",".join(spec.pairs),
        "intervals": ""
        if spec.intervals == every.intervals
        else ",".join(str(interval.value) for interval in spec.intervals),
        "start": "" if spec.start is None else short(spec.start),
        "end": "" if spec.end is None else short(spec.end),
    }
    return {name: value for name, value in given.items() if value}


def _title(contents: Contents) -> str:
    tier = contents.report.tier
    return "Completeness of all pairs" if tier is Tier.ALL else f"Completeness of {tier}"


def _moment(seconds: int | None) -> str:
    return "" if seconds is None else short(seconds)


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 90:
        return f"about {max(1, round(minutes))} min"
    return f"about {minutes / 60:.1f} h" if minutes < 48 * 60 else f"about {minutes / 1440:.0f} days"


def _headline(contents: Contents) -> list[tuple[str, str, str]]:
    """Return the headline numbers: the name, the value, and a short explanation of each."""
    report, overall = contents.report, contents.report.overall
    requests = report.requests
    suspicious = sum(suspicion.state is SuspicionState.UNPROVEN for suspicion in contents.suspicions)
    return [
        ("complete", shown(report.percent), "a source answered for it"),
        (
            "reconciled",
            shown(report.proven_percent),
            "no trade of it is missing: another interval, or the ids of trades, add up to the same count",
        ),
        ("verified", shown(report.verified_percent), "of these, each value was compared"),
        *([("counted", f"{report.counted:,}", "trades by ids and by candles")] if report.counted else []),
        ("pairs", f"{overall.pairs:,}", ""),
        ("series", f"{overall.series:,}", "a pair at an interval"),
        ("candles", f"{overall.candles:,}", ""),
        ("quiet", f"{overall.quiet:,}", "candles without a trade"),
        ("gaps", f"{overall.gaps:,}", _unrouted(report) if overall.gaps else ""),
        ("conflicts", f"{report.conflict_count:,}", "no source is left to try"),
        ("suspicious", f"{suspicious:,}", "ranges of quiet time that are hard to believe"),
        ("damaged", f"{len(contents.damages):,}", f"files: {REPAIR}" if contents.damages else "files"),
        ("requests to make", f"{requests:,}", _duration(requests / contents.api_rate) if requests else ""),
    ]


def _unrouted(report: Report) -> str:
    """Say how many gaps have no route; the map shows those that have none in part as well."""
    whole = report.overall.unfillable
    touched = sum(any(leg.route is Route.NONE for leg in gap.legs) for gap in report.gaps)
    return f"{whole:,} without a route" + (f", {touched - whole:,} more in part" if touched > whole else "")


def _map(drawn: HeatMap, contents: Contents) -> dict[str, Any]:
    """Return the values that the template needs for a heat map."""
    states = drawn.states
    counts = np.bincount(states.ravel(), minlength=len(State)).tolist()
    months = contents.months.count
    legend = [
        {"state": int(state), "name": NAMES[state], "colour": COLOURS.get(state, ""), "count": counts[state]}
        for state in State
    ]
    said = ", ".join(f"{entry['count']:,} {entry['name']}" for entry in legend if entry["count"])
    tiers = [tier for _, tier in drawn.pairs]
    begins = [index == 0 or tier != tiers[index - 1] for index, tier in enumerate(tiers)]
    return {
        "interval": drawn.interval.value,
        "name": _length(drawn.interval.value),
        "pairs": [
            # Only the first pair of a tier names it, because a page can have 10,000 of them.
            {"name": pair, "tier": str(tier) if is_first else "", "begins": is_first and index > 0}
            for index, ((pair, tier), is_first) in enumerate(zip(drawn.pairs, begins, strict=True))
        ],
        "png": base64.b64encode(png_of(states)).decode(),
        "cells": packed_cells(drawn),
        "legend": legend,
        "alt": f"{len(drawn.pairs)} pairs by {months} months: {said}",
        "cell": (cell := max(_NARROWEST, min(_WIDEST, _MAP_PIXELS // months))),
        "is_labelled": cell >= _LABELLED,
        "row": 20 if len(drawn.pairs) <= _ROOMY else 14,
    }


def _chart(chart: Chart) -> dict[str, Any]:
    """Return the values that the template needs for a chart."""
    return {
        "title": f"{chart.pair}, {_length(chart.bars.minutes)}",
        "sentence": chart.sentence(),
        "numbers": chart.packed(),
        "legend": [
            {"name": name, "colour": colour, "count": count}
            for (name, colour), count in zip(_TIME_KINDS.values(), chart.counts, strict=True)
        ],
    }


def _month_names(contents: Contents) -> list[str]:
    first = contents.months.first
    return [f"{(first + place) % 12 + 1:02}" for place in range(contents.months.count)]


def _length(minutes: int) -> str:
    for size, unit in ((10_080, "week"), (1_440, "day"), (60, "hour"), (1, "minute")):
        if minutes % size == 0:
            count = minutes // size
            return f"{count} {unit}{'s' if count > 1 else ''}"
    raise AssertionError(minutes)


# --- tables


_TOTAL = (
    ">complete",
    ">reconciled",
    ">verified",
    ">pairs",
    ">expected",
    ">covered",
    ">candles",
    ">quiet",
    ">gaps",
    ">unfillable",
    ">conflicts",
)


def _intervals(contents: Contents) -> HtmlTable:
    series = contents.report.series
    rows = [
        [str(tier), str(interval.value), *_totalled(total)]
        for tier, intervals in by_tier(series).items()
        for interval, total in intervals.items()
    ]
    whole = by_interval(series)
    if len(by_tier(series)) > 1:
        rows += [["all", str(interval.value), *_totalled(total)] for interval, total in whole.items()]
    if len(whole) > 1:
        rows.append(["all", "all", *_totalled(total(series))])
    columns = columns_of("tier", ">interval", *_TOTAL)
    note = "Percent of the candles of the expected time; the numbers above count each series alike."
    return HtmlTable("intervals", "By tier and interval (minutes)", columns, rows, is_open=True, note=note)


def _totalled(total: Total) -> list[str]:
    numbers = (
        total.pairs,
        total.expected,
        total.covered,
        total.candles,
        total.quiet,
        total.gaps,
        total.unfillable,
        total.conflicts,
    )
    percents = (total.percent, total.proven_percent, total.verified_percent)
    return [*map(shown, percents), *(f"{number:,}" for number in numbers)]


def _series(contents: Contents) -> HtmlTable:
    rows = [
        [
            str(completeness.series),
            str(completeness.tier),
            shown(completeness.percent),
            shown(completeness.proven_percent),
            shown(completeness.verified_percent),
            f"{completeness.expected:,}",
            f"{completeness.covered:,}",
            f"{completeness.candles:,}",
            f"{completeness.quiet:,}",
            f"{completeness.gaps:,}",
            f"{completeness.conflicts:,}",
            completeness.action,
        ]
        for completeness in sorted(
            contents.report.series,
            key=lambda series_completeness: (series_completeness.tier, series_completeness.series),
        )
    ]
    columns = columns_of(
        "series",
        "tier",
        ">complete",
        ">reconciled",
        ">verified",
        ">expected",
        ">covered",
        ">candles",
        ">quiet",
        ">gaps",
        ">conflicts",
        "~to do",
    )
    further = rows[MOST_ROWS:]
    return HtmlTable(
        "series",
        "By series (pair and minutes)",
        columns,
        rows[:MOST_ROWS],
        packed=packed_rows(columns, further) if further else "",
        more=len(further),
    )


def _gaps(contents: Contents) -> HtmlTable:
    gaps = contents.report.gaps
    rows = [
        [
            str(gap.series),
            short(gap.span.start),
            short(gap.span.end),
            f"{gap.missing_candles:,}",
            ", ".join(dict.fromkeys(str(leg.route) for leg in gap.legs)),
            f"{sum(leg.requests for leg in gap.legs):,}",
            str(gap.status),
            f"{gap.attempts:,}",
            ", ".join((gap.required_csv_file or "").split(",")),
        ]
        for gap in by_use(gaps)[:MOST_ROWS]
    ]
    columns = columns_of(
        "series", "from", "to", ">missing", "route", ">requests", "status", ">tries", "~archive with it"
    )
    note = _more(len(gaps), contents.spec.as_command("gaps"))
    return HtmlTable("gaps", "Gaps, the longest first, those without a route last", columns, rows, note=note)


def _more(count: int, command: str) -> str:
    return f"{count - MOST_ROWS:,} more: {command}" if count > MOST_ROWS else ""


def _trend_summary(contents: Contents) -> str:
    if not contents.trend:
        return ""
    first, last = contents.trend[0], contents.trend[-1]
    if first is last:
        return "This is the first report on these series. Later ones are compared with it."
    percents = (("completeness", "completeness_pct"), ("reconciled", "proven_pct"), ("verified", "verified_pct"))
    went = (f"{name} from {shown(first.numbers.get(key))} to {shown(last.numbers.get(key))}" for name, key in percents)
    return f"{len(contents.trend):,} reports since {short(first.made_at)}: {', '.join(went)}."


def _trend_table(contents: Contents) -> HtmlTable:
    rows = [
        [
            as_datetime(report.made_at).strftime("%Y-%m-%d %H:%M"),
            shown(report.numbers["completeness_pct"]),
            shown(report.numbers["proven_pct"]),
            shown(report.numbers.get("verified_pct")),
            *(f"{report.numbers[name]:,}" for name in ("candles", "gaps", "conflicts")),
        ]
        for report in reversed(contents.trend[-_SHOWN_TREND:])
    ]
    columns = columns_of("made at (UTC)", ">complete", ">reconciled", ">verified", ">candles", ">gaps", ">conflicts")
    return HtmlTable("reports", "The last reports", columns, rows)


def _conflict_tables(contents: Contents) -> list[HtmlTable]:
    ordered = sorted(
        contents.report.contradictions, key=lambda contradiction: contradiction.state is not ContradictionState.CONFLICT
    )
    command = reconciling(contents.spec, ordered)
    contradictions = HtmlTable(
        "contradictions",
        "Intervals that contradict each other",
        columns_of(
            "pair",
            ">finer",
            ">coarser",
            "from",
            "to",
            "state",
            "~what is wrong",
            "~finer candle",
            "~coarser candle",
        ),
        [_contradiction(contradiction) for contradiction in ordered[:MOST_ROWS]],
        is_open=True,
        note=_more(len(ordered), command) or f"What to do about each contradiction: {command}",
    )
    disagreements = HtmlTable(
        "disagreements",
        "Sources that count other trades than the kept candles",
        columns_of("series", "from", "to", ">candles", "~its difference", "source", "found"),
        [
            [
                str(disagreement.series),
                short(disagreement.span.start),
                short(disagreement.span.end),
                f"{disagreement.candles:,}",
                disagreement.reason,
                disagreement.file or "a reply of the exchange",
                short(disagreement.made_at),
            ]
            for disagreement in contents.disagreements
        ],
        note=_more(contents.disagreement_count, "the catalog's table conflicts"),
    )
    suspicions = HtmlTable(
        "suspicions",
        "Quiet time that is hard to believe",
        columns_of("pair", ">interval", "from", "to", "state", "~why"),
        [
            [
                suspicion.pair or "all pairs",
                str(suspicion.interval.value),
                short(suspicion.span.start),
                short(suspicion.span.end),
                str(suspicion.state).replace("_", " ").lower(),
                suspicion.reason,
            ]
            for suspicion in contents.suspicions[-MOST_ROWS:]
        ],
        note=_more(len(contents.suspicions), "the catalog's table suspicions"),
    )
    damages = HtmlTable(
        "damages",
        "Damaged files",
        columns_of("file", ">candles", "~what is wrong", "~what to do"),
        [
            [damage.path, f"{damage.candles:,}", f"It {damage.detail}.", damage.action]
            for damage in contents.damages[:MOST_ROWS]
        ],
        is_open=True,
        note=_more(len(contents.damages), "kraken-pipeline verify"),
    )
    return [contradictions, disagreements, suspicions, damages]


def _contradiction(contradiction: ContradictionRecord) -> list[str]:
    return [
        contradiction.pair,
        str(contradiction.fine.value),
        str(contradiction.coarse.value),
        short(contradiction.span.start),
        short(contradiction.span.end),
        "conflict" if contradiction.state is ContradictionState.CONFLICT else "being filled",
        contradiction.reason,
        _candle(contradiction.fine_candle, contradiction.fine_trades),
        _candle(contradiction.coarse_candle, contradiction.coarse_trades),
    ]


def _candle(values: Values | None, trades: int) -> str:
    if values is None:
        return f"no candle, {trades:,} trades" if trades else "no candle"
    opened, high, low, close, volume, counted = values
    return f"{opened:g} {high:g} {low:g} {close:g}, volume {volume:g}, {counted:,} trades"


def _source_tables(contents: Contents) -> list[HtmlTable]:
    archives = HtmlTable(
        "archives",
        "Archives and loose files",
        columns_of(
            "file", "kind", ">files", ">ingested", ">failed", ">rows", ">rejected", "first candle", "last candle"
        ),
        [
            [
                archive.name,
                archive.kind or "cannot be opened",
                *(
                    f"{n:,}"
                    for n in (archive.files, archive.completed, archive.failed, archive.rows, archive.rows_rejected)
                ),
                _moment(archive.first),
                _moment(archive.last),
            ]
            for archive in contents.archives[:MOST_ROWS]
        ],
        is_open=len(contents.archives) <= _ROOMY,
        note=_more(len(contents.archives), "the catalog's table files"),
    )
    answered = HtmlTable(
        "answered",
        "Coverage by source",
        columns_of("source", ">interval", ">series", ">days of all series", ">trades counted", "last answer"),
        [
            [
                account.source,
                str(account.interval.value),
                f"{account.series:,}",
                f"{account.seconds / _DAY:,.0f}",
                f"{account.trades:,}",
                short(account.verified_at),
            ]
            for account in contents.answered
        ],
        is_open=True,
        note="Time that two sources covered counts for both.",
    )
    return [archives, answered]
