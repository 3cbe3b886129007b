"""A catalog that was lost is said to be so by every command, and one command builds it again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kraken_pipeline_tests.support.ingests import COMMAND, assert_same, home_beside, state
from kraken_pipeline_tests.support.shell import shell

pytestmark = pytest.mark.slow

COMMANDS = (
    ("plan",),
    COMMAND,
    ("backfill",),
    ("backfill", "--dry-run"),
    ("gaps",),
    ("report",),
    ("reconcile",),
    ("explain", "K00USD", "60", "2023-04-02"),
    ("resolve", "--file", "x.csv", "--reason", "a test"),
    ("export", "K00USD", "60", "--to", "x.csv"),
    ("verify",),
    ("verify", "--repair"),
    ("status",),
    ("status", "--json"),
    ("dead-letters", "list"),
    ("dead-letters", "retry"),
    ("cache", "stats"),
    ("backup", "saved"),
)


def deleted(catalog: Path) -> None:
    catalog.unlink()


def overwritten(catalog: Path) -> None:
    catalog.write_bytes(b"garbage" * 10_000)


def truncated(catalog: Path) -> None:
    catalog.write_bytes(catalog.read_bytes()[:20_000])


LOSSES: dict[Callable[[Path], None], str] = {
    deleted: "is empty, and the lake in",
    overwritten: "is damaged (file is not a database)",
    truncated: "is damaged (database disk image is malformed)",
}


@pytest.mark.parametrize("lose", LOSSES)
def test_it_is_said_by_every_command_and_mended_by_one(
    archives: Path, undisturbed: dict[str, Any], lose: Callable[[Path], None]
) -> None:
    home = home_beside(archives, f"lost-{lose.__name__}")
    home.parent.mkdir()
    assert shell(home, *COMMAND).code == 1, "a file is empty, and fails"
    catalog = home / "catalog.sqlite"
    assert not catalog.with_name("catalog.sqlite-wal").exists(), "all of it is in one file"
    lose(catalog)

    commands = COMMANDS if lose is deleted else (("report",), COMMAND)
    for command in commands:
        said = shell(home, *command)
        assert said.code == 1, command
        assert LOSSES[lose] in said.out + said.err, command
        assert "kraken-pipeline recover" in said.out + said.err, command
        assert "Traceback" not in said.out + said.err, command
    sick = shell(home, "health", "--json")
    assert (sick.code, sick.json["status"]) == (1, "failed")
    (check,) = [check for check in sick.json["checks"] if check["name"] == "catalog"]
    assert check["status"] == "failed"
    assert LOSSES[lose] in check["detail"]

    files = [*(home / "lake").rglob("candles.parquet"), *(home / "replaced").rglob("*.parquet")]
    done = shell(home, "recover", "--archive-dir", str(archives), "--json")
    assert done.code == 0, done.err
    assert (done.json["status"], done.json["job"]) == ("SUCCESS", "recover_catalog")
    assert done.json["outcome"]["files_adopted"] == len(files)
    assert done.json["outcome"]["candles_on_their_own"] == 0

    again = shell(home, *COMMAND, "--json")
    assert (again.code, again.json["files_ingested"], again.json["outcome"]["files_failed"]) == (1, 0, 1)
    after = state(home)
    # What was refuted at first and resampled then is in the lake already, and the archive that was refuted agrees.
    missing = undisturbed["grants"] - after.pop("grants")
    assert {(pair, source) for pair, _, _, _, source, _ in missing} <= {(f"K0{n}USD", "RESAMPLED") for n in range(3)}
    assert_same(after, {what: value for what, value in undisturbed.items() if what != "grants"})
    assert shell(home, "health", "--json").json["status"] != "failed"


def test_what_a_command_line_cannot_mean_is_wrong_use(archives: Path) -> None:
    home = home_beside(archives, "wrong")
    home.parent.mkdir()
    for arguments, sentence in {
        ("--from", "sqlite:////nowhere/catalog.sqlite"): "there is no file /nowhere/catalog.sqlite",
        ("--from", "postgresql://me:hunter2@db.invalid/kraken"): "leave the password out",
        ("--from", "nonsense"): "--from names no database",
        ("--from", "sqlite:////x", "--archive-dir", str(archives)): "leave --archive-dir out",
    }.items():
        said = shell(home, "recover", *arguments)
        assert sentence in said.out + said.err, arguments
        assert said.code in (1, 2), arguments
        assert "hunter2" not in said.out + said.err
