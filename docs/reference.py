"""The pages of the reference that are made of the code: commands with their options, and the public Python names."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import typer

import kraken_pipeline
from kraken_pipeline.cli import app as program
from kraken_pipeline.cli.examples import EXAMPLES
from kraken_pipeline.cli.groups import PROGRAM, Command, Group


def commands_page() -> str:
    """Return every command in Markdown, in the order of the program's help."""
    sections = (section(name, command, parser) for name, command, parser in every_command(program.app, PROGRAM))
    return "\n\n".join(("", f"## Exit codes\n\n{exit_codes()}", *sections, ""))


def exit_codes() -> str:
    """Return what the program's own documentation says of exit codes and of `--json`."""
    return (inspect.getdoc(program) or "").partition("\n\n")[2]


def every_command(group: Group, before: str) -> Iterator[tuple[str, Command, Any]]:
    """Yield each command with its full name and its parser."""
    for name, member in group.members.items():
        if isinstance(member, Group):
            yield from every_command(member, f"{before} {name}")
        else:
            yield f"{before} {name}", member, group.commands[name]


def section(name: str, command: Command, parser: Any) -> str:
    """Return a command in Markdown: its help, its arguments and options, its examples."""
    context = typer.Context(parser, info_name=name, parent=typer.Context(program.app, **program.app.context_settings))
    usage = " ".join((name, *parser.collect_usage_pieces(context)))
    records = [record for record in (each.get_help_record(context) for each in parser.get_params(context)) if record]
    rows = [f"| {_cell(f'`{names}`')} | {_cell(_text(text))} |" for names, text in records]
    lines = [f"# {what}\n$ {_line(words)}" for what, words in EXAMPLES[command.place]]
    return "\n\n".join(
        (
            f"## {name}",
            _text(inspect.cleandoc(parser.help)),
            f"```text\n{usage}\n```",
            "\n".join(("| argument or option | meaning |", "|---|---|", *rows)),
            "\n".join(("```console", *lines, "```")),
        )
    )


def _line(words: str) -> str:
    return words if words.startswith("eval") else f"{PROGRAM} {words}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _text(text: str) -> str:
    """Keep what looks like a tag or like emphasis as it is written."""
    return text.replace("<", "&lt;").replace("*", "\\*").replace("[", "\\[")


def python_page() -> str:
    """Return the directives that write the public names of the package, with signature and docstring."""
    names = [f".. auto{_kind(name)}:: kraken_pipeline.{name}" for name in kraken_pipeline.__all__]
    return "\n".join(("", "```{eval-rst}", *names, "```", ""))


def _kind(name: str) -> str:
    found = getattr(kraken_pipeline, name)
    if inspect.isclass(found):
        return "exception" if issubclass(found, Exception) else "class"
    return "function"
