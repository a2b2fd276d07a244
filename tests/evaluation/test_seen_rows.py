"""Rows that a compared model was trained on are found by content, and are in no figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.planted import known_flips, make_run, plant
from tests.fakes.training import make_table
from toolkit.config import Config
from toolkit.data.conversations import Message
from toolkit.evaluation.questions import EvaluationQuestion
from toolkit.evaluation.row_table import compare_to_reference, read_row_table
from toolkit.evaluation.seen_rows import find_seen_rows
from toolkit.evaluation.statistics.results import FlipCounts
from toolkit.export.evaluation_section import evaluation_section
from toolkit.runs.model_names import BASE
from toolkit.runs.run_dir import RunDir, create_run
from toolkit.system.durable import commit_dir

CONVERSATION = json.dumps(
    [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Where is my order?"},
        {"role": "assistant", "content": "x"},
        {"role": "user", "content": "y"},
        {"role": "assistant", "content": "z"},
    ]
)


def trained_on(folder: Path, cells: list[dict[str, str | None]], **data: Any) -> RunDir:
    """A run whose training rows are exactly these; its test row is another one."""
    rows = [
        *cells,
        dict.fromkeys(cells[0], '[{"role": "user", "content": "z"}, {"role": "assistant", "content": "z"}]'),
    ]
    table = make_table(folder / f"{len(list(folder.iterdir()))}.parquet", rows, held_out=1)
    settings = {"prompt": "{q}", "prompt_stub": "{a}", **data}
    return create_run(Config.model_validate({"save_dir": str(folder), "data": settings}), table)


def asked(*prompts: str) -> list[EvaluationQuestion]:
    return [EvaluationQuestion(i, i, f"Ask: {p}", "x", inputs={"q": p}) for i, p in enumerate(prompts)]


@pytest.mark.parametrize(
    ("cells", "data"),
    [
        ([{"q": "Where is my order?", "a": "another answer"}], {}),
        ([{"q": "  where is  MY order?\n", "a": "x"}], {}),
        ([{"frage": "Where is my order?", "antwort": "x"}], {"prompt": "{frage} ->", "prompt_stub": "{antwort}"}),
        ([{"q": "Where is my order?", "a": "x", "s": "more"}], {"prompt": "{s}: {q}"}),
        ([{"a": "Ask: Where is my order?", "q": "x"}], {"prompt": "{a}", "prompt_stub": "{q}"}),
        ([{"m": CONVERSATION}], {"messages": "m"}),
    ],
    ids=["another answer", "case and space", "other columns", "another template", "the whole prompt", "conversations"],
)  # fmt: skip
def test_a_training_row_is_recognized_by_its_input(
    tmp_path: Path, cells: list[dict[str, str | None]], data: dict[str, Any]
) -> None:
    run = trained_on(tmp_path, cells, **data)
    questions = asked("Is it open?", "Where is my order?")
    assert find_seen_rows(questions, [BASE, run.id], run) == {run.id: {1}}
    assert find_seen_rows(questions, [BASE, f"{run.id}@40"], run) == {f"{run.id}@40": {1}}


def test_two_columns_are_one_input_in_any_order(tmp_path: Path) -> None:
    run = trained_on(tmp_path, [{"q": "Hello", "s": "Order 4", "a": "x"}], prompt="{s}\n{q}")
    same = EvaluationQuestion(0, 0, "Hello / Order 4", "x", inputs={"q": "Hello", "s": "Order 4"})
    other = EvaluationQuestion(1, 1, "Hello / Order 5", "x", inputs={"q": "Hello", "s": "Order 5"})
    assert find_seen_rows([same, other], [run.id], run) == {run.id: {0}}


def test_conversations_are_compared_with_templates_and_with_each_other(tmp_path: Path) -> None:
    turns = (Message("user", "Hi"), Message("assistant", "Hello", True), Message("user", "Bye"))
    cell = json.dumps(
        [{"role": turn.role, "content": turn.content} for turn in turns] + [{"role": "assistant", "content": "B"}]
    )
    whole, start = (
        EvaluationQuestion(at, at, "p", "B", turns=(*part, Message("assistant", "B", True)))
        for at, part in enumerate((turns, turns[:1]))
    )
    chats = trained_on(tmp_path, [{"m": cell}], messages="m")
    plain = trained_on(tmp_path, [{"q": "hi", "a": "x"}])
    assert find_seen_rows([whole, start], [chats.id, plain.id], chats) == {chats.id: {0, 1}, plain.id: {1}}


def test_a_continued_run_has_seen_the_rows_of_the_first_one(tmp_path: Path) -> None:
    first = trained_on(tmp_path, [{"q": "Where is my order?", "a": "x"}])
    second = trained_on(tmp_path, [{"q": "Something else", "a": "x"}])
    meta = json.loads(second.meta_path.read_text())
    second.meta_path.write_text(json.dumps({**meta, "start": {"run": first.id, "step": 4}}))
    assert find_seen_rows(asked("Where is my order?"), [second.id], first) == {second.id: {0}}


def test_rows_that_another_run_was_trained_on_are_in_no_figure(tmp_path: Path) -> None:
    said = {key: (*pair, "wrong") for key, pair in known_flips(fixed=31, broke=3, same=7, both_wrong=5).items()}
    run = make_run(tmp_path, list(said))
    other = trained_on(tmp_path, [{"q": f"Question {i}", "a": "x"} for i in range(10)])
    evaluation, results = plant(run, said, others=[other.id])
    assert (results.answered, results.excluded, results.compared_rows) == (46, 10, 36)
    assert results.seen == {other.id: 10}
    assert results.flips[run.id] == FlipCounts(fixed=21, broke=3, same=7, both_wrong=5)
    exact = results.figure("exact_match")
    assert exact is not None and (exact.rows, exact.models[run.id].value) == (36, 28 / 36)
    told = (
        "10 of 46 rows are also in a compared run's training set and were excluded, so the figures are over the other "
        "36 rows."
    )
    assert told in results.sentences[run.id] and told in results.sentences[other.id]
    rows = read_row_table(evaluation.rows_path)
    assert rows["outcome_1"].to_pylist().count("seen in training") == 10
    turned = compare_to_reference(rows, 1, 2)["outcome_2"].to_pylist()
    assert (turned.count("seen in training"), turned.count("broke")) == (10, 28)
    staging = run.path / ".adapter"
    staging.mkdir()
    commit_dir(staging, run.adapter_dir, {})
    assert told in (evaluation_section(run) or ""), "the model card says it too"


def test_a_run_whose_test_rows_stand_in_its_training_rows_says_so(tmp_path: Path) -> None:
    said = known_flips(fixed=2, broke=0, same=0, both_wrong=0)
    copied = trained_on(tmp_path, [{"q": "question 0", "a": "x"}, {"q": "other", "a": "x"}])
    assert (
        plant(copied, said)[1]
        .sentences[copied.id][-2]
        .startswith("1 of 2 rows is also in its training set and was excluded")
    )
    whole = trained_on(tmp_path, [{"q": "question 0", "a": "x"}, {"q": "question 1", "a": "x"}])
    results = plant(whole, said)[1]
    assert (results.excluded, results.compared_rows) == (0, 2)
    assert "All of these rows are also in its training set: the figures show what was memorized" in " ".join(
        results.sentences[whole.id]
    )
