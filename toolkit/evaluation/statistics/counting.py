"""From answers to figures: every measure of every model with its interval, and every difference with its verdict.

Knows arrays and records; no file, no model, and no words but the verdicts'.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from toolkit.evaluation.statistics.intervals import (
    DIFFERENCE,
    Array,
    Sample,
    change,
    flip_p,
    interval,
    means,
    resampled,
    share_interval,
)
from toolkit.evaluation.statistics.measures import Better, Form, Measure
from toolkit.evaluation.statistics.results import Difference, Figure, Value, Verdict

MOST_DRAWN = 60
"""Columns whose draws are held at once: 60 x 2,000 numbers."""


@dataclass(frozen=True)
class Column:
    """One measure of all models over the same rows, base first. top, bottom: [rows, models], see intervals.Sample."""

    name: str
    sample: Sample
    better: Better
    form: Form
    exponential: bool = False

    @property
    def rows(self) -> int:
        return int((self.sample.bottom > 0).all(axis=1).sum())


def mean_column(measure: Measure, values: Array) -> Column:
    """values: [rows, models], NaN where the measure does not apply to a row."""
    return Column(measure.name, means(_paired(values)), measure.better, measure.form)


def ratio_column(measure: Measure, top: Array, bottom: Array, *, exponential: bool = False) -> Column:
    """top / bottom over all rows, e.g. nats over tokens; rows in which any model has none are left out for all."""
    there = (bottom > 0).all(axis=1, keepdims=True) & np.isfinite(top).all(axis=1, keepdims=True)
    sample = Sample(np.where(there, top, 0.0), np.where(there, bottom, 0.0))
    return Column(measure.name, sample, measure.better, measure.form, exponential)


def figures(columns: Sequence[Column], models: Sequence[str], seed: int) -> list[Figure]:
    """The figures of all columns that have a row; all are drawn with the same rows, so everything stays paired."""
    there = [column for column in columns if column.rows]
    found: list[Figure] = []
    each = max(1, MOST_DRAWN // len(models))
    for start in range(0, len(there), each):
        part = there[start : start + each]
        joined = Sample(
            np.concatenate([column.sample.top for column in part], axis=1),
            np.concatenate([column.sample.bottom for column in part], axis=1),
        )
        draws = resampled(joined, seed)
        width = len(models)
        found += [_figure(c, draws[:, i * width : (i + 1) * width], models, seed) for i, c in enumerate(part)]
    return found


def _figure(column: Column, draws: Array, models: Sequence[str], seed: int) -> Figure:
    values = column.sample.values
    shown = {name: _value(column, draws[:, i], float(values[i])) for i, name in enumerate(models)}
    if column.exponential:
        values, draws = _exp(values), _exp(draws)

    def gap(i: int, reference: int = 0) -> Difference:
        value = float(values[i] - values[reference])
        return _difference(column, draws[:, i] - draws[:, reference], value, (reference, i), seed)

    others = list(enumerate(models))[1:]
    between: dict[str, dict[str, Difference]] = {name: {} for _, name in others} if len(others) > 1 else {}
    for (first, reference), (second, name) in combinations(others, 2):
        between[reference][name] = gap(second, first)
        between[name][reference] = _mirrored(between[reference][name])
    compared = {name: gap(i) for i, name in others}
    return Figure(measure=column.name, rows=column.rows, models=shown, differences=compared, between=between)


def _mirrored(gap: Difference) -> Difference:
    """The same difference seen from the other side."""
    value, low, high = (None if end is None else -end for end in (gap.value, gap.high, gap.low))
    swapped: dict[Verdict, Verdict] = {"better": "worse", "worse": "better"}
    return Difference(value=value, low=low, high=high, p=gap.p, verdict=swapped.get(gap.verdict, gap.verdict))


def _value(column: Column, draws: Array, value: float) -> Value:
    found = (share_interval if column.form == "share" else interval)(draws, value, column.rows)
    if found is not None and column.form == "figure":
        found = (max(0.0, found[0]), found[1])  # no measure goes below zero, however few the rows
    low, high = found or (None, None)
    if column.exponential:
        value = float(_exp(value))
        low, high = (None if end is None else float(_exp(end)) for end in (low, high))
    return Value(value=_number(value), low=low, high=high)


def _exp(values: Any) -> Any:
    return np.exp(np.minimum(values, 700))


def _difference(column: Column, draws: Array, value: float, pair: tuple[int, int], seed: int) -> Difference:
    """pair: the places of the reference and of the model."""
    found = interval(draws, value, column.rows, DIFFERENCE)
    if found is not None and column.form == "share":
        found = (max(-1.0, found[0]), min(1.0, found[1]))
        if abs(value) == 1.0:  # every row alike: see share_interval
            sure = math.copysign(((1 - DIFFERENCE) / 2) ** (1 / column.rows), value)
            found = (min(sure, value), max(sure, value))
    reference, at = pair
    gap = column.sample.top[:, at] - column.sample.top[:, reference]
    p = flip_p(gap, seed)
    low, high = found or (None, None)
    return Difference(value=_number(value), low=low, high=high, p=p, verdict=verdict(column.better, found, p))


def verdict(better: Better, found: tuple[float, float] | None, p: float) -> Verdict:
    """A difference in words, given which direction is progress."""
    direction = change(found, p)
    if direction == "noise":
        return "noise"
    if better == "neither":
        return "differs"
    return "better" if (direction == "up") == (better == "higher") else "worse"


def stacked(scores: Sequence[Mapping[str, Array]], name: str, rows: int) -> Array:
    """[rows, models] of one score; NaN where a model has none."""
    return np.stack([model.get(name, np.full(rows, np.nan)) for model in scores], axis=1)


def _paired(values: Array) -> Array:
    """A row that has no value for one model counts for none."""
    return np.where(np.isnan(values).any(axis=1, keepdims=True), np.nan, values)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
