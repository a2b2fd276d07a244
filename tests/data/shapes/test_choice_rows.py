"""Multiple-choice questions: lettered choices in the prompt, and the letter of the right one as the answer."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.conftest import Opener
from toolkit.config import DataConfig
from toolkit.data.examples.column_suggestion import suggest_for_table
from toolkit.data.examples.renderers import renderer_of
from toolkit.data.table import Table

TEXTS = ["on a shelf", "in a box, perhaps", "at the door"]
LINES = "A. on a shelf\nB. in a box, perhaps\nC. at the door"
ROWS = 12


def trained(table: Table, row: int = 1) -> tuple[str, str]:
    """The prompt and the completion of a row as suggested."""
    found = suggest_for_table(table)
    assert found.kind == "pair", found
    data = DataConfig(prompt=found.prompt, prompt_stub=found.completion)
    example = renderer_of(data, table.columns).example(table.row(row))
    return example.prompt, example.completion


def question(at: int) -> str:
    return f"Where does lamp {at} stand?"


LISTED: dict[str, Callable[[int], dict[str, Any]]] = {
    "ARC": lambda at: {"id": f"M_{at}", "question": question(at), "choices": {"text": TEXTS, "label": ["A", "B", "C"]},
                       "answerKey": "ABC"[at % 3]},
    "ARC with numbers": lambda at: {"question": question(at), "choices": {"text": TEXTS, "label": ["1", "2", "3"]},
                                    "answerKey": "123"[at % 3]},
    "ARC as published": lambda at: {"answerKey": "ABC"[at % 3], "question": {"stem": question(at), "choices": [
        {"text": text, "label": label} for text, label in zip(TEXTS, "ABC", strict=True)]}},
    "MMLU": lambda at: {"question": question(at), "subject": "shops", "choices": TEXTS, "answer": at % 3},
    "numbers from one": lambda at: {"question": question(at), "options": TEXTS, "correct_option": at % 3 + 1},
    "AQuA": lambda at: {"question": question(at), "correct": "ABC"[at % 3],
                        "options": [f"{letter}){text}" for letter, text in zip("ABC", TEXTS, strict=True)]},
    "letters as keys": lambda at: {"question": question(at), "options": dict(zip("ABC", TEXTS, strict=True)),
                                   "answer": "ABC"[at % 3]},
    "Frage": lambda at: {"Frage": question(at), "Optionen": TEXTS, "Lösung": at % 3},
    "columns": lambda at: {"id": at, "question": question(at), "opb": TEXTS[1], "opa": TEXTS[0], "opc": TEXTS[2],
                           "cop": at % 3},
    "columns with letters": lambda at: {"question": question(at), "A": TEXTS[0], "B": TEXTS[1], "C": TEXTS[2],
                                        "answer": at % 3 + 1},
    "numbered columns from one": lambda at: {"goal": question(at), "sol1": TEXTS[0], "sol2": TEXTS[1], "sol3": TEXTS[2],
                                             "label": at % 3},
}  # fmt: skip


@pytest.mark.parametrize("name", LISTED)
def test_choices_are_lettered_lines_and_the_answer_is_a_letter(open_bytes: Opener, name: str) -> None:
    table = open_bytes("\n".join(json.dumps(LISTED[name](at)) for at in range(ROWS)), "json")
    assert trained(table) == (f"{question(1)}\n\n{LINES}", "B")
    assert "JSON text" not in " ".join(table.notices)


def test_what_was_written_anew_is_told(open_bytes: Opener) -> None:
    table = open_bytes("\n".join(json.dumps(LISTED["MMLU"](at)) for at in range(ROWS)), "json")
    assert "The answers in 'answer', which count from 0, are written as the letters" in " ".join(table.notices)
    assert "The choices in 'choices' are written as lettered lines." in table.notices


@pytest.mark.parametrize(
    "write", [str, lambda value: str(np.array(value)), lambda value: repr(np.array(value, object))]
)
def test_lists_that_pandas_wrote_are_read(open_bytes: Opener, write: Callable[[list[str]], str]) -> None:
    out = io.StringIO()
    csv.writer(out).writerows(
        [("question", "choices", "answer"), *((question(at), write(TEXTS), at % 3) for at in range(ROWS))]
    )
    assert trained(open_bytes(out.getvalue())) == (f"{question(1)}\n\n{LINES}", "B")


def test_parquet_of_the_hub_is_read(open_bytes: Opener) -> None:
    rows = [{"ind": at, "activity_label": f"Lamp {at % 5}", "ctx_a": f"A lamp {at} stands.", "ctx_b": "it",
             "ctx": f"A lamp {at} stands. it", "endings": TEXTS, "source_id": f"a{at}", "label": str(at % 3)}
            for at in range(ROWS)]  # fmt: skip
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    assert trained(open_bytes(out.getvalue(), "parquet")) == (f"A lamp 1 stands. it\n\n{LINES}", "B")


def test_a_number_that_names_no_choice_is_no_answer(open_bytes: Opener) -> None:
    rows = [{"question": question(at), "choices": TEXTS, "label": -1 if at == 5 else at % 3} for at in range(ROWS)]
    table = open_bytes("\n".join(map(json.dumps, rows)), "json")
    assert table.missing["label"] == 1
    assert table.row(4)["label"] == "B"


def test_texts_as_answers_stay(open_bytes: Opener) -> None:
    rows = [{"question": question(at), "options": TEXTS, "answer": TEXTS[at % 3]} for at in range(ROWS)]
    assert trained(open_bytes("\n".join(map(json.dumps, rows)), "json")) == (f"{question(1)}\n\n{LINES}", TEXTS[1])


@pytest.mark.parametrize(
    "row",
    [
        {"name": "lamp", "options": ["red", "blue"], "price": 3},  # of a product, without an answer
        {"question": "Where?", "options": ["red", "blue"], "answer": "in aisle 1"},
        {"a": "one sentence here", "b": "another one", "label": 1},
    ],
)
def test_other_lists_and_columns_are_unchanged(open_bytes: Opener, row: dict[str, Any]) -> None:
    table = open_bytes("\n".join([json.dumps(row)] * ROWS), "json")
    assert "lettered" not in " ".join(table.notices) and "letters" not in " ".join(table.notices)
    assert table.row(0).get("options") in (None, '["red", "blue"]')


def test_the_choice_that_is_marked_is_the_answer(open_bytes: Opener) -> None:
    rows = [{"question": question(at), "mc1_targets": {"choices": TEXTS, "labels": [0, 1, 0]}} for at in range(ROWS)]
    assert trained(open_bytes("\n".join(map(json.dumps, rows)), "json")) == (question(1), TEXTS[1])
