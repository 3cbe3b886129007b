"""The commands that make a home and show it in the browser, where the program is installed without its checkout."""

from __future__ import annotations

import os
import sys
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from kraken_pipeline.cli.layout import say, write
from kraken_pipeline.cli.output import out
from kraken_pipeline.cli.runs import loading_dagster
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.settings import load_settings
from kraken_pipeline.storage.paths import written_whole

_FILES = {"env": ".env", "dagster.yaml": "dagster.yaml", "workspace.yaml": "workspace.yaml"}
"""The names that the files of a home have in this package, and in its folder. A checkout has the same files."""
_WORKSPACE = "workspace.yaml"


def init(
    folder: Annotated[Path, typer.Argument(help="The folder to make; the current one by default.")] = Path(),
) -> None:
    """Make a folder for candles: settings, a description for Dagster, and a drop folder. Existing files stay."""
    folder = folder.absolute()
    if folder.exists() and not folder.is_dir():
        raise InvalidRequest(f"{folder} is a file: name a folder")
    drop = folder / "data" / "drop"
    drop.mkdir(parents=True, exist_ok=True)
    for source, name in _FILES.items():
        path = folder / name
        if path.exists():
            say(out, f"{path} is there already, and stays as it is.")
            continue
        text = (files("kraken_pipeline.cli") / "home_files" / source).read_text(encoding="utf-8")
        with written_whole(path) as beside:  # a part of a file would stay as it is at the next try
            beside.write_text(text.replace("${PWD}", str(folder)), encoding="utf-8")
    say(out, f"{folder} is ready.", "bold")
    for command, what in (
        (f"cd {folder}", "where the commands find its settings, which .env lists"),
        ("kraken-pipeline ui", f"the UI; archives that are put into {drop} are then ingested"),
        ("kraken-pipeline ingest --archive-dir FOLDER", "ingest archives without the UI"),
        ("kraken-pipeline demo", "a small world to try everything with, in a folder of its own"),
    ):
        write(out, f"  {command}")
        say(out, f"      {what}")


def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = 3000,
    host: Annotated[
        str, typer.Option(help="The address to listen on. Whoever reaches it can start runs.")
    ] = "127.0.0.1",
) -> None:
    """Run Dagster's UI and its daemon for this home, until Ctrl-C: the drop folder, schedules and sensors work then."""
    settings = load_settings()
    with loading_dagster(settings, as_json=False):
        from kraken_pipeline.orchestration.instance import instance_of  # noqa: PLC0415

        # The history is made first, by one process: of the several that Dagster starts, one would fail.
        with instance_of(settings):
            pass
    settings.drop.mkdir(parents=True, exist_ok=True)
    where = ["-w", _WORKSPACE] if Path(_WORKSPACE).is_file() else ["-m", "kraken_pipeline.definitions"]
    sys.stdout.flush()
    words = [sys.executable, "-m", "dagster", "dev", *where, "--port", str(port), "--host", host]
    os.execv(sys.executable, words)  # noqa: S606 - in the place of this process: Ctrl-C and SIGTERM are Dagster's
