"""What to expect of a study's result: the score of the best combination on new rows, and the gain from more data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from toolkit.evaluation.statistics.data_growth import MIN_SIZES, DataGrowth, fit_data_growth
from toolkit.studies.outcomes import Study, index_finished_trials

TRAIN_SIZE_PATH = "data.train_size"
MIN_HALF_ROWS = 10
"""Test rows in each half, below which no unbiased score of the recommended values is computed."""


@dataclass(frozen=True)
class HonestScore:
    """The objective to expect of the recommended values on new rows, with a 95 % interval."""

    value: float
    low: float
    high: float
    rows: int


def fit_growth(study: Study) -> DataGrowth | None:
    """Return what twice the training rows would add; None unless three sizes of one kind have finished trials."""
    sizes = sorted(study.question.axes.get(TRAIN_SIZE_PATH, ()), key=lambda size: size or 0)
    if len(sizes) < MIN_SIZES or len({type(size) for size in sizes}) > 1 or not study.measured.is_share:
        return None
    by_size = [index_finished_trials(study, TRAIN_SIZE_PATH, size) for size in sizes]
    blocks = sorted(set.intersection(*(set(found) for found in by_size)))
    trials = [[found[block].scores for block in blocks] for found in by_size]
    rows = sorted(set.intersection(*(set(scores) for found in trials for scores in found))) if blocks else []
    if not rows:
        return None
    return fit_data_growth(sizes, np.array([[[one[row] for row in rows] for one in found] for found in trials]))


def score_honestly(study: Study) -> HonestScore | None:
    """Return the score of the best combination on rows that did not choose it; None for few rows, and without rows.

    Chosen on one half of the rows and scored on the other, both ways: the score of the winner on the rows that made it
    the winner is too high. Source: S. Varma and R. Simon, Bias in error estimation when using cross-validation for
    model selection, 2006.
    """
    by_values: dict[str, list[Mapping[tuple[int, str], float]]] = {}
    for outcome in study.outcomes:
        if outcome.scores:
            by_values.setdefault(repr(sorted(outcome.asked.settings.items())), []).append(outcome.scores)
    if len(by_values) < 2:
        return None
    shared = sorted(set.intersection(*(set(scores) for found in by_values.values() for scores in found)))
    if len(shared) < 2 * MIN_HALF_ROWS:
        return None
    table = np.array(
        [[np.mean([scores[row] for scores in found]) for row in shared] for found in by_values.values()], dtype=float
    )
    # the rows of a test set are shuffled already, but row numbers are sorted: take every second one
    halves = (slice(0, None, 2), slice(1, None, 2))
    scored, sign = np.empty(len(shared)), -1 if study.measured.lower else 1
    for chosen_on, scored_on in (halves, halves[::-1]):
        scored[scored_on] = table[int((sign * table[:, chosen_on].mean(axis=1)).argmax()), scored_on]
    error = 1.96 * float(scored.std(ddof=1)) / math.sqrt(len(shared))
    value = float(scored.mean())
    highest = 1.0 if study.measured.is_share else math.inf
    return HonestScore(value, max(0.0, value - error), min(highest, value + error), len(shared))
