"""Commands about releases of a dataset."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from kraken_pipeline.cli import release_tables, terminal
from kraken_pipeline.cli.layout import say
from kraken_pipeline.cli.options import (
    MOST,
    AsJson,
    End,
    Pairs,
    Start,
    Tier,
    present,
    selection,
    stores_of_home,
)
from kraken_pipeline.cli.output import err, out, print_json
from kraken_pipeline.settings import load_settings
from kraken_pipeline.storage.stores import opened, require_writable
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.releases import folder
from kraken_pipeline.workflow.releases.create import create_release
from kraken_pipeline.workflow.releases.dataset import open_release
from kraken_pipeline.workflow.releases.differences import differences
from kraken_pipeline.workflow.releases.verification import verify_release

Name = Annotated[str, typer.Argument(help="The name of a release.")]


def create(
    name: Annotated[str, typer.Argument(help="The name of the new release, such as majors-2026Q2.")],
    tier: Tier = "ALL",
    intervals: Annotated[
        str | None,
        typer.Option(help="Intervals in minutes, separated by commas: 60,1440. All that have candles by default."),
    ] = None,
    pairs: Pairs = None,
    start: Start = None,
    end: End = None,
    sign_with: Annotated[
        Path | None, typer.Option(help="A PEM file with an Ed25519 private key, to sign the release with.")
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy files even if hard links are possible.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a release: the selected candles as they are now, and what is known of them. It never changes.

    For example: kraken-pipeline release create majors-2026Q2 --tier TIER1 --end 2026-07-01
    """
    settings = load_settings()
    require_writable(settings)
    spec = selection(tier=tier, intervals=intervals, pairs=pairs, start=start, end=end)
    with stores_of_home() as stores, terminal.progress_bar(err if as_json else out) as listener:
        run = RunContext("release", present(), listener)
        certificate = create_release(stores, name, spec, run, links=not copy, sign_with=sign_with)
    if as_json:
        print_json({**certificate.summary(), "signed": sign_with is not None})
    else:
        release_tables.made(out, certificate, settings.home / folder.RELEASES / name)


def list_all(as_json: AsJson = False) -> None:
    """List the releases of this home."""
    found = list(folder.list_releases(load_settings().home))
    if as_json:
        print_json([release.as_json() for release in found])
    else:
        release_tables.listed(out, found)


def verify(
    name: Annotated[str, typer.Argument(metavar="NAME|FOLDER", help="The name of a release, or a folder with one.")],
    public_key: Annotated[
        Path | None, typer.Option(help="A PEM file with the Ed25519 public key that the signature has to fit.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check everything that a release claims; nothing but its folder is needed. The exit code is 1 if a claim fails."""
    place = folder.find_anywhere(load_settings().home, name)
    with terminal.progress_bar(err if as_json else out) as listener:
        found = verify_release(place, RunContext("verify", present(), listener), public_key=public_key)
    if as_json:
        print_json(found.as_json())
    else:
        release_tables.verification(out, found)
    raise typer.Exit(int(bool(found.failures)))


def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="The earlier release, or a folder with one.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The later release, or a folder with one.")],
    limit: Annotated[int, typer.Option(min=0, max=MOST, help="The most candles to list; all are counted.")] = 1_000,
    as_json: AsJson = False,
) -> None:
    """List the series and candles in which two releases differ, and why. The reasons are those of this home."""
    settings = load_settings()
    releases = [open_release(folder.find_anywhere(settings.home, name)) for name in (first, second)]
    with ExitStack() as stack:
        # Releases from elsewhere can be compared where there is no home, and none is made for that.
        stores = stack.enter_context(opened(settings)) if settings.home.is_dir() else None
        found = differences(releases[0], releases[1], stores, limit)
    if as_json:
        print_json(found.as_json())
    else:
        release_tables.difference(out, found)


def delete(name: Name) -> None:
    """Delete a release; the candles in the lake stay."""
    settings = load_settings()
    require_writable(settings)
    folder.delete(settings.home, name)
    say(err, f"The release {name} is deleted; the candles in the lake stay.")
