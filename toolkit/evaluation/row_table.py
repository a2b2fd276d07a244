"""Every row of an evaluation as a table: what was asked and answered, what became of it, and how much it hurts.

rows.parquet: position, row, prompt, expected, ask_error; then for the model at place i (base is 0) answer_i, error_i,
cut_i, tokens_i, loss_i, score_<measure>_i, rules_i; and for adapters outcome_i and damage_i. Knows no statistics.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from toolkit.errors import RunError
from toolkit.evaluation.answers import AnswerKey, EvaluationAnswer
from toolkit.evaluation.questions import EvaluationQuestion
from toolkit.evaluation.statistics.results import FlipCounts, RowOutcome

KEPT_SCORES = ("exact_match", "same_words", "token_f1", "chrf", "json_fields")
"""Measures that are kept row by row; the others can be had from the answers."""
ScoreArray = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class ModelRows:
    """One model's answers to all questions, in their order. scores: by measure; rules: titles of the broken ones."""

    name: str
    answers: Sequence[EvaluationAnswer]
    scores: Mapping[str, ScoreArray]
    rules: Sequence[Sequence[str]]


def compute_outcomes(base: ModelRows, adapter: ModelRows) -> list[RowOutcome]:
    """What became of each row from one model (the base) to another, by exact match."""
    before, after = base.scores.get("exact_match"), adapter.scores.get("exact_match")
    if before is None or after is None:
        return ["no expected answer"] * len(base.answers)
    return [_outcome(left, right) for left, right in zip(before, after, strict=True)]


def _outcome(base: float, adapter: float) -> RowOutcome:
    if math.isnan(base) or math.isnan(adapter):
        return "no expected answer"
    if base == adapter:
        return "same" if adapter else "both wrong"
    return "fixed" if adapter else "broke"


def count_flips(found: Sequence[RowOutcome]) -> FlipCounts:
    return FlipCounts(
        fixed=found.count("fixed"), broke=found.count("broke"), same=found.count("same"),
        both_wrong=found.count("both wrong"), unknown=found.count("no expected answer"),
    )  # fmt: skip


def compute_damage(base: ModelRows, adapter: ModelRows) -> ScoreArray:
    """What was lost from base to adapter, -3 (all won) to 3 (all lost): exact match, shared words, characters."""
    total = np.zeros(len(base.answers))
    for name in ("exact_match", "token_f1", "chrf"):
        if name in base.scores and name in adapter.scores:
            total += np.nan_to_num(base.scores[name] - adapter.scores[name])
    return total


def make_row_table(questions: Sequence[EvaluationQuestion], models: Sequence[ModelRows]) -> pa.Table:
    """The whole table, in the order of the questions."""
    columns: dict[str, Any] = {
        "position": pa.array([q.position for q in questions], pa.int64()),
        "row": pa.array([q.row for q in questions], pa.int64()),
        "prompt": pa.array([q.prompt for q in questions], pa.string()),
        "expected": pa.array([q.expected for q in questions], pa.string()),
    }
    for at, model in enumerate(models):
        columns.update(_columns(at, model))
        if at:
            columns[f"outcome_{at}"] = pa.array(compute_outcomes(models[0], model), pa.string())
            columns[f"damage_{at}"] = pa.array(compute_damage(models[0], model), pa.float64())
    return pa.table(columns)


def compare_to_reference(rows: pa.Table, reference: int, at: int) -> pa.Table:
    """The table with outcome and damage of the model at `at` counted from another one than the base."""
    if reference == 0:
        return rows
    left, right = (_read_model_scores(rows, place) for place in (reference, at))
    counted = {f"outcome_{at}": pa.array(compute_outcomes(left, right), pa.string()),
               f"damage_{at}": pa.array(compute_damage(left, right), pa.float64())}  # fmt: skip
    for name, column in counted.items():
        rows = rows.set_column(rows.column_names.index(name), name, column)
    return rows


def _read_model_scores(rows: pa.Table, at: int) -> ModelRows:
    """A model's row scores, read back; its answers are not needed to compare."""
    names = (name for name in KEPT_SCORES if f"score_{name}_{at}" in rows.column_names)
    scores = {name: rows[f"score_{name}_{at}"].to_numpy() for name in names}
    return ModelRows(str(at), [EvaluationAnswer(str(at), 0)] * len(rows), scores, ())


def _columns(at: int, model: ModelRows) -> dict[str, Any]:
    answers = model.answers
    nats = [a.nll / a.loss_tokens if a.nll is not None and a.loss_tokens else None for a in answers]
    return {
        f"answer_{at}": pa.array([a.text for a in answers], pa.string()),
        f"error_{at}": pa.array([a.error for a in answers], pa.string()),
        f"cut_{at}": pa.array([a.cut for a in answers], pa.bool_()),
        f"tokens_{at}": pa.array([a.tokens for a in answers], pa.int64()),
        f"loss_{at}": pa.array(nats, pa.float64()),
        f"rules_{at}": pa.array([list(titles) for titles in model.rules], pa.list_(pa.string())),
        **{
            f"score_{name}_{at}": pa.array(model.scores[name], pa.float64())
            for name in KEPT_SCORES if name in model.scores
        },
    }  # fmt: skip


def write_row_table(path: Path, rows: pa.Table) -> None:
    """Whole or not at all, durable when it returns. Raises OSError."""
    aside = path.with_name(f".{path.name}.tmp")
    pq.write_table(rows, aside)
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    aside.rename(path)


def read_row_table(path: Path) -> pa.Table:
    """Raises RunError."""
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"{path} can't be read.", "Evaluate again.") from error


def order_answers(
    name: str, questions: Sequence[EvaluationQuestion], found: Mapping[AnswerKey, EvaluationAnswer]
) -> list[EvaluationAnswer]:
    """The model's answers in the order of the questions; one that is not there is a failure with a reason."""
    return [
        found.get((name, q.position))
        or EvaluationAnswer(name, q.position, error=q.error or "It was not asked: stopped before.")
        for q in questions
    ]
