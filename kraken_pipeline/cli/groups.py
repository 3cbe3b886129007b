"""Groups of commands that import the module of a command only when it is invoked.

A command needs a part of the project, and `--help` none of it. All of it would take seconds to import.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

import typer
from typer.core import CompletionItem, TyperGroup  # type: ignore[attr-defined]

from kraken_pipeline.cli.examples import shown
from kraken_pipeline.cli.output import hold

PROGRAM = "kraken-pipeline"
COMPLETION_VARIABLE = "_KRAKEN_PIPELINE_COMPLETE"
"""The variable by which a shell's script asks the program to complete a line instead of running it."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command that is not imported yet.

    Attributes:
        place: Its module in `cli.commands` and the name of its function: `gaps.gaps`.
        summary: The first sentence of its help, for the list of commands.
        is_work: Whether it works for a while and is run by schedules too, so that it takes `--quiet`.
    """

    place: str
    summary: str
    is_work: bool = False

    def load(self, name: str) -> Any:
        """Import the command, and return it for the parser."""
        module, _, function = self.place.rpartition(".")
        with _showing_activity():
            imported = import_module(f"{__package__}.commands.{module}")
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
        alone.command(name, epilog=shown(self.place))(getattr(imported, function))
        command = typer.main.get_command(alone)
        if self.is_work:
            command.params.append(
                flag("--quiet", "-q", then=hold, text="Print nothing, unless something fails; JSON is printed.")
            )
        return command


def flag(*names: str, then: Callable[[], None], text: str) -> Any:
    """Return an option without a value, for the parser, that calls a function before the command is invoked."""

    def given(context: typer.Context, is_given: bool) -> None:
        if is_given and not context.resilient_parsing:  # not while a shell completes the line
            then()

    def bearer(
        is_given: bool = typer.Option(False, *names, callback=given, is_eager=True, expose_value=False, help=text),
    ) -> None:
        """Bear the option."""

    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command()(bearer)
    return typer.main.get_command(alone).params[0]


class Group(TyperGroup):
    """A group whose commands are imported one by one, and listed by their summaries."""

    def __init__(
        self,
        text: str,
        members: Mapping[str, Command | Group],
        *,
        begin: Callable[[], None] | None = None,
        options: Sequence[Any] = (),
    ) -> None:
        """Make a group.

        Args:
            text: The help of the group.
            members: Its commands and groups, in the order of their list.
            begin: What is called before a command.
            options: The options that are given before the name of a command.
        """
        loaded = cast("MutableMapping[str, Any]", _Loaded(members))
        super().__init__(
            help=text,
            callback=begin,
            no_args_is_help=True,
            rich_markup_mode=None,
            params=[*options],
            context_settings={"help_option_names": ["-h", "--help"]},
        )
        self.commands = loaded
        self.summary = text
        self.members = members

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Return the options, or the commands with their summaries, that begin with what is typed."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [
            CompletionItem(name, help=member.summary)
            for name, member in self.members.items()
            if name.startswith(incomplete)
        ]

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write the list of commands; summaries are whole, where Typer would cut them at the end of the line."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, member.summary) for name, member in self.members.items()])


class _Loaded(Mapping[str, Any]):
    """Commands by name, each imported when it is looked up."""

    def __init__(self, members: Mapping[str, Command | Group]) -> None:
        self._members = members

    def __getitem__(self, name: str) -> Any:
        member = self._members[name]
        return member if isinstance(member, Group) else member.load(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


@contextmanager
def _showing_activity() -> Iterator[None]:
    """Show on a terminal that something is loaded; nothing is drawn if the output goes to a program or a pager."""
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        yield
        return
    # What draws is only needed on a terminal.
    from rich.console import Console  # noqa: PLC0415

    from kraken_pipeline.cli.terminal import progress_bar  # noqa: PLC0415

    with progress_bar(Console(stderr=True)):
        yield
