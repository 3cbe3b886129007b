"""What reaches a server, and what in the source makes it: taps on the wire, and a walk through every statement's text.

A tap sits between a client and a server, passes everything on, and keeps what the client says: statements and their
values of PostgreSQL's protocol, commands of Redis's, requests of HTTP's.
"""

from __future__ import annotations

import ast
import io
import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol, Self
from urllib.parse import urlsplit

from kraken_pipeline_tests.support.servers import HOST

_BLOCK = 1 << 16
_NEGOTIATIONS = (80_877_103, 80_877_104)
"""Requests for TLS and GSSAPI, which a client makes before it begins."""


class Reader(Protocol):
    """Makes sense of what a client says on one connection."""

    def feed(self, data: bytes) -> None:
        """Takes more of it."""


class Wire:
    """What clients of PostgreSQL's protocol said, on all connections.

    Attributes:
        texts: The text of every statement.
        values: The value of every parameter, as it was sent.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.values: list[bytes] = []

    def reader(self) -> Reader:
        return _WireReader(self)


class _WireReader:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._data = bytearray()
        self._has_begun = False

    def feed(self, data: bytes) -> None:
        self._data += data
        while (message := self._next()) is not None:
            self._take(*message)

    def _next(self) -> tuple[str, bytes] | None:
        """The kind of the next message, and what it holds."""
        head = 1 if self._has_begun else 0
        if len(self._data) < head + 4:
            return None
        end = head + int.from_bytes(self._data[head : head + 4], "big")
        if len(self._data) < end:
            return None
        kind, body = self._data[:head].decode(), bytes(self._data[head + 4 : end])
        del self._data[:end]
        return kind, body

    def _take(self, kind: str, body: bytes) -> None:
        if not self._has_begun:
            self._has_begun = int.from_bytes(body[:4], "big") not in _NEGOTIATIONS
        elif kind == "Q":
            self._wire.texts.append(body.rstrip(b"\0").decode())
        elif kind == "P":
            self._wire.texts.append(body.split(b"\0")[1].decode())
        elif kind == "B":
            self._wire.values += _bound(body)
        elif kind == "F":
            self._wire.texts.append("a call of a function by its number")


def _bound(body: bytes) -> Iterator[bytes]:
    """The values in a Bind message: behind two names and the formats, each with its length."""
    stream = io.BytesIO(body.split(b"\0", 2)[2])

    def number(size: int) -> int:
        return int.from_bytes(stream.read(size), "big", signed=True)

    stream.read(2 * number(2))
    for _ in range(number(2)):
        if (length := number(4)) >= 0:
            yield stream.read(length)


class Commands:
    """What clients of Redis said.

    Attributes:
        commands: Every command with its arguments.
    """

    def __init__(self) -> None:
        self.commands: list[tuple[bytes, ...]] = []

    def reader(self) -> Reader:
        return _CommandReader(self)


class _CommandReader:
    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._data = b""

    def feed(self, data: bytes) -> None:
        self._data += data
        while self._data:
            if not self._data.startswith(b"*"):  # a line, as people type them
                self._commands.commands.append((b"INLINE", self._data))
                self._data = b""
                return
            try:
                command, self._data = self._parsed()
            except ValueError:
                return  # the rest is still to come
            self._commands.commands.append(command)

    def _parsed(self) -> tuple[tuple[bytes, ...], bytes]:
        count, rest = _line(self._data)
        parts = []
        for _ in range(int(count[1:])):
            length, rest = _line(rest)
            size = int(length[1:])
            if len(rest) < size + 2:
                raise ValueError("cut short")
            parts.append(rest[:size])
            rest = rest[size + 2 :]
        return tuple(parts), rest


def _line(data: bytes) -> tuple[bytes, bytes]:
    end = data.index(b"\r\n")
    return data[:end], data[end + 2 :]


class Requests:
    """What clients of an HTTP server said.

    Attributes:
        lines: The first line of every request.
        bodies: Their bodies.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.bodies: list[bytes] = []

    def reader(self) -> Reader:
        return _RequestReader(self)


class _RequestReader:
    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._data = b""

    def feed(self, data: bytes) -> None:
        self._data += data
        while b"\r\n\r\n" in self._data:
            head, _, rest = self._data.partition(b"\r\n\r\n")
            assert b"chunked" not in head.lower(), "whose end this reader does not see"
            found = re.search(rb"(?im)^content-length:\s*(\d+)", head)
            length = int(found[1]) if found else 0
            if len(rest) < length:
                return
            self._requests.lines.append(head.partition(b"\r\n")[0].decode())
            self._requests.bodies.append(rest[:length])
            self._data = rest[length:]


class Tap:
    """A port on the loopback behind which a server is; use it as a context manager.

    Args:
        url: Where the server is.
        reader: Makes a reader for each connection.
    """

    def __init__(self, url: str, reader: Callable[[], Reader]) -> None:
        self._parts = urlsplit(url)
        self._reader = reader
        self._listener = socket.create_server((HOST, 0))
        self._open: list[socket.socket] = [self._listener]
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in self._open:
            each.close()

    @property
    def url(self) -> str:
        """The server's URL, by way of here."""
        netloc = f"{self._parts.netloc.rpartition(':')[0]}:{self._listener.getsockname()[1]}"
        return self._parts._replace(netloc=netloc).geturl()

    def _accept(self) -> None:
        with suppress(OSError):  # it was closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection((HOST, self._parts.port or 0))
                self._open += [client, server]
                listen = self._reader().feed
                for source, target, told in ((client, server, listen), (server, client, _unheard)):
                    thread = threading.Thread(target=_pass_on, args=(source, target, told))
                    self._threads.append(thread)
                    thread.start()


def _unheard(_: bytes) -> None:
    """The server's side is nobody's business."""


def _pass_on(source: socket.socket, target: socket.socket, told: Callable[[bytes], None]) -> None:
    with suppress(OSError):
        while data := source.recv(_BLOCK):
            told(data)
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


# --- what a statement's text holds beside names


_TOKEN = re.compile(
    r"""
    (?P<comment>--|/\*)
  | (?P<literal>'(?:[^']|'')*'|\$\w*\$)
  | (?P<name>"(?:[^"]|"")*"|[^\W\d]\w*)
  | (?P<parameter>\$\d+|\?)
  | (?P<number>\d[\w.]*)
  | (?P<end>;)
    """,
    re.VERBOSE,
)


def values_in(text: str) -> set[str]:
    """The values that stand in a statement's own text, and what else is in none that is parameterised."""
    return {found.group() for found in _TOKEN.finditer(text) if found.lastgroup not in ("name", "parameter")}


# --- what a statement's text is made of


EXECUTING = {"execute", "executemany", "executescript", "exec_driver_sql", "scalar", "scalars", "stream", "_fetch"}
VERBATIM = {"text", "literal_column", "quoted_name", "table", "column", "DDL"}
"""Of SQLAlchemy: what they are given goes into the statement as it is."""
VERBATIM_METHODS = {"op", "bool_op", "prefix_with", "suffix_with", "with_hint", "with_statement_hint"}
NAMES = ("schema.TABLES", "schema.VIEW")
"""What may stand in a text: names from `storage/questdb_schema`."""
MAKERS = ("create_table", "add_column", "enable_dedup", "view_query", "checksum_sql")
"""Functions of `storage/questdb_schema` that make texts of its names alone; a test calls each."""
QUOTED = "connection.dialect.identifier_preparer.format_table(table)"
"""SQLAlchemy's own quoting of a table's name."""
NOT_SQL = {"execution.execute"}
BINDING = {"sa", "SqlEventLogStorageTable", "AssetCheckExecutionsTable"}
"""What makes constructs of SQLAlchemy: the library, and Dagster's tables of events and of the results of checks."""
_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


class Walk:
    """Finds the statements of one module whose text is not fixed when it is written.

    An argument is followed to where it comes from, through local names, parameters of functions of the same module and
    what these return. What ends in constants, in SQLAlchemy's own constructs or in names of the schema is fixed; all
    else is not, also what is merely unknown here.
    """

    def __init__(self, source: str, *, is_questdb: bool = False) -> None:
        self._tree = ast.parse(source)
        self._is_questdb = is_questdb
        self._parents = {child: node for node in ast.walk(self._tree) for child in ast.iter_child_nodes(node)}
        self._functions: dict[str, list[_Function]] = {}
        self._calls: dict[str, list[ast.Call]] = {}
        for node in ast.walk(self._tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                self._functions.setdefault(node.name, []).append(node)
            elif isinstance(node, ast.Call) and (name := _called(node)):
                self._calls.setdefault(name, []).append(node)
        self._asked: set[tuple[str, int]] = set()

    def statements(self) -> list[ast.expr]:
        """Every text that is given to a server."""
        return [node.args[0] for node in ast.walk(self._tree) if isinstance(node, ast.Call) and self._is_sink(node)]

    def loose(self) -> list[str]:
        """Those of them that are not fixed, each with its line."""
        found = [f"{each.lineno}: {ast.unparse(each)}" for each in self.statements() if not self._is_fixed(each)]
        by_name = [
            f"{node.lineno}: {ast.unparse(node)}"
            for node in ast.walk(self._tree)
            if isinstance(node, ast.Call) and _called(node) == "getattr" and ast.unparse(node.args[0]) == "sa.func"
        ]
        return found + by_name

    def _is_sink(self, node: ast.Call) -> bool:
        if not isinstance(node.func, ast.Attribute) or not node.args or ast.unparse(node.func) in NOT_SQL:
            return False
        if isinstance(node.func.value, ast.Name) and node.func.value.id == "sa":
            return node.func.attr in VERBATIM
        if node.func.attr == "_fetch":
            return self._is_questdb
        return node.func.attr in EXECUTING | VERBATIM_METHODS

    # --- where it comes from

    def _is_fixed(self, node: ast.expr) -> bool:
        match node:
            case ast.Constant():
                return True
            case ast.JoinedStr(values=parts) | ast.Tuple(elts=parts) | ast.List(elts=parts):
                return all(self._is_fixed(part) for part in parts)
            case ast.FormattedValue(value=value):
                return self._is_fixed(value)
            case ast.BinOp(left=left, op=ast.Add() | ast.Mult(), right=right):
                return self._is_fixed(left) and self._is_fixed(right)
            case ast.IfExp(body=one, orelse=other):
                return self._is_fixed(one) and self._is_fixed(other)
            case ast.Subscript(value=value):
                return ast.unparse(value) in NAMES
            case ast.Attribute():
                return ast.unparse(node) in NAMES
            case ast.Call():
                return self._is_fixed_call(node)
            case ast.Name():
                return self._is_fixed_name(node)
        return False

    def _is_fixed_call(self, node: ast.Call) -> bool:
        if _root(node) in BINDING or ast.unparse(node) == QUOTED:
            return True  # SQLAlchemy's constructs bind what they are given; where they do not, they are looked at
        if isinstance(node.func, ast.Attribute):
            if ast.unparse(node.func.value) == "schema":
                return node.func.attr in MAKERS
            if isinstance(node.func.value, ast.Name) and node.func.value.id == "self":
                return self._returns_fixed(node.func.attr)
            if node.func.attr == "join":
                return self._is_fixed(node.func.value) and all(_are_places(each) for each in node.args)
            is_text_made = node.func.attr in ("format", "format_map", "replace", "__add__", "__mod__")
            return not is_text_made and self._is_fixed(node.func.value)
        return isinstance(node.func, ast.Name) and self._returns_fixed(node.func.id)

    def _returns_fixed(self, name: str) -> bool:
        returned = [
            node.value
            for function in self._functions.get(name, ())
            for node in ast.walk(function)
            if isinstance(node, ast.Return) and node.value is not None
        ]
        return bool(returned) and self._once(f"{name}()", 0, partial(self._are_fixed, returned))

    def _is_fixed_name(self, node: ast.Name) -> bool:
        for scope in self._scopes(node):
            line = scope.lineno if isinstance(scope, _Function) else 0
            if isinstance(scope, _Function) and node.id in _parameters(scope):
                return self._once(node.id, line, partial(self._is_given_fixed, scope, node.id))
            if given := list(self._assigned(scope, node.id)):
                return self._once(node.id, line, partial(self._are_fixed, given))
        return False

    def _are_fixed(self, nodes: Iterable[ast.expr | None]) -> bool:
        return all(node is not None and self._is_fixed(node) for node in nodes)

    def _once(self, name: str, line: int, judge: Callable[[], bool]) -> bool:
        """What is asked for while it is being judged depends on nothing but the rest."""
        if (name, line) in self._asked:
            return True
        self._asked.add((name, line))
        try:
            return judge()
        finally:
            self._asked.discard((name, line))

    def _is_given_fixed(self, function: _Function, parameter: str) -> bool:
        """Whether all callers give a fixed text for a parameter; a function nobody here calls may be given anything."""
        if isinstance(function, ast.Lambda):
            return False
        names = _parameters(function)
        calls = self._calls.get(function.name, ())
        index = names.index(parameter) - (names[0] == "self")
        given: list[ast.expr] = []
        for call in calls:
            by_name = [each.value for each in call.keywords if each.arg == parameter]
            if not by_name and len(call.args) <= index:
                return False
            given += by_name or [call.args[index]]
        return bool(given) and all(map(self._is_fixed, given))

    def _scopes(self, node: ast.AST) -> Iterator[ast.AST]:
        """The functions that a node is in, the innermost first, and the module."""
        while node in self._parents:
            node = self._parents[node]
            if isinstance(node, _Function | ast.Module):
                yield node

    def _assigned(self, scope: ast.AST, name: str) -> Iterator[ast.expr | None]:
        """What a scope assigns to a name; None where that is not plain to see."""
        for node in ast.walk(scope):
            if not (isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store)):
                continue
            if next(self._scopes(node)) is scope:
                yield self._value_of(node)

    def _value_of(self, target: ast.Name) -> ast.expr | None:
        parent = self._parents[target]
        if isinstance(parent, ast.Assign | ast.AnnAssign | ast.NamedExpr):
            return parent.value
        if isinstance(parent, ast.AugAssign) and isinstance(parent.op, ast.Add | ast.BitAnd):
            return parent.value
        if isinstance(parent, ast.Tuple) and isinstance(found := self._parents[parent], ast.Assign):
            index = parent.elts.index(target)
            if isinstance(found.value, ast.Tuple):
                before = found.value.elts[: index + 1]
                return before[-1] if not any(isinstance(each, ast.Starred) for each in before) else None
        return None


def _called(node: ast.Call) -> str | None:
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else None


def _root(node: ast.expr) -> str | None:
    """The name that a chain of calls and attributes begins with."""
    while isinstance(node, ast.Call | ast.Attribute):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


def _parameters(function: _Function) -> list[str]:
    arguments = function.args
    return [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


def _are_places(node: ast.expr) -> bool:
    """Whether it is a list of constants so many times over, as in `["%s"] * len(names)`."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        node = node.left
    return isinstance(node, ast.List) and all(isinstance(each, ast.Constant) for each in node.elts)


def loose_statements(package: Path) -> dict[str, list[str]]:
    """Every statement of a package whose text is not fixed, by module."""
    found: dict[str, list[str]] = {}
    for path in sorted(package.rglob("*.py")):
        walk = Walk(path.read_text(encoding="utf-8"), is_questdb=path.parent.name == "questdb")
        if loose := walk.loose():
            found[str(path.relative_to(package))] = loose
    return found
