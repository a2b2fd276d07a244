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
    DIFFERENCE_CONFIDENCE,
    FloatArray,
    RatioSample,
    bootstrap_interval,
    bootstrap_values,
    decide_change_direction,
    make_mean_sample,
    share_interval,
    sign_flip_p_value,
)
from toolkit.evaluation.statistics.measures import BetterDirection, Measure, MeasureKind
from toolkit.evaluation.statistics.results import Figure, FigureDifference, FigureValue, Verdict

MAX_DRAWN_COLUMNS = 60
"""Columns whose draws are held at once: 60 x 2,000 numbers."""


@dataclass(frozen=True)
class MeasureColumn:
    """One measure of all models over the same rows, base first. top, bottom: [rows, models], see intervals.Sample."""

    name: str
    sample: RatioSample
    better: BetterDirection
    form: MeasureKind
    exponential: bool = False

    @property
    def rows(self) -> int:
        return int((self.sample.bottom > 0).all(axis=1).sum())


def mean_column(measure: Measure, values: FloatArray) -> MeasureColumn:
    """values: [rows, models], NaN where the measure does not apply to a row."""
    return MeasureColumn(measure.name, make_mean_sample(_keep_paired_rows(values)), measure.better, measure.form)


def ratio_column(measure: Measure, top: FloatArray, bottom: FloatArray, *, exponential: bool = False) -> MeasureColumn:
    """top / bottom over all rows, e.g. nats over tokens; rows in which any model has none are left out for all."""
    there = (bottom > 0).all(axis=1, keepdims=True) & np.isfinite(top).all(axis=1, keepdims=True)
    sample = RatioSample(np.where(there, top, 0.0), np.where(there, bottom, 0.0))
    return MeasureColumn(measure.name, sample, measure.better, measure.form, exponential)


def compute_figures(columns: Sequence[MeasureColumn], models: Sequence[str], seed: int) -> list[Figure]:
    """The figures of all columns that have a row; all are drawn with the same rows, so everything stays paired."""
    there = [column for column in columns if column.rows]
    found: list[Figure] = []
    each = max(1, MAX_DRAWN_COLUMNS // len(models))
    for start in range(0, len(there), each):
        part = there[start : start + each]
        joined = RatioSample(
            np.concatenate([column.sample.top for column in part], axis=1),
            np.concatenate([column.sample.bottom for column in part], axis=1),
        )
        draws = bootstrap_values(joined, seed)
        width = len(models)
        found += [_figure(c, draws[:, i * width : (i + 1) * width], models, seed) for i, c in enumerate(part)]
    return found


def _figure(column: MeasureColumn, draws: FloatArray, models: Sequence[str], seed: int) -> Figure:
    values = column.sample.values
    shown = {name: _value(column, draws[:, i], float(values[i])) for i, name in enumerate(models)}
    if column.exponential:
        values, draws = _exp(values), _exp(draws)

    def gap(i: int, reference: int = 0) -> FigureDifference:
        value = float(values[i] - values[reference])
        return _difference(column, draws[:, i] - draws[:, reference], value, (reference, i), seed)

    others = list(enumerate(models))[1:]
    between: dict[str, dict[str, FigureDifference]] = {name: {} for _, name in others} if len(others) > 1 else {}
    for (first, reference), (second, name) in combinations(others, 2):
        between[reference][name] = gap(second, first)
        between[name][reference] = _reverse_difference(between[reference][name])
    compared = {name: gap(i) for i, name in others}
    return Figure(measure=column.name, rows=column.rows, models=shown, differences=compared, between=between)


def _reverse_difference(gap: FigureDifference) -> FigureDifference:
    """The same difference seen from the other side."""
    value, low, high = (None if end is None else -end for end in (gap.value, gap.high, gap.low))
    swapped: dict[Verdict, Verdict] = {"better": "worse", "worse": "better"}
    return FigureDifference(value=value, low=low, high=high, p=gap.p, verdict=swapped.get(gap.verdict, gap.verdict))


def _value(column: MeasureColumn, draws: FloatArray, value: float) -> FigureValue:
    found = (share_interval if column.form == "share" else bootstrap_interval)(draws, value, column.rows)
    if found is not None and column.form == "figure":
        found = (max(0.0, found[0]), found[1])  # no measure goes below zero, however few the rows
    low, high = found or (None, None)
    if column.exponential:
        value = float(_exp(value))
        low, high = (None if end is None else float(_exp(end)) for end in (low, high))
    return FigureValue(value=_number(value), low=low, high=high)


def _exp(values: Any) -> Any:
    return np.exp(np.minimum(values, 700))


def _difference(
    column: MeasureColumn, draws: FloatArray, value: float, pair: tuple[int, int], seed: int
) -> FigureDifference:
    """pair: the places of the reference and of the model."""
    found = bootstrap_interval(draws, value, column.rows, DIFFERENCE_CONFIDENCE)
    if found is not None and column.form == "share":
        found = (max(-1.0, found[0]), min(1.0, found[1]))
        if abs(value) == 1.0:  # every row alike: see share_interval
            sure = math.copysign(((1 - DIFFERENCE_CONFIDENCE) / 2) ** (1 / column.rows), value)
            found = (min(sure, value), max(sure, value))
    reference, at = pair
    gap = column.sample.top[:, at] - column.sample.top[:, reference]
    p = sign_flip_p_value(gap, seed)
    low, high = found or (None, None)
    return FigureDifference(
        value=_number(value), low=low, high=high, p=p, verdict=decide_verdict(column.better, found, p)
    )


def decide_verdict(better: BetterDirection, found: tuple[float, float] | None, p: float) -> Verdict:
    """A difference in words, given which direction is progress."""
    direction = decide_change_direction(found, p)
    if direction == "noise":
        return "noise"
    if better == "neither":
        return "differs"
    return "better" if (direction == "up") == (better == "higher") else "worse"


def stack_scores(scores: Sequence[Mapping[str, FloatArray]], name: str, rows: int) -> FloatArray:
    """[rows, models] of one score; NaN where a model has none."""
    return np.stack([model.get(name, np.full(rows, np.nan)) for model in scores], axis=1)


def _keep_paired_rows(values: FloatArray) -> FloatArray:
    """A row that has no value for one model counts for none."""
    return np.where(np.isnan(values).any(axis=1, keepdims=True), np.nan, values)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
