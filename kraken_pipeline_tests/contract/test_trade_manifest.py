from __future__ import annotations

from dataclasses import replace

import sqlalchemy as sa

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.storage.catalog.schema import damages, trade_files
from kraken_pipeline.storage.catalog.states import DamageKind
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.storage.trades import manifest
from kraken_pipeline.storage.trades.kept import THE_EXCHANGE, TradeClaim, TradeSource
from kraken_pipeline.storage.trades.manifest import TradeFile
from kraken_pipeline.storage.trades.months import trades_path

JANUARY = Span(1_735_689_600, 1_735_693_200)
FILE = TradeFile(
    path=trades_path("XBTUSD", 202501, "1"),
    pair="XBTUSD",
    month=202501,
    rows=7,
    bytes=1 << 40,
    sha256="a" * 64,
    digest="b" * 64,
    claims=(
        TradeClaim(JANUARY, (THE_EXCHANGE, TradeSource("0123456789ab", has_ids=True, release=20_178, length=3_600))),
    ),
    write_id="1",
    written_at=1_735_700_000,
)
LATER = replace(FILE, path=trades_path("XBTUSD", 202502, "2"), month=202502, write_id="2")
OTHER = replace(FILE, path=trades_path("ADAEUR", 202501, "3"), pair="ADAEUR", write_id="3")


def test_a_file_claims_something_from_the_moment_it_is_confirmed_until_it_is_retired(stores: Stores) -> None:
    with stores.catalog.write() as connection:
        manifest.announce(connection, [FILE])
    with stores.catalog.read() as connection:
        assert manifest.trade_files_of(connection) == [replace(FILE, is_announced=True)]
        assert manifest.claims_of(connection, "XBTUSD") == []
    with stores.catalog.write() as connection:
        manifest.confirm(connection, [FILE], [])
    with stores.catalog.read() as connection:
        assert manifest.trade_files_of(connection) == [FILE]
        assert manifest.claims_of(connection, "XBTUSD") == [*FILE.claims]
        assert manifest.claims_of(connection, "ADAEUR") == []
    newer = replace(FILE, path=trades_path("XBTUSD", 202501, "9"), write_id="9")
    with stores.catalog.write() as connection:
        manifest.announce(connection, [newer])
        manifest.confirm(connection, [newer], [FILE.path])
    with stores.catalog.read() as connection:
        assert [file.is_announced for file in manifest.trade_files_of(connection)] == [True, False]
        assert manifest.claims_of(connection, "XBTUSD") == [*newer.claims]
    with stores.catalog.write() as connection:
        manifest.strike(connection, [FILE.path])
    with stores.catalog.read() as connection:
        assert manifest.trade_files_of(connection) == [newer]


def test_files_are_found_by_pair_and_month(stores: Stores) -> None:
    with stores.catalog.write() as connection:
        manifest.adopt(connection, [LATER, FILE, OTHER])
        manifest.adopt(connection, [FILE])
        manifest.scrubbed(connection, [LATER.path], 5)
    scrubbed = replace(LATER, scrubbed_at=5)
    with stores.catalog.read() as connection:
        assert manifest.trade_files_of(connection) == [OTHER, FILE, scrubbed]
        assert manifest.trade_files_of(connection, ["XBTUSD"]) == [FILE, scrubbed]
        assert manifest.trade_files_of(connection, ["XBTUSD"], [202502]) == [scrubbed]
        assert manifest.kept_pairs(connection) == ["ADAEUR", "XBTUSD"]


def test_a_row_that_was_changed_claims_nothing(stores: Stores) -> None:
    with stores.catalog.write() as connection:
        manifest.adopt(connection, [FILE])
        connection.execute(sa.update(trade_files).values(claims=trade_files.c.claims + " "))
    with stores.catalog.read() as connection:
        assert manifest.claims_of(connection, "XBTUSD") == []


def test_a_damaged_file_claims_nothing_until_its_damage_is_settled(stores: Stores) -> None:
    row = {"path": FILE.path, "kind": DamageKind.MISSING, "detail": "does not exist", "candles": 0, "noticed_at": 1}
    with stores.catalog.write() as connection:
        manifest.adopt(connection, [FILE])
        connection.execute(sa.insert(damages).values(row))
    with stores.catalog.read() as connection:
        assert manifest.claims_of(connection, "XBTUSD") == []
        assert manifest.damaged_paths(connection) == {FILE.path}
    with stores.catalog.write() as connection:
        connection.execute(sa.update(damages).values(settled_at=2))
    with stores.catalog.read() as connection:
        assert manifest.claims_of(connection, "XBTUSD") == [*FILE.claims]
