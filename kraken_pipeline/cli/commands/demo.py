"""The command that builds a small world of archives and an exchange."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from kraken_pipeline.cli import demo_tables
from kraken_pipeline.cli.commands.run_commands import show_plan
from kraken_pipeline.cli.layout import say
from kraken_pipeline.cli.options import present
from kraken_pipeline.cli.output import out
from kraken_pipeline.cli.runs import ingest_archives
from kraken_pipeline.demo import exchange as demo_exchange
from kraken_pipeline.demo.showcase import build_showcase, build_world
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.settings import load_settings
from kraken_pipeline.workflow.run_spec import run_spec


def demo(
    home: Annotated[
        Path, typer.Option(help="The folder of the demo's archives and lake, separate from real candles.")
    ] = Path("demo-data"),
    complete: Annotated[
        bool,
        typer.Option(
            help="Fill every gap through the exchange, including the missing quarter, with several hundred requests."
        ),
    ] = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Only run the exchange of an existing demo, until Ctrl-C.")
    ] = False,
) -> None:
    """Build a small world of archives and an exchange, then plan, ingest, fill gaps and report."""
    home = home.absolute()
    archives = home / "archives"
    described = home / "exchange.json"
    if serve:
        if not described.exists():
            raise InvalidRequest(f"there is no demo in {home}: run kraken-pipeline demo --home {home} first")
        known = json.loads(described.read_text(encoding="utf-8"))
        world = build_world(known["built_at"], present())
        demo_exchange.serve(world, port=known["port"], announce=lambda url: say(out, url))
        return
    variables = {
        "KRAKEN_PIPELINE_HOME": str(home),
        "KRAKEN_DAGSTER_STORAGE": str(home / "dagster"),
        "KRAKEN_ARCHIVE_DIRS": str(archives),
        "KRAKEN_SETTLE_SECONDS": "0",
    }
    if (lake := load_settings().kraken_lake_url) is not None:
        variables["KRAKEN_LAKE_URL"] = f"{lake.rstrip('/')}/demo"  # not among real candles
    if (drop := load_settings().kraken_drop_url) is not None:
        variables["KRAKEN_DROP_URL"] = f"{drop.rstrip('/')}/demo"  # nor are real archives read
    archives.mkdir(parents=True, exist_ok=True)
    now = present()
    made = build_showcase(archives, now)
    with demo_exchange.DemoExchange(made.world) as exchange:
        # An exchange of one's own may be asked as fast as it answers. Kraken itself made other candles.
        variables |= {"KRAKEN_API_URL": exchange.url, "KRAKEN_API_RATE": "50"}
        # In its folder, `kraken-pipeline` and Dagster's commands mean the demo.
        kept = {name: os.environ[name] for name in ("DAGSTER_HOME",) if name in os.environ}
        lines = [f"{name}={value}\n" for name, value in (variables | kept).items()]
        (home / ".env").write_text("".join(lines), encoding="utf-8")
        described.write_text(json.dumps({"built_at": now, "port": urlsplit(exchange.url).port}), encoding="utf-8")
        os.environ.update(variables)
        demo_tables.showcase(out, made)
        spec = run_spec(intervals=list(made.intervals), complete=complete)
        show_plan(spec, as_json=False)
        done = ingest_archives(load_settings(), spec, None, as_json=False)
    demo_tables.next_steps(out, home)
    # The broken download must have failed, and nothing else.
    is_well = done.status == "SUCCESS" and done.outcome.get("files_failed") == 1
    raise typer.Exit(int(not is_well or bool(done.outcome.get("fetches_failed"))))
