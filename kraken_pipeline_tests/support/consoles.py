"""What the docs show of a shell: commands in fenced blocks with their output, and commands within sentences."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise, takewhile
from pathlib import Path

_BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"`((?:kraken-pipeline|make)\s[^`]+)`")
_WRAPPERS = {"docker", "kubectl", "kraken", "uvx"}
"""Programs that run another one; `kraken` is an alias for `kubectl exec` in docs/kubernetes.md."""
_VARYING = (
    (re.compile(r"\brun [0-9a-f]{8}\b"), "run ID"),
    (re.compile(r"\bin \d+\.\d s\b"), "in N s"),
    (re.compile(r"(^ +|; until )\d{4}-\d\d-\d\d \d\d:\d\d(: |$)"), r"\1MOMENT\2"),  # when it was recorded
    (re.compile("─+"), "─"),  # a rule is as long as the widest row, which a page may leave out
)


@dataclass(frozen=True, slots=True)
class Shown:
    """A line that a page gives to a shell.

    Attributes:
        place: The page and the number of the line in it.
        text: The line, without the prompt.
        output: The lines below it, up to the next prompt.
    """

    place: str
    text: str
    output: tuple[str, ...] = ()


def shown_in(page: Path) -> Iterator[Shown]:
    """Yield what a page gives to a shell in its fenced blocks."""
    text = page.read_text("utf-8")
    for block in _BLOCK.finditer(text):
        first = text.count("\n", 0, block.start(1)) + 1
        lines = list(enumerate(block[1].splitlines(), first))
        prompts = [index for index, (_, line) in enumerate(lines) if line.startswith("$ ")]
        for index, end in pairwise([*prompts, len(lines)]):
            number, line = lines[index]
            yield Shown(f"{page.name}:{number}", line[2:], tuple(below for _, below in lines[index + 1 : end]))


def named_in(page: Path) -> Iterator[Shown]:
    """Yield the commands that the sentences and tables of a page have in backticks."""
    text = _FENCED.sub(lambda block: "\n" * block[0].count("\n"), page.read_text("utf-8"))
    for found in _NAMED.finditer(text):
        yield Shown(f"{page.name}:{text.count(chr(10), 0, found.start()) + 1}", " ".join(found[1].split()))


def calls(text: str) -> Iterator[list[str]]:
    """Yield the programs that a line calls, each with its arguments, also where another program runs it.

    A program of a virtual environment has its bare name. Variables before a program are left out, and files that its
    output goes to.
    """
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";&|<>")
    lexer.whitespace_split = True
    for is_end, tokens in groupby(lexer, lambda token: re.fullmatch(r"[;&|]+", token) is not None):
        if is_end:
            continue
        words = [*takewhile(lambda token: re.fullmatch("[<>]+", token) is None, tokens)]
        while words and re.match(r"[A-Z_]+=", words[0]):
            del words[0]
        words[:1] = [Path(word).name for word in words[:1]]
        own = [index for index, word in enumerate(words) if word in {"kraken-pipeline", "dagster"}]
        if own and words[0] in _WRAPPERS:
            words = words[own[0] :]
        if words:
            yield words


def difference(expected: Sequence[str], said: str) -> str | None:
    """Return the first line of a page that an output does not have where it should; None if it is as the page shows it.

    A line `…` stands for any number of lines, `…` within a line for any text. Ids of runs, moments of records
    and measured seconds vary.
    """
    lines = [_settled(line) for line in said.rstrip().splitlines()]
    ends = {0}  # where the lines of the page so far may end in the output
    for line in expected:
        if line.strip() == "…":
            ends = set(range(min(ends), len(lines) + 1))
            continue
        pattern = ".*".join(map(re.escape, _settled(line).split("…")))
        ends = {end + 1 for end in ends if end < len(lines) and re.fullmatch(pattern, lines[end])}
        if not ends:
            return line
    return None if len(lines) in ends else "the end"


def _settled(line: str) -> str:
    for varying, name in _VARYING:
        line = varying.sub(name, line)
    return line.rstrip()
