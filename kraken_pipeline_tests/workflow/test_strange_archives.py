"""Archives that people have, and that Kraken never made: what is stored of them, and what they are believed to say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline_tests.homes import covered, letters, run, settings_of, spans, stored
from kraken_pipeline_tests.samples import at, csv_row, write_zip

T = at("2023-05-01")
HOUR, DAY = 3_600, 86_400
NOW = at("2023-09-01")


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    with opened(settings_of(tmp_path / "home")) as found:
        yield found


def quiet(time: int, price: float = 50.0) -> str:
    return f"{time},{price},{price},{price},{price},0,0\n"


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


# --- names


@pytest.mark.parametrize(
    "name", ["Kraken_OHLCVT_incomplete.zip", "Kraken_OHLCVT_fully.zip", "Kraken_OHLCVT_2013-2023Q4.zip", "XBT.zip"]
)
def test_a_collection_answers_from_its_first_candle_to_its_last_ones_start(
    stores: Stores, tmp_path: Path, name: str
) -> None:
    write_zip(tmp_path / name, {"XBTUSD_60.csv": csv_row(T) + csv_row(T + 5 * HOUR)})
    run(stores, tmp_path / name, now=NOW, resampling=False)
    assert covered(stores, "XBTUSD", 60) == spans((T, T + 5 * HOUR))


def test_a_copy_of_a_release_answers_as_the_release(stores: Stores, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "Kraken_OHLCVT_Q2_2023 - Copy (1).zip", {"XBTUSD_60.csv": csv_row(T)})
    run(stores, path, now=NOW, resampling=False)
    assert covered(stores, "XBTUSD", 60) == spans((at("2023-04-01"), T + HOUR))


def test_a_manifest_makes_a_release_answer_for_less_and_never_for_more(stores: Stores, tmp_path: Path) -> None:
    manifest = '{"coverage": {"start": "2013-01-01", "end": "2023-05-01"}}'
    rows = csv_row(T) + csv_row(T + 30 * HOUR)
    path = write_zip(tmp_path / "Kraken_OHLCVT_2023Q2.zip", {"XBTUSD_60.csv": rows, "MANIFEST.json": manifest})
    run(stores, path, now=NOW, resampling=False)
    assert covered(stores, "XBTUSD", 60) == spans((at("2023-04-01"), T + DAY))


# --- rows without a trade


def test_a_filled_file_gives_the_candles_and_the_quiet_time_that_a_sparse_one_does(
    stores: Stores, tmp_path: Path
) -> None:
    rows = csv_row(T) + quiet(T + HOUR) + quiet(T + 2 * HOUR) + csv_row(T + 3 * HOUR) + csv_row(T + 4 * HOUR)
    before, after = quiet(T - 2 * HOUR) + quiet(T - HOUR), quiet(T + 5 * HOUR) + quiet(T + 6 * HOUR)
    done = run(stores, write(tmp_path / "XBTUSD_60.csv", before + rows + after), now=NOW, intervals="60,240")
    assert [candle[0] for candle in stored(stores, "XBTUSD", 60)] == [T, T + 3 * HOUR, T + 4 * HOUR]
    assert covered(stores, "XBTUSD", 60) == spans((T, T + 4 * HOUR))
    assert [candle[0] for candle in stored(stores, "XBTUSD", 240)] == [T]
    assert stored(stores, "XBTUSD", 240)[0][1:] == (1.5, 2.5, 0.5, 2.0, 24.5, 6)
    assert letters(stores) == []
    assert done.files["XBTUSD_60.csv"].rows == 3


def test_rows_without_a_trade_do_not_lengthen_a_release(stores: Stores, tmp_path: Path) -> None:
    path = write_zip(
        tmp_path / "Kraken_OHLCVT.zip",
        {"XBTUSD_60.csv": csv_row(T) + csv_row(T + HOUR) + "".join(quiet(T + hour * HOUR) for hour in range(2, 50))},
    )
    run(stores, path, now=NOW, resampling=False)
    assert covered(stores, "XBTUSD", 60)[-1].end == T + 2 * HOUR
