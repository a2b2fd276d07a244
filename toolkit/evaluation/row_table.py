"""rows.parquet, every row of an evaluation: question, answers, scores, and what changed from base model to adapter.

Columns: position, row, prompt, expected, excluded (it is in the training set of a compared model); then for model i (0
is the base) answer_i, error_i, cut_i, tokens_i, loss_i (nats per token), score_<measure>_i, rules_i (titles of the
broken rules); and for adapters outcome_i and damage_i.
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

from toolkit.data.storage.bounded_tables import ensure_bounded, sign_table
from toolkit.errors import DataError, RunError
from toolkit.evaluation.answers import AnswerKey, EvaluationAnswer
from toolkit.evaluation.questions import EvaluationQuestion
from toolkit.evaluation.statistics.intervals import FloatArray
from toolkit.evaluation.statistics.results import FlipCounts, RowOutcome

KEPT_SCORES = ("exact_match", "same_words", "token_f1", "chrf", "json_fields")
"""Measures that are stored for each row; the others can be computed from the answers."""


@dataclass(frozen=True)
class ModelRows:
    """One model's answers in the order of the questions. scores: by measure. rules: titles of the broken rules."""

    name: str
    answers: Sequence[EvaluationAnswer]
    scores: Mapping[str, FloatArray]
    rules: Sequence[Sequence[str]]


def compute_outcomes(base: ModelRows, adapter: ModelRows, excluded: Sequence[bool] | None = None) -> list[RowOutcome]:
    """Return what became of each row from one model to another, by exact match. excluded: rows that do not count."""
    outcomes = _compute_all_outcomes(base, adapter)
    if excluded is None:
        return outcomes
    return ["seen in training" if out else outcome for outcome, out in zip(outcomes, excluded, strict=True)]


def _compute_all_outcomes(base: ModelRows, adapter: ModelRows) -> list[RowOutcome]:
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


def count_flips(outcomes: Sequence[RowOutcome]) -> FlipCounts:
    """Count the rows by outcome."""
    return FlipCounts(
        fixed=outcomes.count("fixed"),
        broke=outcomes.count("broke"),
        same=outcomes.count("same"),
        both_wrong=outcomes.count("both wrong"),
        unknown=outcomes.count("no expected answer"),
    )


def compute_damage(base: ModelRows, adapter: ModelRows) -> FloatArray:
    """Return how much each row lost from base to adapter, from -3 (gained in full) to 3 (lost in full).

    The sum of the differences in exact match, word F1 and chrF; a missing score counts as no difference.
    """
    total = np.zeros(len(base.answers))
    for name in ("exact_match", "token_f1", "chrf"):
        if name in base.scores and name in adapter.scores:
            total += np.nan_to_num(base.scores[name] - adapter.scores[name])
    return total


def select_rows(rows: ModelRows, chosen: Sequence[bool]) -> ModelRows:
    """Return the chosen rows."""
    mask = np.asarray(chosen, dtype=bool)
    answers = [answer for answer, taken in zip(rows.answers, chosen, strict=True) if taken]
    rules = [titles for titles, taken in zip(rows.rules, chosen, strict=True) if taken]
    return ModelRows(rows.name, answers, {name: values[mask] for name, values in rows.scores.items()}, rules)


def make_row_table(
    questions: Sequence[EvaluationQuestion], models: Sequence[ModelRows], excluded: Sequence[bool]
) -> pa.Table:
    """Return the table, in the order of the questions."""
    columns: dict[str, Any] = {
        "position": pa.array([q.position for q in questions], pa.int64()),
        "row": pa.array([q.row for q in questions], pa.int64()),
        "prompt": pa.array([q.prompt for q in questions], pa.string()),
        "expected": pa.array([q.expected for q in questions], pa.string()),
        "excluded": pa.array(list(excluded), pa.bool_()),
    }
    for at, model in enumerate(models):
        columns.update(_columns(at, model))
        if at:
            columns[f"outcome_{at}"] = pa.array(compute_outcomes(models[0], model, excluded), pa.string())
            columns[f"damage_{at}"] = pa.array(compute_damage(models[0], model), pa.float64())
    return pa.table(columns)


def compare_to_reference(rows: pa.Table, reference: int, at: int) -> pa.Table:
    """Return the table with outcome and damage of model `at` counted from model `reference`, not from the base."""
    if reference == 0:
        return rows
    before, after = _read_model_scores(rows, reference), _read_model_scores(rows, at)
    excluded = rows["excluded"].to_pylist() if "excluded" in rows.column_names else None  # not in older files
    recomputed = {
        f"outcome_{at}": pa.array(compute_outcomes(before, after, excluded), pa.string()),
        f"damage_{at}": pa.array(compute_damage(before, after), pa.float64()),
    }
    for name, column in recomputed.items():
        rows = rows.set_column(rows.column_names.index(name), name, column)
    return rows


def _read_model_scores(rows: pa.Table, at: int) -> ModelRows:
    """Return the scores of one model; its answers are not needed for a comparison and stay empty."""
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
            for name in KEPT_SCORES
            if name in model.scores
        },
    }


def write_row_table(path: Path, rows: pa.Table) -> None:
    """Replace the file atomically; it is on the disk when this returns. Raises OSError."""
    staged = path.with_name(f".{path.name}.tmp")
    pq.write_table(rows, staged)
    with staged.open("rb") as file:
        os.fsync(file.fileno())
    staged.rename(path)
    sign_table(path)


def read_row_table(path: Path) -> pa.Table:
    """Return the table. Raises RunError when it can't be read."""
    try:
        ensure_bounded(path)
        return pq.read_table(path)
    except (OSError, pa.ArrowException, DataError) as error:
        reason = error.message if isinstance(error, DataError) else f"{path} can't be read."
        raise RunError(reason, "Start a new evaluation.") from error


def order_answers(
    name: str, questions: Sequence[EvaluationQuestion], answers: Mapping[AnswerKey, EvaluationAnswer]
) -> list[EvaluationAnswer]:
    """Return the model's answers in the order of the questions; a missing one becomes an error with its reason."""
    return [
        answers.get((name, q.position))
        or EvaluationAnswer(name, q.position, error=q.error or "Not evaluated: the evaluation was stopped first.")
        for q in questions
    ]
