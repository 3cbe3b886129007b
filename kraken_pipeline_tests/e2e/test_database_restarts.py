"""A catalog's server that goes away in the middle of an ingest costs some time, and no candle, record or evidence."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.stores import opened
from kraken_pipeline_tests.support.databases import copy_of_template
from kraken_pipeline_tests.support.fixtures import need
from kraken_pipeline_tests.support.homes import rows_of, settings_of
from kraken_pipeline_tests.support.ingests import COMMAND, MEMBERS, assert_same, home_beside, state
from kraken_pipeline_tests.support.processes import Running
from kraken_pipeline_tests.support.servers import PostgreSQL
from kraken_pipeline_tests.support.shell import TIMEOUT, ended, shell, start

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    """A server of these tests alone, for them to stop."""
    need(PostgreSQL)
    with PostgreSQL(tmp_path_factory.mktemp("own")) as server:
        yield server


@pytest.fixture
def url(own: PostgreSQL) -> str:
    """A catalog without records."""
    own.start()
    return copy_of_template(own)


def completed(own: PostgreSQL, url: str) -> int:
    return int(own.execute("SELECT count(*) FROM files WHERE status = 'COMPLETED'", url)[0][0])


def wait_until_halfway(process: Running, own: PostgreSQL, url: str) -> None:
    deadline = time.monotonic() + TIMEOUT
    while completed(own, url) < MEMBERS // 5:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def assert_whole(home: Path, url: str, undisturbed: dict[str, Any]) -> None:
    """Everything is there as after an undisturbed ingest, and nothing twice."""
    assert_same(state(home, kraken_catalog_url=url), undisturbed)
    with opened(settings_of(home, kraken_catalog_url=url)) as stores:
        granted = rows_of(stores, schema.grants, "pair", "interval", "start", "end", "source", "trades", "file_id")
        assert len(granted) == len(set(granted))
        files = {row[-1] for row in granted} - {None}
        assert len(files) == MEMBERS + 10, "each file that was taken has granted"
        assert not stores.locks.is_any_running()


@pytest.mark.parametrize("how", ["restarted", "killed"])
def test_a_server_that_is_back_soon_is_waited_for_and_the_run_ends_as_an_undisturbed_one(
    own: PostgreSQL, url: str, archives: Path, undisturbed: dict[str, Any], how: str
) -> None:
    home = home_beside(archives, f"server-{how}")
    home.parent.mkdir()
    process = start(home, *COMMAND, "--json", KRAKEN_CATALOG_URL=url)
    wait_until_halfway(process, own, url)
    (own.stop if how == "restarted" else own.kill)()
    assert process.poll() is None, "it was over before its server went"
    own.start()
    done = completed(own, url)
    assert done < MEMBERS, "it was over before its server went"
    said = ended(process)

    assert said.code == 1, said.err
    assert said.json["status"] == "SUCCESS", f"{said.out}\n{said.err}"
    assert said.json["files_ingested"] == said.json["files_total"] - 1 == MEMBERS + 10
    assert_whole(home, url, undisturbed)


def test_a_server_that_stays_away_ends_the_run_with_a_sentence_and_the_same_command_completes_it(
    own: PostgreSQL, url: str, archives: Path, undisturbed: dict[str, Any]
) -> None:
    home = home_beside(archives, "server-away")
    home.parent.mkdir()
    given = {"KRAKEN_CATALOG_URL": url, "KRAKEN_CATALOG_PATIENCE_SECONDS": "0.5"}
    process = start(home, *COMMAND, **given)
    wait_until_halfway(process, own, url)
    own.kill()
    said = ended(process)
    assert said.code == 1
    assert "FAILURE" in said.out
    assert "the catalog's server" in said.out + said.err
    assert own.password not in said.out + said.err
    own.start()
    assert 0 < completed(own, url) < MEMBERS

    again = shell(home, *COMMAND, "--json", **given)

    assert again.code == 1, "a file is empty, and fails"
    assert again.json["status"] == "SUCCESS"
    assert_whole(home, url, undisturbed)


def test_a_command_without_its_server_says_so_at_once(own: PostgreSQL, url: str, tmp_path: Path) -> None:
    given = {"KRAKEN_CATALOG_PATIENCE_SECONDS": "0.3"}
    own.stop()
    for command in ("ingest", "gaps"):
        said = shell(tmp_path / "home", command, KRAKEN_CATALOG_URL=url, **given)
        assert said.code != 0
        assert "the catalog's server does not answer" in said.out + said.err
        assert "Traceback" not in said.out + said.err
        assert own.password not in said.out + said.err
