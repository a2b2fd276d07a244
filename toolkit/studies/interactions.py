"""What one setting alone does not show: pairs of settings whose effects depend on each other, and shares of variation.

An interaction is a difference of differences: what one setting's values differ by under one value of the other setting,
against what they differ by under another. Its interval is that of `paired_trials`, over seeds and test rows, at every
look, with the 5 % shared by all such comparisons of the study.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np

from toolkit.evaluation.statistics.intervals import FloatArray
from toolkit.evaluation.statistics.paired_trials import MIN_PAIRS, PairedDifference, compare_paired_trials
from toolkit.studies.outcomes import Study, TrialOutcome

Block = tuple[int, str]
Cells = dict[tuple[str, str], dict[Block, TrialOutcome]]
"""Finished trials by (value of the first setting, of the second), then by (seed, other settings)."""


@dataclass(frozen=True)
class Interaction:
    """Two settings with two values each. effects: of second instead of first value of `path`, under both of `other`.

    difference: the second effect minus the first. best: the best values of both settings together.
    """

    path: str
    other: str
    values: tuple[Any, Any]
    other_values: tuple[Any, Any]
    effects: tuple[float, float]
    difference: PairedDifference
    best: tuple[Any, Any]


def find_interactions(
    study: Study, axes: Mapping[str, Sequence[Any]], error_rate: float, *, lower: bool
) -> tuple[Interaction, ...]:
    """Return the interactions whose interval excludes zero and that are larger than a main effect, one for each pair.

    error_rate: probability that any interaction is named in a study without one. lower: a smaller value is better.
    """
    asked = [
        (path, other, values, other_values)
        for path, other in combinations(axes, 2)
        for values, other_values in product(combinations(axes[path], 2), combinations(axes[other], 2))
    ]
    found: dict[tuple[str, str], Interaction] = {}
    for path, other, values, other_values in asked:
        one = _compare_effects(study, (path, other), values, other_values, error_rate / len(asked), lower=lower)
        known = found.get((path, other))
        if one is not None and (known is None or _size_of(one) > _size_of(known)):
            found[path, other] = one
    return tuple(found.values())


def _size_of(one: Interaction) -> float:
    return abs(float(one.difference.value))


def _compare_effects(
    study: Study, paths: tuple[str, str], values: Sequence[Any], others: Sequence[Any], alpha: float, *, lower: bool
) -> Interaction | None:
    cells = _index_cells(study, paths)
    keys = [(repr(value), repr(other)) for other in others for value in values]
    blocks = sorted(set.intersection(*(set(cells.get(key, {})) for key in keys)))
    if len(blocks) < MIN_PAIRS:
        return None
    trials = [[cells[key][block] for block in blocks] for key in keys]
    use_rows = all(trial.scores for column in trials for trial in column)
    scores = _stack(trials, use_rows=use_rows)
    if not scores.shape[-1]:
        return None
    first, second = scores[1] - scores[0], scores[3] - scores[2]
    seeds, rest = zip(*blocks, strict=True)
    found = compare_paired_trials(first, second, seeds, rest, alpha, share=use_rows and study.measured.is_share)
    main = abs(float((first + second).mean()) / 2)
    other_main = abs(float((scores[2] + scores[3] - scores[0] - scores[1]).mean()) / 2)
    decided = float(found.low) > 0 or float(found.high) < 0
    if not decided or abs(float(found.value)) / 2 <= min(main, other_main):
        return None
    return Interaction(
        *paths,
        (values[0], values[1]),
        (others[0], others[1]),
        (float(first.mean()), float(second.mean())),
        found,
        _find_best_cell(study, paths, lower=lower),
    )


def _index_cells(study: Study, paths: tuple[str, str]) -> Cells:
    cells: Cells = {}
    for outcome in study.outcomes:
        if outcome.value is not None:
            settings = outcome.asked.settings
            rest = {path: value for path, value in settings.items() if path not in paths}
            key = (repr(settings.get(paths[0])), repr(settings.get(paths[1])))
            cells.setdefault(key, {})[outcome.asked.seed, repr(sorted(rest.items()))] = outcome
    return cells


def _stack(trials: Sequence[Sequence[TrialOutcome]], *, use_rows: bool) -> FloatArray:
    """Return the results as [cells, blocks, rows], over the rows that all have answered; one column for a loss."""
    if not use_rows:
        return np.array([[[trial.value] for trial in column] for column in trials], dtype=float)
    rows = sorted(set.intersection(*(set(trial.scores) for column in trials for trial in column)))
    found = [[[trial.scores[row] for row in rows] for trial in column] for column in trials]
    return np.array(found, dtype=float).reshape(len(trials), len(trials[0]), len(rows))


def _find_best_cell(study: Study, paths: tuple[str, str], *, lower: bool) -> tuple[Any, Any]:
    means: dict[str, list[float]] = {}
    values: dict[str, tuple[Any, Any]] = {}
    for outcome in study.outcomes:
        if outcome.value is not None:
            cell = (outcome.asked.settings.get(paths[0]), outcome.asked.settings.get(paths[1]))
            values[repr(cell)] = cell
            means.setdefault(repr(cell), []).append(outcome.value)
    best = (min if lower else max)(means, key=lambda key: float(np.mean(means[key])))
    return values[best]


def measure_importance(study: Study, axes: Mapping[str, Sequence[Any]]) -> dict[str, float]:
    """Return for each setting the share of the variation between trials that it alone explains, 0 to 1.

    It is what the squared error of an additive model grows by without the setting. The rest is interactions and chance.
    Empty while there are too few trials to tell the settings apart.
    """
    finished = [one for one in study.outcomes if one.value is not None]
    result = np.array([one.value for one in finished], dtype=float)
    parts = {
        path: np.array([[repr(one.asked.settings.get(path)) == repr(v) for v in values[1:]] for one in finished], float)
        for path, values in axes.items()
    }
    columns = 1 + sum(len(values) - 1 for values in axes.values())
    if len(finished) <= columns or float(np.ptp(result)) == 0:
        return {}
    total = float(np.square(result - result.mean()).sum())
    whole = _squared_error(list(parts.values()), result)
    return {
        path: min(1.0, max(0.0, (_squared_error([parts[p] for p in parts if p != path], result) - whole) / total))
        for path in parts
    }


def _squared_error(parts: Sequence[FloatArray], result: FloatArray) -> float:
    design = np.hstack([np.ones((len(result), 1)), *parts])
    fitted, *_ = np.linalg.lstsq(design, result, rcond=None)
    return float(np.square(result - design @ fitted).sum())
