"""Downloads: formulas are escaped in CSV, and every text is unchanged in JSON."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from tests.evaluation.planted import make_run, plant
from toolkit.evaluation.download import escape_formula, rows_as_csv, rows_as_json
from toolkit.evaluation.row_table import read_row_table
from toolkit.evaluation.statistics.word_diff import diff_words

FORMULAS = ['=HYPERLINK("http://x","y")', "+1", "-1", "@SUM(A1)", "\t=1", "  =2"]
# zero width, joiners, BOM, soft hyphen, text direction, controls, fillers, a tag, a variation selector, a lone mark
INVISIBLE = [
    "\u200b", "\u200c", "\u200d", "\u2060", "\u2063", "\ufeff", "\xad", "\u202e", "\u2066", "\u200f", "\u061c", "\x00",
    "\x1b", "\x7f", "\x85", "\u180e", "\u115f", "\u3164", "\uffa0", "\u2800", "\u034f", "\ufe0f", "\U000e0020",
    "\u0301", "\xa0", "\u3000", "\u2028", "\ufdd0", "\ue000", "\u206a", "\ufff9",
]  # fmt: skip
WIDE = ["＝1+1", "＋1", "－1", "＠SUM", "﹦1", "﹢1", "﹣1", "﹫SUM", "−1"]
NASTY = [*FORMULAS, 'a "quoted", cell\nwith a line', "ü\u202e🙂", "'=x"]


def test_formulas_are_escaped_in_csv_and_unchanged_in_json(tmp_path: Path) -> None:
    run = make_run(tmp_path, NASTY)
    evaluation, _ = plant(run, {text: (text, "=cmd|' /C calc'!A0") for text in NASTY})
    rows = read_row_table(evaluation.rows_path)
    back = json.loads(rows_as_json(rows, ["base", "=adapter"]))
    assert [row["expected"] for row in back] == NASTY
    assert {row["answer (=adapter)"] for row in back} == {"=cmd|' /C calc'!A0"}
    assert [row["outcome (=adapter)"] for row in back] == ["broke"] * len(NASTY)
    assert [row["row"] for row in back] == [at + 1 for at in rows["row"].to_pylist()], "as on screen"
    text = rows_as_csv(rows, ["base", "adapter"])
    assert text.startswith("\ufeff")
    table = list(csv.DictReader(io.StringIO(text[1:])))
    assert len(table) == len(NASTY)
    for row, expected in zip(table, NASTY, strict=True):
        assert row["expected"] == escape_formula(expected)
        assert row["answer (adapter)"].startswith("'=")
        assert float(row["damage (adapter)"]) > 0
    assert not [cell for row in table for name, cell in row.items() if cell.startswith(("=", "@", "\t"))]


@pytest.mark.parametrize("start", [*"=+-@", *WIDE])
@pytest.mark.parametrize("prefix", [*INVISIBLE, "\ufeff\u200b ", " \x00\u2060\xad"])
def test_a_formula_behind_characters_that_show_nothing_gets_a_quote(prefix: str, start: str) -> None:
    assert escape_formula(prefix + start) == "'" + prefix + start


@pytest.mark.parametrize("text", [*FORMULAS, *WIDE])
def test_text_that_a_spreadsheet_would_run_gets_a_quote(text: str) -> None:
    assert escape_formula(text) == "'" + text


def test_other_text_is_unchanged() -> None:
    assert [escape_formula(text) for text in ("", "a=b", "1-2", "'=x", "\ufeffa=b", "é=1", "–", "日=")] == [
        "", "a=b", "1-2", "'=x", "\ufeffa=b", "é=1", "–", "日=",
    ]  # fmt: skip


def test_a_word_diff_marks_words_and_keeps_the_texts() -> None:
    left, right = diff_words("send 12 blue lamps", "send 12 red lamps now")
    assert [part.text for part in left if part.changed] == ["blue"]
    assert [part.text for part in right if part.changed] == ["red", " now"]
    assert "".join(part.text for part in left) == "send 12 blue lamps"
    same, _ = diff_words("same", "same")
    assert not any(part.changed for part in same)
    long, _ = diff_words("word " * 5_000, "word")
    assert len(long) == 1
    assert long[0].changed
