"""The JSON of lists of flat objects is what the library writes with an indent, whatever their texts hold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pytest

from kraken_pipeline.cli.output import print_rows


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"pair": "XBTUSD"}],
        [{"pair": "XBTUSD", "start": 1, "file": None}, {"pair": "é\n", "start": 2, "file": '},\n    {"'}],
        [{"a": "[]"}, {"a": "{}"}, {"a": "},{"}],
    ],
)
def test_rows_are_written_as_the_library_writes_them(
    rows: Sequence[Mapping[str, str | int | None]], capsys: pytest.CaptureFixture[str]
) -> None:
    print_rows(rows)
    assert capsys.readouterr().out == json.dumps(rows, indent=2) + "\n"
