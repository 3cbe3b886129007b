"""The command that prints the script of a shell's completion."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer
from typer.completion import get_completion_script  # type: ignore[attr-defined]

from kraken_pipeline.cli.groups import COMPLETION_VARIABLE, PROGRAM


class Shell(StrEnum):
    """A shell that can complete."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"
    POWERSHELL = "powershell"


def completion(shell: Annotated[Shell, typer.Argument(help="The shell.")]) -> None:
    """Print the script that lets a shell complete commands, options, pairs and intervals."""
    sys.stdout.write(get_completion_script(prog_name=PROGRAM, complete_var=COMPLETION_VARIABLE, shell=shell) + "\n")
