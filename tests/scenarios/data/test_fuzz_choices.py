"""Random input over the choices that a person has: encodings, delimiters, shapes, Parquet, conversations, templates.

The same promise as in `test_fuzz.py`: a table that the standard library agrees with, or a DataError in words.
"""

from __future__ import annotations

import csv
import io
import json
import random
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.scenarios.data.test_fuzz import KEY, NAME, TEXT, VALUE, _expected, _read
from toolkit.data.conversations import ChatColumns, looks_like_chat, parse_conversation
from toolkit.data.examples import templates
from toolkit.data.examples.templates import MAX_TEMPLATE, compile_template
from toolkit.data.read_options import DEFAULT_READ_OPTIONS, ReadOptions
from toolkit.data.readers.csv_layout import has_spaces_before_quotes
from toolkit.errors import DataError
from toolkit.system.paths import PROJECT_ROOT

QUICK = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
CODECS = ("utf-8", "utf-16", "cp1252", "cp1250", "cp1251", "koi8-r", "mac-roman", "cp932", "euc-jp", "gb18030", "big5")


UNICODE = ("utf-8", "utf-16", "gb18030")


@cache
def _letters(codec: str) -> st.SearchStrategy[str]:
    """Return the characters that an encoding has and gives back."""
    if codec in UNICODE:
        return st.characters(exclude_characters="\0\ufeff", exclude_categories=["Cs"])
    letters = map(chr, range(1, 0x10000))  # the others have none above; asking Hypothesis for them takes seconds each
    return st.sampled_from([c for c in letters if c == c.encode(codec, "ignore").decode(codec, "ignore")])


def _written(rows: list[list[str]], delimiter: str = ",") -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows(rows)
    return out.getvalue()


@QUICK
@given(st.sampled_from(CODECS), st.data())
def test_a_chosen_encoding_gives_back_every_letter_that_it_has(codec: str, data: st.DataObject) -> None:
    drawn = data.draw(st.lists(st.text(_letters(codec), max_size=8), min_size=2, max_size=8))
    cells = [c for c in drawn if c.encode(codec).decode(codec) == c]
    content = _written([["a", "b"], *[[cell, "x"] for cell in cells], ["y", "z"]]).encode(codec)
    found = _read(content, "csv", ReadOptions(encoding=codec))
    assert [row["a"] for row in found] == [*(cell or None for cell in cells), "y"]


OPTIONS = st.builds(
    ReadOptions,
    encoding=st.sampled_from([None, *CODECS, "base64", "rot13", "nonsense", ""]),
    delimiter=st.sampled_from([None, ",", ";", "\t", "|", "x", '"', "\n", " ", "é"]),
    rows_from=st.sampled_from([None, "a", "b", ""]),
    flatten=st.booleans(),
    bad_rows=st.sampled_from([None, "skip", "fill"]),
    repair_text=st.booleans(),
)


@QUICK
@given(st.binary(max_size=80), st.sampled_from(["csv", "json"]), OPTIONS)
def test_any_bytes_under_any_choices(content: bytes, kind: str, options: ReadOptions) -> None:
    try:
        assert _read(content, kind, options)
    except DataError as error:
        assert error.message and error.hint


@QUICK
@given(
    st.text(st.sampled_from("ab1 ,;\t|\"\n'x"), max_size=60),
    st.sampled_from(",;\t|x"),
    st.sampled_from(["skip", "fill"]),
)
def test_rows_that_do_not_fit_are_left_out_or_filled_and_no_others(text: str, delimiter: str, bad: str) -> None:
    text = f"q{delimiter}w\n{text}"
    try:
        found = _read(text.encode(), "csv", ReadOptions("utf-8", delimiter, bad_rows=bad))
    except DataError as error:
        assert error.hint
        return
    spaced = has_spaces_before_quotes(text, delimiter)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=spaced)
    rows = [row for row in reader if row][1:]
    kept = [row for row in rows if len(row) == 2 or row[2:] == [""] or (len(row) < 2 and bad == "fill")]
    assert [[row["q"], row["w"]] for row in found] == [[(c or None) for c in [*row, ""][:2]] for row in kept]


ROWS = st.lists(st.dictionaries(KEY, VALUE, min_size=1, max_size=3), min_size=2, max_size=4)


@QUICK
@given(ROWS, ROWS, st.sampled_from(["wrapped", "chosen", "columns"]))
def test_every_shape_holds_the_same_rows(rows: list[dict[str, Any]], others: list[dict[str, Any]], shape: str) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    options = DEFAULT_READ_OPTIONS
    if shape == "wrapped":
        document: Any = {"version": 1, "data": rows}
    elif shape == "chosen":
        document, options = {"other": others, "mine": rows}, ReadOptions(rows_from="mine")
    else:
        document = {name: [row.get(name) for row in rows] for name in names}
        if any(all(isinstance(cell, dict) for cell in cells) for cells in document.values()):
            return  # lists of objects are rows themselves
    expected = [{name: _expected(row.get(name)) for name in names} for row in rows]
    assert _read(json.dumps(document).encode(), "json", options) == expected


def _flat(row: dict[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """(name, value) of every leaf."""
    found: list[tuple[str, Any]] = []
    for name, value in row.items():
        found += _flat(value, f"{before}{name}.") if isinstance(value, dict) and value else [(before + name, value)]
    return found


@QUICK
@given(ROWS)
def test_flattening_loses_nothing_or_refuses(rows: list[dict[str, Any]]) -> None:
    try:
        found = _read(json.dumps(rows).encode(), "json", ReadOptions(flatten=True))
    except DataError as error:
        assert error.hint
        return
    for row, cells in zip(rows, found, strict=True):
        pairs = _flat(row)
        wanted = {name: _expected(value) for name, value in pairs if name.strip()}
        assert {name: cells[name] for name in wanted} == wanted
        assert len(dict(pairs)) == len(pairs), "two values of one name are refused"


@QUICK
@given(st.lists(NAME, min_size=1, max_size=3, unique=True), st.lists(st.lists(TEXT, min_size=3, max_size=3), min_size=1,
                                                                      max_size=5))  # fmt: skip
def test_parquet_gives_back_every_text(names: list[str], rows: list[list[str]]) -> None:
    out = io.BytesIO()
    columns = {name: pa.array([row[at] for row in rows], pa.string()) for at, name in enumerate(names)}
    pq.write_table(pa.table(columns), out)
    found = _read(out.getvalue(), "parquet", DEFAULT_READ_OPTIONS)
    assert found == [dict(zip(names, row, strict=False)) for row in rows]


DAMAGE = """
import random, sys, tempfile
from pathlib import Path
from toolkit.data.read_options import limit_process_resources
from toolkit.data.readers.read_file import TABLE_FILE, ReadRequest, read_file_to_table
from toolkit.data.table import load_table
from toolkit.errors import DataError
whole = bytearray(Path(sys.argv[1]).read_bytes())
limit_process_resources(len(whole))
rng, ends = random.Random(int(sys.argv[2])), {"read": 0, "refused": 0}
for _ in range(int(sys.argv[3])):
    content = bytearray(whole)
    for _ in range(rng.choice((1, 1, 2, 8))):
        content[rng.randrange(len(content))] = rng.randrange(256)
    content = content[: rng.choice((len(content), len(content), rng.randrange(len(content))))]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source")
        source.write_bytes(content)
        try:
            read_file_to_table(ReadRequest(str(source), folder, "parquet", "0" * 64, "fuzz"))
            load_table(Path(folder, TABLE_FILE)).page(0, 9)
            ends["read"] += 1
        except DataError as error:
            assert error.message and error.hint
            ends["refused"] += 1
print(ends["read"], ends["refused"])
"""


def test_damaged_parquet_is_refused_in_words(tmp_path: Path) -> None:
    """In the confined process in which files are read; every file is damaged in another way."""
    table = pa.table({"q": [f"question {i}" for i in range(40)], "n": list(range(40)), "l": [[i] for i in range(40)]})
    pq.write_table(table, tmp_path / "whole.parquet")
    argv = [sys.executable, "-c", DAMAGE, str(tmp_path / "whole.parquet"), "1", "400"]
    done = subprocess.run(argv, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    read, refused = map(int, done.stdout.split())
    assert read + refused == 400
    assert refused > 50


MESSAGE = st.one_of(
    VALUE,
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.one_of(st.sampled_from(["user", "assistant", "system", "tool", "Human", "gpt"]), VALUE),
            "from": st.sampled_from(["human", "gpt", "x"]),
            "content": st.one_of(TEXT, VALUE, st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}))),
            "value": TEXT,
            "weight": st.one_of(st.sampled_from([0, 1, 1.0, True]), VALUE),
            "tool_calls": VALUE,
        },
    ),
)


def _expanded(messages: list[Any]) -> list[Any]:
    """Write each [question, answer] as two messages, without the one that is missing or blank."""
    found: list[Any] = []
    for each in messages:
        pair = zip(("user", "assistant"), each, strict=True) if isinstance(each, list) else None
        found += [each] if pair is None else [{"role": role, "content": text} for role, text in pair if text]
    return found


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(st.lists(MESSAGE, max_size=5).map(json.dumps), st.text(max_size=30), st.sampled_from(["[" * 5000, ""]))
)
def test_any_cell_is_a_conversation_or_refused(cell: str) -> None:
    looks_like_chat(cell)
    kept = ChatColumns(skip=True).check_cells("c", [cell], 1)
    assert kept[0] in (cell, None)
    try:
        turns = parse_conversation(cell)
    except DataError as error:
        assert error.message and error.hint
        return
    assert turns[-1].learned and turns[-1].role == "assistant"
    for turn, message in zip(turns, _expanded(json.loads(cell)), strict=False):
        content = message.get("content", message.get("value"))
        text = content if isinstance(content, str) else "".join(part["text"] for part in content)
        assert turn.content == text, "nothing of what was said is changed"
        assert turn.role in ("system", "user", "assistant", "tool")


@given(st.text(max_size=60), st.lists(NAME, max_size=4, unique=True), st.lists(TEXT, min_size=4, max_size=4))
def test_any_template_over_any_columns(text: str, names: list[str], cells: list[str]) -> None:
    for template in (text, text + "".join("{" + name + "}" for name in names)):
        try:
            compiled = compile_template(template, names)
        except DataError as error:
            assert error.message and error.hint
            continue
        row: dict[str, str | None] = dict(zip(names, cells, strict=False))
        many = compiled.render_many({name: [cell or ""] * 3 for name, cell in row.items()}, 3)
        assert many == [compiled.render(row)] * 3


@pytest.mark.parametrize("text", ["{x}", "{", "}", "{{", "{x.y}", "{ }", "{a!r:>9}", "}{", "{x" * 3 + "\n"])
def test_a_long_template_of_mistakes_costs_a_bounded_number_of_comparisons(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    nearest = templates.find_nearest_column
    monkeypatch.setattr(
        templates, "find_nearest_column", lambda name, columns: calls.append(name) or nearest(name, columns)
    )
    columns = [f"column {random.Random(i).random()}" for i in range(1000)]
    try:
        compile_template((text * MAX_TEMPLATE)[:MAX_TEMPLATE], columns)
    except DataError as error:
        assert len(error.message.splitlines()) <= templates.MAX_LISTED + 1
    assert len(calls) <= 2 * templates.MAX_LISTED
