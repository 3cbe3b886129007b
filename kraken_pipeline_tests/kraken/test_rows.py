from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
from collections.abc import Sequence

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.coverage.ranges import Span, Spans
from kraken_pipeline.errors import UnreadableArchive
from kraken_pipeline.kraken import rows
from kraken_pipeline.kraken.rows import (
    Block,
    Facts,
    Format,
    Reject,
    StreamDigest,
    Unanswered,
    line_blocks,
    parse_block,
    require_rows,
)
from kraken_pipeline.market.interval import Interval
from kraken_pipeline_tests.kraken.reading import damaged
from kraken_pipeline_tests.support.samples import at

T = at("2024-01-01")
HOUR = 3600


def blocks_of(data: bytes, block_bytes: int) -> tuple[list[bytes], StreamDigest]:
    digest = StreamDigest()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "BLOCK_BYTES", block_bytes)
        return list(line_blocks(io.BytesIO(data), digest)), digest


@given(st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\r\n", b"\n\n", b"\x00"]), max_size=30), st.integers(1, 20))
def test_blocks_are_whole_lines_and_together_the_file(pieces: list[bytes], block_bytes: int) -> None:
    data = b"".join(pieces)
    blocks, digest = blocks_of(data, block_bytes)
    assert all(block.endswith(b"\n") for block in blocks)
    assert b"".join(blocks) == (data if not data or data.endswith(b"\n") else data + b"\n")
    assert digest.hexdigest() == hashlib.sha256(data).hexdigest()
    assert digest.size == len(data)


def test_a_line_longer_than_a_block_stays_one_line() -> None:
    data = b"x" * 1_000 + b"\n" + b"y" * 1_000
    assert blocks_of(data, 64)[0] == [b"x" * 1_000 + b"\n", b"y" * 1_000 + b"\n"]


def test_a_byte_order_mark_is_no_part_of_the_first_line_but_of_the_sum() -> None:
    data = b"\xef\xbb\xbfa\nb\n"
    blocks, digest = blocks_of(data, 64)
    assert blocks == [b"a\nb\n"]
    assert digest.hexdigest() == hashlib.sha256(data).hexdigest()


def test_a_stream_is_not_read_on_after_it_was_given_up() -> None:
    stream = io.BytesIO(b"a\n" * 100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "BLOCK_BYTES", 10)
        with contextlib.closing(line_blocks(stream, StreamDigest())) as blocks:
            next(blocks)
        at_most = stream.tell()
        stream.close()
    assert at_most <= 20


# --- parsing

FORM = Format(
    {"time": pl.Int64(), "price": pl.Float64(), "side": pl.String(), "id": pl.Int64()},
    {
        "price is not positive": pl.col("price") <= 0,
        "time is before 2011": pl.col("time") < at("2011-01-01"),
    },
    frozenset({"time is before 2011"}),
    lambda rows: bool((rows["price"] > 0).all() and (rows["time"] >= at("2011-01-01")).all()),
)


def parsed(data: bytes, first_line: int = 1) -> Block:
    (block,) = parse_block(data, first_line, FORM)
    return block


def test_a_well_formed_block_has_numbered_rows_and_no_rejects() -> None:
    block = parsed(f"{T},1.5,b,7\n{T},2,,8\n".encode(), first_line=10)
    assert block.rejects == ()
    assert block.rows.rows() == [(T, 1.5, "b", 7, 10), (T, 2.0, None, 8, 11)]


def test_one_bad_line_leaves_the_others_as_they_are() -> None:
    block = parsed(f"{T},1.5,b,7\n{T},x,b,8\n{T},2,s,9\n".encode(), first_line=10)
    assert block.rows.rows() == [(T, 1.5, "b", 7, 10), (T, 2.0, "s", 9, 12)]
    assert block.rejects == (Reject(11, f"{T},x,b,8", "price is not a number", T),)


def reject(line: str | bytes) -> Reject:
    (found,) = parsed(line if isinstance(line, bytes) else line.encode()).rejects
    return found


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("\n", "the line is empty"),
        (" \t\n", "the line is empty"),
        ("\r\n", "the line is empty"),
        ("x\n", "the line does not have 4 fields"),
        (f"{T},1\n", "the line does not have 4 fields"),
        (f"{T},1,b,7,\n", "the line does not have 4 fields"),
        ("x,1,b,7\n", "time is not a number"),
        (",1,b,7\n", "time is not a number"),
        (f"{T}.5,1,b,7\n", "time is not a number"),
        (f'"{T}",1,b,7\n', "time is not a number"),
        (f"{T},,b,7\n", "price is not a number"),
        (f"{T},1,b,\n", "id is not a number"),
        (f"{T},0,b,7\n", "price is not positive"),
        ("5,1,b,7\n", "time is before 2011"),
    ],
)
def test_a_bad_line_says_what_is_wrong_with_it(line: str, reason: str) -> None:
    assert reject(line).reason == reason


@pytest.mark.parametrize(
    ("line", "time"),
    [
        (f"{T},x,b,7\n", T),
        (f"{T},1\n", T),
        (f"{T}.0,-1,b,7\n", T),
        (f" {T} ,-1,b,7\n", T),
        ("x,1,b,7\n", None),
        ("5,-1,b,7\n", None),
        ("5\n", None),
        (f"{T},1,b,7{T},1,b,7\n", None),
        (f"{T},1,b,\x00\x00\x007\n", None),
        ("99999999999999999999,1,b,7\n", None),
    ],
)
def test_the_time_of_a_bad_line_counts_where_it_can_be_read_and_believed(line: str, time: int | None) -> None:
    assert reject(line).time == time


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"\xff\xfe,1\n", "\\xff\\xfe,1"),
        ("½,1\n".encode(), "½,1"),
        (b"a,b\r\n", "a,b"),
        (b"x" * 2_000 + b"\n", "x" * 500),
    ],
)
def test_the_text_of_a_bad_line_is_kept_as_well_as_it_can_be(line: bytes, text: str) -> None:
    assert reject(line).text == text


@pytest.mark.parametrize("time", [f"{T}", f"{T}.0", f"{T}.", f"+{T}", f" {T}", f"{T / 1e9:.9f}e9"])
def test_a_whole_number_can_be_written_in_many_ways(time: str) -> None:
    assert parsed(f"{time},1e-5,b,7.0\r\n".encode()).rows.rows() == [(T, 1e-5, "b", 7, 1)]


LINES = st.lists(
    st.sampled_from(
        [
            f"{T},1.5,b,7\n",
            f"{T + HOUR},3.811e-05,,8\n",
            f"{T}.0,2,s,9\n",
            "5,1,b,7\n",
            f"{T},1\n",
            "\n",
            f"{T},-1,b,7\r\n",
        ]
    ).map(str.encode),
    max_size=8,
)


@given(damaged(LINES.map(b"".join)))
def test_a_line_means_the_same_alone_and_among_others(data: bytes) -> None:
    lines = [line + b"\n" for line in (data + b"\n").split(b"\n")[:-1]]
    whole = parsed(b"".join(lines))
    alone = [parsed(line, number) for number, line in enumerate(lines, 1)]
    assert whole.rejects == tuple(reject for block in alone for reject in block.rejects)
    numbers = [name for name in whole.rows.columns if name != "side"]
    assert whole.rows[numbers].rows() == [row for block in alone for row in block.rows[numbers].rows()]
    assert whole.rows.height + len(whole.rejects) == len(lines)


# --- what is not answered for

Line = int | tuple[int] | None
"""A good row's time, a bad row's time, or a bad row without one."""


def block_of(lines: Sequence[Line], first_line: int) -> Block:
    good = [(time, line) for line, time in enumerate(lines, first_line) if isinstance(time, int)]
    bad = [
        Reject(line, "", "", None if time is None else time[0])
        for line, time in enumerate(lines, first_line)
        if not isinstance(time, int)
    ]
    return Block(pl.DataFrame(good, schema={"time": pl.Int64(), "line": pl.UInt32()}, orient="row"), tuple(bad))


def unanswered(*blocks: Sequence[Line], neighbours_too: bool = False) -> Spans:
    found = Unanswered(Interval.H1, neighbours_too=neighbours_too)
    line = 1
    for lines in blocks:
        found.collect(block_of(lines, line))
        line += len(lines)
    return found.spans()


FOREVER = 1 << 40


def test_a_file_without_bad_rows_answers_for_everything() -> None:
    assert unanswered([T, T + HOUR]) == ()
    assert unanswered() == ()


def test_a_bad_row_takes_its_own_candle_out() -> None:
    assert unanswered([T, (T + 2 * HOUR,), T + 9 * HOUR]) == (Span(T + 2 * HOUR, T + 3 * HOUR),)
    assert unanswered([T, (T + 2 * HOUR + 17,), T + 9 * HOUR]) == (Span(T + 2 * HOUR, T + 3 * HOUR),)


def test_a_row_without_a_time_takes_out_everything_between_its_neighbours() -> None:
    assert unanswered([T, None, T + 9 * HOUR]) == (Span(T + HOUR, T + 9 * HOUR),)
    assert unanswered([T, None, T + 9 * HOUR], neighbours_too=True) == (Span(T, T + 10 * HOUR),)


def test_between_candles_that_follow_each_other_there_is_no_room_for_another() -> None:
    assert unanswered([T, None, T + HOUR]) == ()
    assert unanswered([T, None, T + HOUR], neighbours_too=True) == (Span(T, T + 2 * HOUR),)


def test_before_the_first_row_everything_is_open() -> None:
    assert unanswered([None, T]) == (Span(0, T),)
    assert unanswered([None, T], neighbours_too=True) == (Span(0, T + HOUR),)


def test_after_the_last_row_everything_is_open() -> None:
    ((last),) = unanswered([T, None])
    assert last.start == T + HOUR
    assert last.end > 1 << 39
    ((last),) = unanswered([T, None], neighbours_too=True)
    assert last.start == T


def test_a_file_without_a_good_row_answers_for_nothing() -> None:
    ((everything),) = unanswered([None])
    assert everything.start == 0
    assert everything.end > 1 << 39


def test_neighbours_may_stand_in_other_blocks() -> None:
    apart = unanswered([T], [None], [None, None], [T + 9 * HOUR])
    assert apart == unanswered([T, None, None, None, T + 9 * HOUR]) == (Span(T + HOUR, T + 9 * HOUR),)


def test_a_moment_can_be_taken_out_by_itself() -> None:
    found = Unanswered(Interval.H1, neighbours_too=False)
    found.add(T + 5)
    found.add(T + HOUR)
    assert found.spans() == (Span(T, T + 2 * HOUR),)


TIMES = st.integers(0, 30).map(lambda hours: T + hours * HOUR)
FILE = st.lists(TIMES | TIMES.map(lambda time: (time,)) | st.none(), max_size=12)


@given(FILE, st.lists(st.integers(0, 12), max_size=4), st.booleans())
def test_how_a_file_is_cut_into_blocks_does_not_matter(file: list[Line], cuts: list[int], neighbours_too: bool) -> None:
    edges = [0, *sorted(cuts), len(file)]
    blocks = [file[start:end] for start, end in itertools.pairwise(edges)]
    assert unanswered(*blocks, neighbours_too=neighbours_too) == unanswered(file, neighbours_too=neighbours_too)


def test_a_file_with_nothing_good_is_unreadable() -> None:
    with pytest.raises(UnreadableArchive, match="the file is empty; download it again"):
        require_rows(Facts(), "candle")
    with pytest.raises(UnreadableArchive, match="none of its 3 lines is a trade; see its dead letters"):
        require_rows(Facts(lines=3), "trade")
    require_rows(Facts(lines=3, rows=1), "candle")
