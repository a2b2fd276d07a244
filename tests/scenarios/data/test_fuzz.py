"""Random input: nothing but a DataError ever comes out, and what is read equals what the standard library reads."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture import providers

from toolkit.data.examples.templates import compile_template
from toolkit.data.read_options import ReadOptions
from toolkit.data.readers.read_file import TABLE_FILE, ReadRequest, read_file_to_table
from toolkit.data.shapes.nested_rows import UNCHANGED, read_nested_answer
from toolkit.data.table import Table, load_table
from toolkit.errors import DataError

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
NAME = TEXT.filter(lambda name: bool(name.strip()) and name == name.strip())
KEY = NAME.filter(lambda name: all(read_nested_answer(name, value)[0] is UNCHANGED for value in ({"x": "y"}, ["x"])))
"""No column of answers, questions or labels: the texts inside their values are read (`test_nested_rows.py`)."""
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _read(content: bytes, kind: str, options: ReadOptions) -> list[dict[str, str | None]]:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source")
        source.write_bytes(content)
        read_file_to_table(ReadRequest(str(source), folder, kind, hashlib.sha256(content).hexdigest(), "fuzz", options))
        table: Table = load_table(Path(folder, TABLE_FILE))
        return table.page(0, table.rows)


@QUICK
@given(
    st.lists(NAME, min_size=2, max_size=4, unique=True).flatmap(
        lambda names: st.tuples(
            st.just(names),
            st.lists(st.lists(TEXT, min_size=len(names), max_size=len(names)), min_size=1, max_size=6),
        )
    ),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_csv_gives_back_what_was_written(
    table: tuple[list[str], list[list[str]]], delimiter: str, terminator: str
) -> None:
    names, rows = table
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator=terminator, quoting=csv.QUOTE_ALL).writerows([names, *rows])
    found = _read(out.getvalue().encode(), "csv", ReadOptions("utf-8", delimiter))
    assert found == [dict(zip(names, (cell or None for cell in row), strict=True)) for row in rows]


@QUICK
@given(st.text(st.sampled_from("ab1 ,;\t|\"\n\r'{}[]é😀\0\ufeff=sep"), max_size=60))
def test_csv_agrees_with_the_standard_library_or_refuses(text: str) -> None:
    try:
        found = _read(text.encode(), "csv", ReadOptions("utf-8", ","))
    except DataError as error:
        assert error.message
        assert error.hint
        return
    rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    width = len(found[0])
    rows = [[row[0].removeprefix("\ufeff"), *row[1:width]] for row in rows[1:]]  # several files in one
    assert [list(row.values()) for row in found] == [[cell or None for cell in row] for row in rows]


SCALAR = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXT
)  # fmt: skip
VALUE = st.recursive(
    SCALAR, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)), max_leaves=6
)


def _expected(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


@QUICK
@given(st.lists(st.dictionaries(KEY, VALUE, min_size=1, max_size=4), min_size=2, max_size=6), st.booleans())
def test_json_keeps_every_value(rows: list[dict[str, Any]], lines: bool) -> None:
    content = "\n".join(json.dumps(row) for row in rows) if lines else json.dumps(rows, indent=1)
    names = list(dict.fromkeys(name for row in rows for name in row))
    expected = [{name: _expected(row.get(name)) for name in names} for row in rows]
    assert _read(content.encode(), "json", ReadOptions()) == expected


@QUICK
@given(st.text(st.sampled_from('{}[]",:ab1-.e \n\ttruefalsnN/\\u0dI'), max_size=40))
def test_json_like_text_never_surprises(text: str) -> None:
    _refuses_or_reads(text.encode(), "json")


@QUICK
@given(st.binary(max_size=60), st.sampled_from(["csv", "json"]))
def test_bytes_never_surprise(content: bytes, kind: str) -> None:
    _refuses_or_reads(content, kind)


def _refuses_or_reads(content: bytes, kind: str) -> None:
    try:
        rows = _read(content, kind, ReadOptions())
    except DataError as error:
        assert error.message
        assert error.hint
    else:
        assert rows


@given(st.text(st.sampled_from("{}ab.! :[]0"), max_size=12))
def test_template_text_compiles_or_is_refused(text: str) -> None:
    row: dict[str, str | None] = {"a": "A{b}", "b": "}", "a.b": "dotted", "0": "{{"}
    try:
        template = compile_template(text, list(row))
    except DataError as error:
        assert error.hint
        return
    parts = [(row[piece.text] or "") if piece.is_column else piece.text for piece in template.pieces]
    assert template.render(row) == "".join(parts)
    escaped = "".join(
        "{" + piece.text + "}" if piece.is_column else piece.text.replace("{", "{{").replace("}", "}}")
        for piece in template.pieces
    )
    assert compile_template(escaped, list(row)) == template


@given(TEXT.filter(lambda text: "{" not in text and "}" not in text), TEXT)
def test_any_column_can_be_used(name: str, cell: str) -> None:
    if not name.strip():
        with pytest.raises(DataError):
            compile_template("{" + name + "}", [])
        return
    assert compile_template("<{" + name + "}>", [name]).render({name: cell}) == f"<{cell}>"


def test_the_same_examples_are_drawn_whichever_modules_are_loaded() -> None:
    if settings.default.derandomize:  # not with `--hypothesis-profile=explore`
        assert not providers._get_local_constants().strings
