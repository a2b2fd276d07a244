"""Text that a spreadsheet, a terminal or a browser would take for more than text: formulas, control codes, markup."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterator
from functools import partial

import pyarrow as pa

from benchmarks.probing.probe import Probe
from toolkit.evaluation.download import escape_formula, rows_as_csv
from toolkit.system.printable import clean_terminal_text

FORMULAS = (
    "=1+1",
    "+1",
    "-1+2",
    "@SUM(A1)",
    "=cmd|' /C calc'!A0",
    '=HYPERLINK("http://evil.example")',
    "\N{FULLWIDTH EQUALS SIGN}1",
    "\N{FULLWIDTH PLUS SIGN}1",
    "\N{FULLWIDTH HYPHEN-MINUS}1",
    "\N{FULLWIDTH COMMERCIAL AT}SUM",
    "\N{SMALL PLUS SIGN}1",
    "\N{SMALL EQUALS SIGN}1",
    "\N{SMALL HYPHEN-MINUS}1",
    "\N{SMALL COMMERCIAL AT}SUM",
    "\N{MINUS SIGN}1",
    "\N{SUPERSCRIPT EQUALS SIGN}1",
    "\N{SUPERSCRIPT PLUS SIGN}1",
)
PREFIXES = (
    "",
    " ",
    "\t",
    "\r",
    "\n",
    "\r\n",
    "\x00",
    "\x01",
    "\x0b",
    "\x0c",
    "\x1b",
    "\x7f",
    "\x85",
    "\xa0",
    "\xad",
    "\u034f",
    "\u061c",
    "\u115f",
    "\u1160",
    "\u17b4",
    "\u180e",
    "\u2000",
    "\u200b",
    "\u200c",
    "\u200d",
    "\u200e",
    "\u2028",
    "\u2029",
    "\u202a",
    "\u202e",
    "\u205f",
    "\u2060",
    "\u2063",
    "\u2066",
    "\u206f",
    "\u2800",
    "\u3000",
    "\u3164",
    "\ufe0f",
    "\ufeff",
    "\uffa0",
    "\ufff9",
    "\U000e0020",
    "\U000e0001",
    "\U000e0100",
    "\U0001d173",
    "  \u200b\t",
    "\u0301",
)
SEPARATORS = (";", "\t", ",", "\n", "\r", '"', '";', '",', '"\n', "|")
CELLS = ("prompt", "expected", "answer_0", "name")
TERMINAL = (
    *(chr(code) for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"),
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\x1b]8;;http://evil.example\x1b\\",
    "\x1bP1\x1b\\",
    "\x9b2J",
    "\u202e",
    "\u2066",
    "\u200f",
    "a\rb",
    "\x1b[8m",
    "\x1b(0",
    "\x07",
    "\b\b\b",
)
MARKUP = (
    "https://evil.example/a?q=1",
    "http://evil.example",
    "HTTPS://EVIL.EXAMPLE",
    "www.evil.example/x",
    "WWW.evil.example",
    "ftp://evil.example",
    "bob@evil.example",
    "mailto:bob@evil.example",
    "xmpp:a@b.example",
    "tel:+491",
    "javascript:alert(1)",
    "<https://evil.example>",
    "<bob@evil.example>",
    "[l](https://evil.example)",
    "[l][r]\n\n[r]: http://evil.example",
    "![i](https://evil.example/i.png)",
    "![i][r]",
    '<img src="http://evil.example/i.png">',
    "<script>alert(1)</script>",
    "<b>b</b>",
    "<!-- c -->",
    "<a href='http://evil.example'>x</a>",
    "<svg onload=alert(1)>",
    "<iframe src=//evil.example>",
    "**bold**",
    "__bold__",
    "*em*",
    "_em_",
    "~~del~~",
    "~sub~",
    "`code`",
    "```\ncode\n```",
    "~~~\ncode\n~~~",
    "    indented",
    "# title",
    "###### title",
    "title\n===",
    "title\n---",
    "- item",
    "* item",
    "+ item",
    "1. item",
    "1) item",
    "- [ ] task",
    "> quote",
    "---",
    "***",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "$x^2$",
    "$$x$$",
    "\\(x\\)",
    "\\[x\\]",
    "$\\int_0^1$",
    ":red[text]",
    ":red-background[text]",
    ":rainbow[text]",
    ":blue-badge[text]",
    ":small[text]",
    ":green[a:red[b]]",
    ':color[t]{foreground="red"}',
    ":smile:",
    ":+1:",
    ":streamlit:",
    ":material/error:",
    ":material/bug_report:",
    "a -> b",
    "a <- b",
    "a <-> b",
    "a -- b",
    "a >= b",
    "a <= b",
    "a ~= b",
    "&lt;b&gt;",
    "&copy;",
    "&#x3c;b&#x3e;",
    "[^1]\n\n[^1]: note",
    "::note[x]",
    ":::note\nx\n:::",
    "a\\\nb",
    "a  \nb",
    "term\n: definition",
    "{.cls}",
    "==mark==",
    "^sup^",
    "H~2~O",
    "@user",
    "#123",
    "GH-1",
    "--",
    "---a",
    "...",
    "(c)",
    "\\*not em\\*",
    "\\",
    "\\\\",
    "[ ]",
    "[x](javascript:alert(1))",
    "[x](data:text/html,x)",
    "![](//evil.example/p)",
    "//evil.example/x",
    "evil.example",
    "https:evil.example",
    "http:/\\evil.example",
    "\u202eevil",
    "\u2066x",
    "a\x00b",
    "\ufffc",
    "https://evil.example/\u00a0now",
    "ｈｔｔｐｓ://evil.example",
    "<details><summary>s</summary>x",
)
WRAPPINGS = ("{}", "x {} y", "({})", '"{}"', "a{}", "*{}*", "{} {}", "[{}]", "x,{}.", "_{}")


def formula_probes() -> Iterator[Probe]:
    for column in CELLS:
        for formula in FORMULAS:
            for prefix in PREFIXES:
                yield Probe(
                    "csv",
                    f"{prefix + formula!r} in {column}",
                    partial(_find_formula, prefix + formula, column),
                    isolated=False,
                )
        for separator in SEPARATORS:
            for formula in FORMULAS[:4]:
                text = f"a{separator}{formula}"
                yield Probe("csv", f"{text!r} in {column}", partial(_find_formula, text, column), isolated=False)


def _find_formula(text: str, column: str) -> str:
    """Return which cell a spreadsheet would run."""
    texts = {"row": 0, "prompt": "p", "expected": "e", "answer_0": "a"}
    name = text if column == "name" else "base"
    table = pa.table({key: [text if key == column else value] for key, value in texts.items()})
    written = io.StringIO(rows_as_csv(table, [name]).removeprefix("\ufeff"), newline="")
    running = [cell for row in csv.reader(written) for cell in (*row, escape_formula(text)) if _runs(cell)]
    return f"the cell {running[0][:40]!r} runs" if running else ""


def _runs(cell: str) -> bool:
    visible = [
        letter
        for letter in cell
        if unicodedata.category(letter)[0] not in "CZM" and letter not in "\u115f\u1160\u2800\u3164\uffa0"
    ]
    first = unicodedata.normalize("NFKC", visible[0])[:1] if visible else ""
    return bool(first) and first in "=+-@\N{MINUS SIGN}" and not cell.lstrip("-").replace(".", "", 1).isdigit()


def terminal_probes() -> Iterator[Probe]:
    for code in TERMINAL:
        for form in ("{}", "a{}b", "{}{}", "x\n{}"):
            text = form.format(code, code)
            yield Probe("terminal", repr(text), partial(_find_control, text), isolated=False)


def _find_control(text: str) -> str:
    kept = [
        letter for letter in clean_terminal_text(text) if letter not in "\n\t" and unicodedata.category(letter) == "Cc"
    ]
    kept += [
        letter
        for letter in clean_terminal_text(text)
        if unicodedata.bidirectional(letter) in ("RLO", "LRO", "RLI", "LRI", "FSI")
    ]
    return f"prints {kept!r}" if kept else ""


def foreign_texts() -> list[str]:
    """Return markup alone and inside of other text."""
    return [form.replace("{}", text) for text in MARKUP for form in WRAPPINGS]
