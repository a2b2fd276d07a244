"""Questions inside rows become rows, and answers in lists and objects become texts."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.conftest import Opener
from toolkit.data.examples.column_suggestion import suggest_for_table
from toolkit.data.table import Table

CONTEXT = "The red lamp is in aisle 1, next to the chairs."


def trained(table: Table, row: int = 0) -> tuple[str, str, str | None]:
    """The suggested templates, and the completion of a row."""
    found = suggest_for_table(table)
    assert found.kind == "pair"
    return found.prompt, found.completion, table.row(row)[found.completion.strip("{}")]


def squad(at: int, **more: Any) -> dict[str, Any]:
    asked = {
        "id": f"q{at}",
        "question": f"Where is lamp {at}?",
        "answers": [{"text": f"aisle {at}", "answer_start": 5}],
    }
    other = {"id": f"r{at}", "question": f"Who made lamp {at}?", "answers": [{"text": "Bo"}, {"text": "Bo A."}]}
    none = {"id": f"s{at}", "question": f"Who bought lamp {at}?", "answers": [], "is_impossible": True}
    return {"title": f"Lamp {at}", "paragraphs": [{"context": f"{at}: {CONTEXT}", "qas": [asked, other, none]}], **more}


def test_each_question_of_squad_is_a_row_with_its_context(open_bytes: Opener) -> None:
    content = json.dumps({"version": "v2.0", "data": [squad(at) for at in range(6)]})
    table = open_bytes(content, "json")
    assert table.rows == 18
    assert trained(table) == ("{context}\n\n{question}", "{answers}", "aisle 0")
    assert table.row(4)["answers"] == "Bo" and table.row(4)["context"] == f"1: {CONTEXT}"
    assert table.missing["answers"] == 6, "a question without an answer is skipped"
    notices = " ".join(table.notices)
    assert "Each question in the lists 'paragraphs' and 'qas' is a row" in notices
    assert "In 6 rows, only the first of several is used." in notices


@pytest.mark.parametrize(
    "row",
    [
        {"passage": CONTEXT, "qa_pairs": [{"question": "Where?", "answer": {"number": "", "spans": ["aisle 1"]}}]},
        {"name": "shop", "parts": [{"context": CONTEXT, "items": [{"q": "Where?", "a": "aisle 1"}]}]},
        {"id": 1, "context": CONTEXT, "questions": [{"id": 7, "frage": "Where?", "antwort": "aisle 1"}]},
    ],
)
def test_lists_of_questions_have_several_names(open_bytes: Opener, row: dict[str, Any]) -> None:
    table = open_bytes("\n".join([json.dumps(row)] * 3), "json")
    assert table.rows == 3
    assert trained(table)[2] == "aisle 1"
    assert not any(column in ("qa_pairs", "parts", "questions") for column in table.columns)
    assert "questions.id" in table.columns or "id" not in row, "two ids are two columns"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("answers", {"text": ["aisle 1", "1"], "answer_start": [5, 6]}, "aisle 1"),
        ("answer", {"value": "Aisle 1", "aliases": ["a", "b"], "type": "place"}, "Aisle 1"),
        ("output", ["aisle 1"], "aisle 1"),
        ("answers", ["aisle 1", "in aisle 1"], "aisle 1"),
        ("target", ["aisle 1\n", "then left"], "aisle 1\nthen left"),
        ("answers", {"text": [], "answer_start": []}, None),
        ("label", ["pos"], "pos"),
        ("labels", [{"name": "bug", "color": "red"}, {"name": "ui"}], "bug, ui"),
    ],
)
def test_an_answer_in_a_list_or_an_object_is_its_text(open_bytes: Opener, name: str, value: Any, text: str) -> None:
    rows = [{"text": f"Where is lamp {at}?", name: value} for at in range(3)]
    assert open_bytes("\n".join(map(json.dumps, rows)), "json").row(1)[name] == text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("answers", [{"name": "find", "arguments": {"a": 1}}]),
        ("completion", [{"role": "assistant", "content": "ho"}]),
        ("label", [[0, 8, "ITEM"]]),
        ("options", ["a", "b"]),
        ("a", ["a", "b"]),
        ("output", ["Paris", "Berlin"]),
        ("expected output", [{"text": "Paris"}, {"text": "Rome"}]),
        ("answer", {"value": "5", "unit": "kg"}),
        ("answers", [{"text": "Paris", "type": "LOC"}]),
    ],
)
def test_what_is_no_answer_stays_json(open_bytes: Opener, name: str, value: Any) -> None:
    rows = [{"text": f"Where is lamp {at}?", name: value} for at in range(3)]
    assert json.loads(open_bytes("\n".join(map(json.dumps, rows)), "json").row(0)[name] or "") == value


def test_parquet_files_have_such_answers_too(open_bytes: Opener, tmp_path: Any) -> None:
    rows = [{"question": f"Where is {at}?", "answers": {"text": [f"aisle {at}"], "start": [1]}} for at in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "made.parquet")
    table = open_bytes((tmp_path / "made.parquet").read_bytes(), "parquet")
    assert trained(table, 2) == ("{question}", "{answers}", "aisle 2")
    assert "converted to JSON text" not in " ".join(table.notices)


@pytest.mark.parametrize(
    ("context", "text"),
    [
        ([CONTEXT, "It is red."], f"{CONTEXT}\n\nIt is red."),
        ({"contexts": [CONTEXT, "It is red."], "labels": ["A", "B"]}, f"{CONTEXT}\n\nIt is red."),
        ({"title": ["Lamp", "Red"], "sentences": [[CONTEXT, " It is on."], ["A colour."]]},
         f"Lamp: {CONTEXT} It is on.\n\nRed: A colour."),
    ],
)  # fmt: skip
def test_the_paragraphs_of_a_context_are_text(open_bytes: Opener, context: Any, text: str) -> None:
    rows = [{"question": f"Where is lamp {at}?", "context": context, "answer": f"aisle {at}"} for at in range(6)]
    rows += [{**row, "context": [f"Other {at}"]} for at, row in enumerate(rows)]
    table = open_bytes("\n".join(map(json.dumps, rows)), "json")
    assert trained(table) == ("{context}\n\n{question}", "{answer}", "aisle 0")
    assert table.row(0)["context"] == text


def test_the_best_of_the_answers_in_lists_is_used(open_bytes: Opener) -> None:
    answers = {"a_id": ["x", "y"], "text": ["No.", "Paint."], "score": [1, 9]}
    rows = [{"title": f"Why is lamp {at} red?", "answers": answers} for at in range(6)]
    assert trained(open_bytes("\n".join(map(json.dumps, rows)), "json")) == ("{title}", "{answers}", "Paint.")
