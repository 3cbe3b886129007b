"""Archives that people have, and that Kraken never made: what is stored of them, and what they are believed to say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kraken_pipeline.orchestration.sensors import evaluate
from kraken_pipeline.storage.records import file_records
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.ingest.whereabouts import find_again
from kraken_pipeline_tests.support.homes import covered, letters, run, settings_of, spans, stored
from kraken_pipeline_tests.support.samples import at, csv_row, write_zip
from kraken_pipeline_tests.support.shell import shell

pytestmark = pytest.mark.slow

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


def test_a_name_in_small_letters_is_the_pair_in_capitals(stores: Stores, tmp_path: Path) -> None:
    run(stores, write(tmp_path / "adausd_60.csv", csv_row(T) + csv_row(T + HOUR)), now=NOW, resampling=False)
    assert len(stored(stores, "ADAUSD", 60)) == 2


def test_a_file_of_no_known_pair_is_passed_over_unless_it_is_asked_for(stores: Stores, tmp_path: Path) -> None:
    for name in ("prices_60.csv", "README_15.csv", "AAPLxUSD_60.csv"):
        write(tmp_path / "some" / name, csv_row(T) + csv_row(T + HOUR))
    done = run(stores, tmp_path / "some", now=NOW, resampling=False)
    assert {each.name: each.reason for each in done.scanned.skipped} == {
        name: f"no pair {pair} is known, and its name ends with no known currency; if it is one of Kraken's: "
        "--accept-unknown-pairs"
        for name, pair in (("prices_60.csv", "PRICES"), ("README_15.csv", "README"))
    }
    assert set(stores.lake.asset_ids.all()["pair"]) == {"AAPLxUSD"}
    run(stores, tmp_path / "some", now=NOW, resampling=False, accept_unknown_pairs=True)
    assert len(stored(stores, "PRICES", 60)) == 2
    # From now on it is a pair that was stored before.
    more = write(tmp_path / "more" / "PRICES_60.csv", csv_row(T + HOUR) + csv_row(T + 2 * HOUR))
    assert run(stores, more, now=NOW, resampling=False).scanned.skipped == []


def test_members_of_krakens_own_zips_are_taken_as_they_are(stores: Stores, tmp_path: Path) -> None:
    rows = csv_row(T) + csv_row(T + HOUR)
    write_zip(tmp_path / "zips" / "Kraken_OHLCVT_Q2_2023.zip", {"NEWSEK_60.csv": rows})
    write_zip(tmp_path / "zips" / "Kraken_Trading_History_Q2_2023.zip", {"ODDSEK.csv": f"{T},1,1\n{T + 90},1,1\n"})
    write_zip(tmp_path / "zips" / "my files.zip", {"OTHERSEK_60.csv": rows})
    done = run(stores, tmp_path / "zips", now=NOW, resampling=False)
    assert set(stores.lake.asset_ids.all()["pair"]) == {"NEWSEK", "ODDSEK"}
    assert [each.name for each in done.scanned.skipped] == ["my files.zip:OTHERSEK_60.csv"]


def test_trades_in_a_release_of_candles_are_promised_nothing(stores: Stores, tmp_path: Path) -> None:
    members = {"XBTUSD_60.csv": csv_row(T), "XBTUSD.csv": f"{T},1,1\n"}
    done = run(stores, write_zip(tmp_path / "Kraken_OHLCVT_Q2_2023.zip", members), now=NOW, resampling=False)
    assert [(each.name, each.reason.partition(",")[0]) for each in done.scanned.skipped] == [
        ("Kraken_OHLCVT_Q2_2023.zip:XBTUSD.csv", "a file of trades in a release of candles")
    ]
    assert covered(stores, "XBTUSD", 1) == ()


# --- one thing that is wrong, and all that is right


def test_the_only_damaged_member_of_the_finest_interval_fails_alone(stores: Stores, tmp_path: Path) -> None:
    days = "".join(csv_row(T + day * DAY) for day in range(10))
    path = write_zip(
        tmp_path / "Kraken_OHLCVT_Q2_2023.zip", {"XBTUSD_1.csv": csv_row(T) * 5_000, "XBTUSD_1440.csv": days}
    )
    content = bytearray(path.read_bytes())
    for offset in range(60, 70):
        content[offset] ^= 0xFF
    path.write_bytes(content)
    done = run(stores, path, now=NOW, resampling=False)
    assert {name: str(outcome.status) for name, outcome in done.files.items()} == {
        "Kraken_OHLCVT_Q2_2023.zip:XBTUSD_1.csv": "FAILED",
        "Kraken_OHLCVT_Q2_2023.zip:XBTUSD_1440.csv": "COMPLETED",
    }
    # Nobody knows whether its last day was cut short with the minutes.
    assert covered(stores, "XBTUSD", 1440) == spans((at("2023-04-01"), T + 9 * DAY))


def test_a_zip_of_zips_is_moved_when_all_of_it_is_taken_and_found_again(stores: Stores, tmp_path: Path) -> None:
    inner = write_zip(tmp_path / "Kraken_OHLCVT_Q2_2023.zip", {"XBTUSD_60.csv": csv_row(T) + csv_row(T + HOUR)})
    drop = stores.settings.home / "drop"
    write_zip(drop / "all.zip", {inner.name: inner.read_bytes(), "ADAUSD_60.csv": csv_row(T) + csv_row(T + HOUR)})
    write_zip(drop / "half.zip", {"b.zip": b"PK", "ADAEUR_60.csv": csv_row(T) + csv_row(T + HOUR)})
    run(stores, now=NOW, resampling=False)
    assert sorted(path.name for path in drop.rglob("*.zip")) == ["all.zip", "half.zip"]
    assert (drop / "ingested" / "all.zip").exists()
    assert (drop / "half.zip").exists(), "what is in it and could not be read may be asked for again"
    assert covered(stores, "XBTUSD", 60) == spans((at("2023-04-01"), T + 2 * HOUR))
    assert covered(stores, "ADAUSD", 60) == spans((T, T + HOUR))
    with stores.catalog.read() as connection:
        records = file_records.completed(connection, ["XBTUSD"])
    assert find_again(stores.settings, records[0]) is not None
    assert run(stores, inner, now=NOW, resampling=False).files[f"{inner.name}:XBTUSD_60.csv"].status == "SKIPPED"


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("Kraken_OHLCVT.7z", b"7z", "it is a 7z archive, which cannot be read; unpack it, and name the folder"),
        ("Kraken_OHLCVT_Full_2026Q2.zip.part01", b"PK", "missing parts: part00; put all parts into one folder"),
        ("Kraken_OHLCVT.zip.002", b"PK", "it was split, and pieces are missing (.001); put all pieces into one folder"),
    ],
)
def test_plan_ingest_and_the_sensor_say_the_same_of_what_cannot_be_read(
    tmp_path: Path, name: str, content: bytes, why: str
) -> None:
    home = tmp_path / "home"
    (home / "drop").mkdir(parents=True)
    (home / "drop" / name).write_bytes(content)
    settings = settings_of(home)
    first = evaluate(settings, None)
    skipped = evaluate(settings, first.cursor).skip_reason
    said = shell(home, "plan")
    done = shell(home, "ingest", "--no-api-backfill")
    assert (said.code, done.code) == (0, 1)
    assert skipped is not None
    for text in (str(skipped.skip_message), " ".join(said.out.split()), " ".join((done.out + done.err).split())):
        assert why in text


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
