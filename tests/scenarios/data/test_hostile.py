"""Awkward and hostile files: each has one required outcome, a table with its notices or words with place and remedy.

The rows are those of a catalogue of what goes wrong with real uploads; the table form is meant to grow.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from toolkit.data.read_options import UnreadableError
from toolkit.data.table import Table
from toolkit.errors import DataError


@dataclass(frozen=True)
class Case:
    """Either `refused` (words of the message or hint) or `columns` and `rows`, with words of the notices."""

    name: str
    kind: str
    content: bytes
    refused: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: list[tuple[str | None, ...]] = field(default_factory=list)
    notices: tuple[str, ...] = ()


def _excel() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return out.getvalue()


def _csv(name: str, content: str | bytes, *refused: str, **expected: object) -> Case:
    return Case(name, "csv", content.encode() if isinstance(content, str) else content, refused, **expected)  # type: ignore[arg-type]


def _json(name: str, content: str | bytes, *refused: str, **expected: object) -> Case:
    return Case(name, "json", content.encode() if isinstance(content, str) else content, refused, **expected)  # type: ignore[arg-type]


AB = ("a", "b")
CASES = [
    # not text, or nothing
    *[Case(f"empty {kind}", kind, b"", ("empty (0 bytes)",)) for kind in ("csv", "json")],
    *[
        Case(f"blank lines {kind}", kind, b"\n\n \n" if kind == "json" else b"\n\n", ("only blank lines",))
        for kind in ("csv", "json")
    ],
    _csv("header only", "a,b\n", "0 rows"),
    *[_json(f"no rows: {text}", text, "0 rows") for text in ("[]", "{}", '{"data": []}')],
    _json("no keys", "[{}, {}]", "None of the 2 objects has a key"),
    *[Case(f"NULs {kind}", kind, b"\0" * 5000, ("binary file",)) for kind in ("csv", "json")],
    *[Case(f"excel {kind}", kind, _excel(), ("an Excel file", "CSV UTF-8")) for kind in ("csv", "json")],
    *[
        Case(f"gzip {kind}", kind, gzip.compress(b"a,b\n" * 9), ("a gzip archive", "Unpack"))
        for kind in ("csv", "json")
    ],
    _csv("old excel", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 99, "old Excel"),
    _csv("parquet", b"PAR1xxxx", "Parquet", "ends with .parquet"),
    _csv("pdf", b"%PDF-1.7\n", "PDF"),
    *[
        Case(f"web page {kind}", kind, b"\n<!DOCTYPE html><html>404</html>", ("web page", "error page"))
        for kind in ("csv", "json")
    ],
    # encodings
    _csv("utf-8 mark", "\ufeffa,b\n1,2\n", columns=AB, rows=[("1", "2")], notices=("byte order mark",)),
    _json("utf-8 mark in json", '\ufeff[{"a": 1}]', columns=("a",), rows=[("1",)], notices=("byte order mark",)),
    _csv("utf-16", "a,b\né,2\n".encode("utf-16"), columns=AB, rows=[("é", "2")], notices=("UTF-16",)),
    _json("utf-16 json", '[{"a": "é"}]'.encode("utf-16"), columns=("a",), rows=[("é",)], notices=("UTF-16",)),
    _csv("utf-16 unmarked", "a,b\né,2\n".encode("utf-16-le"), columns=AB, rows=[("é", "2")], notices=("UTF-16",)),
    _csv("utf-16 unmarked, big", "a,b\né,2\n".encode("utf-16-be"), columns=AB, rows=[("é", "2")], notices=("UTF-16",)),
    _csv("utf-32", "a,b\né,2\n".encode("utf-32"), columns=AB, rows=[("é", "2")], notices=("UTF-32",)),
    _csv("cp1252", "a,b\nx,2\ncaf\xe9,2\n".encode("cp1252"), "0xE9 at byte 11 (line 3)", "cp1252", "café,2"),
    _csv("mixed encodings", "é,b\n1,2\n".encode() + b"\xff,2\n", "0xFF at byte 9 (line 3)"),
    _csv("cut inside a character", b"a,b\n1,\xc3", "0xC3 at byte 6 (line 2)", "1,Ã"),
    _csv("utf-16 cut", "a,b".encode("utf-16") + b"x", "ends in the middle of a character, at byte 8"),
    _csv("surrogate as utf-8", b"a,b\n1,\xed\xa0\x80\n", "0xED at byte 6"),
    _json("half a character", '[{"a": "x"}, {"a": "\\ud83d"}]', "Row 2", "column 'a'", "\\ud83d"),
    _json("half a character as key", '[{"\\ud83d": "x"}]', "column name", "Rename"),
    _json("whole pair", '[{"a": "\\ud83d\\ude00"}]', columns=("a",), rows=[("😀",)]),
    _csv("nul in a cell", "a,b\n" + "1,2\n" * 60 + "x\0y,2\n", "Row 61 (line 62), column 'a'", "NUL", "'x'"),
    _json("nul in a cell, json", '[{"a": "x\\u0000"}]', "Row 1", "column 'a'", "NUL"),
    # the size of things
    _csv("cell of a million", "a,b\n1," + "x" * 1_000_000, columns=AB, rows=[("1", "x" * 1_000_000)]),
    _csv("cell of more", "a,b\n1,2\n1," + "x" * 1_000_001, "line 3", "more than 1,000,000 characters"),
    _json(
        "cell of more, json", '{"a": 1}\n{"a": "' + "x" * 1_000_001 + '"}', "Row 2 (line 2), column 'a'", "1,000,001"
    ),
    _csv("20,000 columns", ",".join(f"c{i}" for i in range(20_000)) + "\n", "20,000 columns", "1,000"),
    _json("too many keys", "[{" + ",".join(f'"c{i}": 1' for i in range(1001)) + "}]", "more than 1,000 columns"),
    _json("long number", '[{"a": ' + "9" * 5000 + "}]", columns=("a",), rows=[("9" * 5000,)]),
    _json("deep nesting", '[{"a": ' + "[" * 100_000 + "]" * 100_000 + "}]", "Row 1", "nested too deeply"),
    _json("deep nesting, lines", '{"a": 1}\n{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "Row 2 (line 2)", "deeply"),
    # rows that don't fit
    _csv("too many cells", "a,b\n1,2\n1,2,3\n4,5\n6\n", "2 rows do not fit", "line 3 has 3, line 5 has 1"),
    _csv("first row longer than the header", "a,b\n1,2,3\n4,5,6\n", "2 rows do not fit", "line 2 has 3"),
    _csv("too few cells", "a,b\n1\n2\n", "line 2 has 1", "missing delimiters"),
    _csv("many bad rows", "a,b\n" + "1\n" * 50, "50 rows do not fit", "line 11 has 1, and 40 more"),
    _csv(
        "trailing comma in rows",
        "a,b\n1,2,\n3,4,\n",
        columns=AB,
        rows=[("1", "2"), ("3", "4")],
        notices=("Every row ends",),
    ),
    _csv("trailing comma everywhere", "a,b,\n1,2,\n", columns=AB, rows=[("1", "2")], notices=("Every line ends",)),
    _csv("trailing comma sometimes", "a,b\n1,2,\n3,4\n", "1 row does not fit", "line 2 has 3"),
    _csv("open quote", 'a,b\n1,2\n"x,2\n3,4\n', "row at line 3 has an opening quote", "without a closing quote"),
    _csv("text after a quote", 'a,b\n1,2\n"x"y,2\n', "line 3", "after its closing quote"),
    # delimiters and headers
    _csv("semicolons", "a;b\n1,5;2\n", columns=AB, rows=[("1,5", "2")], notices=("semicolons",)),
    _csv("tabs", "a\tb\n1\t2\n", columns=AB, rows=[("1", "2")], notices=("tabs",)),
    _csv("bars", "a|b\n1|2\n", columns=AB, rows=[("1", "2")], notices=("vertical bars",)),
    _csv("excel's sep line", "sep=;\na;b\n1;2\n", columns=AB, rows=[("1", "2")], notices=("semicolons",)),
    _csv("a comma in the header of a semicolon file", "a, x;b\n1;2\n", columns=("a, x", "b"), rows=[("1", "2")]),
    _csv("one column", "a\nx y\n\nz;\n", columns=("a",), rows=[("x y",), ("z;",)], notices=("1 blank line was",)),
    _csv("newlines", 'a,b\r\n1,"x\r\ny"\r\n"\r",2\r\n', columns=AB, rows=[("1", "x\r\ny"), ("\r", "2")]),
    _csv("carriage returns alone", "a,b\r1,2\r3,4", columns=AB, rows=[("1", "2"), ("3", "4")]),
    _csv("equal names", "text,x,text\n1,2,3\n", "Columns 1, 3 are all named 'text'"),
    _csv("equal but for spaces", "a, a\n1,2\n", "named 'a'"),
    _csv("names with spaces", " a ,b\n1,2\n", columns=AB, rows=[("1", "2")], notices=("Spaces around",)),
    _csv(
        "names of any kind", "A,a,é,e\u0301\n1,2,3,4\n", columns=("A", "a", "é", "e\u0301"), rows=[("1", "2", "3", "4")]
    ),
    _csv("no name", ",b\n1,2\n", columns=("column 1", "b"), rows=[("1", "2")], notices=("column 1",)),
    _csv("no last name", "a,\n1,2\n", columns=("a", "column 2"), rows=[("1", "2")], notices=("column 2",)),
    _csv("braces in a name", "{a},b\n1,2\n", columns=("{a}", "b"), rows=[("1", "2")], notices=("braces",)),
    _csv(
        "names that are code elsewhere",
        "__class__,items,self,0,a.b,😀,\u202eabc\n1,2,3,4,5,6,7\n",
        columns=("__class__", "items", "self", "0", "a.b", "😀", "\u202eabc"),
        rows=[("1", "2", "3", "4", "5", "6", "7")],
    ),
    _csv("nul in a name", "a\0,b\n" + "1,2\n" * 60, "column name 'a\\0'"),
    _csv("json as csv", '[{"a": 1}]', "This is JSON", "Choose JSON"),
    _csv("json lines as csv", '{"a": 1}\n{"a": 2}', "This is JSON"),
    # text stays text
    _csv("words", "a\nNA\nnull\nNone\nnan\n", columns=("a",), rows=[("NA",), ("null",), ("None",), ("nan",)]),
    _csv(
        "numbers",
        "a\n007\n1e5\nTrue\n2024-01-02\n" + "1" * 23,
        columns=("a",),
        rows=[("007",), ("1e5",), ("True",), ("2024-01-02",), ("1" * 23,)],
    ),
    _csv("a missing label", "a,b\n1,x\n2,y\n,z\n", columns=AB, rows=[("1", "x"), ("2", "y"), (None, "z")]),
    _csv("spaces are text", "a,b\n  , x \n", columns=AB, rows=[("  ", " x ")]),
    _csv("formulas and markup", "a,b\n=cmd|x,<b>\n", columns=AB, rows=[("=cmd|x", "<b>")]),
    _json(
        "numbers as written",
        '[{"a": 3.10, "b": 1E400}, {"a": -0, "b": 12345678901234567890123}]',
        columns=AB,
        rows=[("3.10", "1E400"), ("-0", "12345678901234567890123")],
    ),
    _json(
        "mixed types",
        '[{"a": 1}, {"a": true}, {"a": "x"}, {"a": null}, {"a": ""}]',
        columns=("a",),
        rows=[("1",), ("true",), ("x",), (None,), ("",)],
    ),
    _json("absent keys", '[{"a": 1}, {"b": 2}]', columns=AB, rows=[("1", None), (None, "2")]),
    # shapes of JSON
    _json("lines", '{"a": 1}\n\n{"a": 2}\n', columns=("a",), rows=[("1",), ("2",)]),
    _json("one line", '{"a": 1, "b": "x"}', columns=AB, rows=[("1", "x")]),
    _json("objects one after the other", '{\n"a": 1\n}\n{\n"a": 2\n}', columns=("a",), rows=[("1",), ("2",)]),
    _json(
        "torn last line", '{"a": 1}\n{"a": 2}\n{"a": ', "Row 3 is not valid JSON, at line 3, character", "incomplete"
    ),
    _json("torn list", '[{"a": 1}, {"a": 2}', "After row 2", "the file ends", "incomplete"),
    _json(
        "wrapped",
        '{"version": 2, "data": [{"a": 1}]}',
        columns=("a",),
        rows=[("1",)],
        notices=("list 'data'", "version"),
    ),
    _json("two lists", '{"x": [{"a": 1}], "y": [{"a": 1}, {"a": 2}]}', "several lists of rows: 'x' (1), 'y' (2)"),
    _json(
        "object of columns",
        '{"a": [1, 2], "b": ["x", null]}',
        columns=AB,
        rows=[("1", "x"), ("2", None)],
        notices=("a list for each column",),
    ),
    _json("uneven columns", '{"a": [1, 2], "b": ["x"]}', "'a' has 2, 'b' has 1"),
    _json("pandas' other form", '{"a": {"0": 1}, "b": {"0": 2}}', columns=AB, rows=[("1", "2")], notices=("pandas",)),
    *[
        _json(f"top level {text}", text, "must be a list of objects", found)
        for text, found in (
            ("null", "found null"),
            ("12", "the number 12"),
            ('"x"', "a string"),
            ("true", "found true"),
            ("NaN", "number NaN"),
        )
    ],
    _json("list of numbers", "[1, 2]", "row 1 (line 1, character 2) is the number 1"),
    _json("list of lists", '[["a"], ["b"]]', "is a list"),
    _json("mixed rows", '[{"a": 1},\n "x"]', "row 2 (line 2, character 2) is a string"),
    _json("mixed lines", '{"a": 1}\n{"a": 2}\n3\n', "row 3 (line 3) is the number 3"),
    _json("two on a line", '{"a": 1}\n{"a": 1} {"a": 2}\n', "Line 2 continues after its object"),
    _json(
        "nested", '[{"a": {"x": [1.50, "é"]}}]', columns=("a",), rows=[('{"x": [1.50, "é"]}',)], notices=("JSON text",)
    ),
    _json(
        "openai's older form",
        '{"prompt": "hi ->", "completion": " ho\\n"}\n{"prompt": "a", "completion": "b"}',
        columns=("prompt", "completion"),
        rows=[("hi ->", " ho\n"), ("a", "b")],
        notices=("OpenAI's older fine-tuning format", "{prompt} as the prompt and {completion}"),
    ),
    _json(
        "older form and more",
        '{"prompt": "a", "completion": "b", "id": 1}',
        columns=("prompt", "completion", "id"),
        rows=[("a", "b", "1")],
    ),
    _json(
        "chats",
        '[{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}]',
        columns=("messages",),
        rows=[('[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]',)],
        notices=("contains 1 conversation.",),
    ),
    _json(
        "one chat",
        '{"messages": [{"role": "assistant", "content": "hi"}]}',
        columns=("messages",),
        rows=[('[{"role": "assistant", "content": "hi"}]',)],
        notices=("contains 1 conversation.",),
    ),
    _json(
        "a list of chats",
        '[[{"role": "assistant", "content": "hi"}]]',
        columns=("messages",),
        rows=[('[{"role": "assistant", "content": "hi"}]',)],
    ),
    *[
        _json(f"{word}", f'[{{"a": 1}}, {{"a": {word}}}]', "Row 2", "column 'a'", f"{word} is not valid JSON")
        for word in ("NaN", "Infinity", "-Infinity")
    ],
    _json("nan inside", '[{"a": [NaN]}]', "Row 1", "NaN is not valid JSON"),
    _json("repeated key", '[{"a": 1}, {"a": 1, "a": 2}]', "Row 2", "'a' appears twice"),
    _json("repeated key in a line", '{"a": 1}\n{"a": 1, "a": 2}', "Row 2 (line 2)", "'a' appears twice"),
    _json("no key's name", '[{"": 1, "b": 2}]', columns=("column 1", "b"), rows=[("1", "2")], notices=("column 1",)),
    # what is nearly JSON
    *[
        _json(name, content, columns=("a",), rows=[("1",)], notices=("not strict JSON: trailing commas",))
        for name, content in (
            ("comma after the last row", '[{"a": 1},\n]'),
            ("comma after the last key", '[{"a": 1,}]'),
        )
    ],
    _json("python", "[{'a': 1}]", "Row 1", "Python, not JSON"),
    _json("python's None", '[{"a": None}]', "Python, not JSON"),
    _json(
        "comments", '[{"a": 1}, // one\n{"a": 2}]', columns=("a",), rows=[("1",), ("2",)], notices=("JSON: comments",)
    ),
    _json("csv as json", "a,b\n1,2\n", "CSV"),
    _json("more after the list", '[{"a": 1}]\n[{"a": 2}]', "More text follows the list", "line 2, character 1"),
    _json("missing comma", '[{"a": 1} {"a": 2}]', "After row 1, a comma or ] is expected"),
]


def test_the_catalogue_is_whole() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
    assert len(names) > 110


GOLDEN = Path(__file__).with_name("golden_reports.json")
"""The report of every case, word for word; WRITE_GOLDEN=1 writes it again."""


def _report(case: Case, open_bytes: Callable[..., Table]) -> dict[str, object]:
    try:
        table = open_bytes(case.content, case.kind)
    except DataError as error:
        offers = [offer.label for offer in error.offers] if isinstance(error, UnreadableError) else []
        return {"message": error.message, "hint": error.hint, "offers": offers}
    columns = [name[:40] for name in table.columns[:8]]
    return {"columns": columns, "rows": table.rows, "notices": list(table.notices), "chats": dict(table.chats)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_file_has_its_report(case: Case, open_bytes: Callable[..., Table]) -> None:
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    found = _report(case, open_bytes)
    if os.environ.get("WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps({**golden, case.name: found}, ensure_ascii=False, indent=1, sort_keys=True) + "\n")
        return
    assert found == golden[case.name]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_file_has_its_outcome(case: Case, open_bytes: Callable[..., Table]) -> None:
    if case.refused:
        with pytest.raises(DataError) as caught:
            open_bytes(case.content, case.kind)
        assert caught.value.message
        assert caught.value.hint, "every refusal names the next action"
        for words in case.refused:
            assert words in str(caught.value)
        return
    table = open_bytes(case.content, case.kind)
    assert table.columns == case.columns
    assert [tuple(row.values()) for row in table.page(0, 100)] == case.rows
    assert table.rows == len(case.rows)
    empty = [sum(row[i] is None for row in case.rows) for i in range(len(case.columns))]
    assert dict(table.missing) == dict(zip(case.columns, empty, strict=True))
    for words in case.notices:
        assert words in " ".join(table.notices)
