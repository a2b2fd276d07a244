"""From row scores to figures: each measure of each model with its interval, each difference with its verdict."""

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
"""Columns whose bootstrap draws are in memory at once: 60 x 2,000 numbers, about 1 MB."""


@dataclass(frozen=True)
class MeasureColumn:
    """One measure of all models over the same rows, base first.

    sample: arrays of [rows, models]. exponential: whether the figure is exp of the ratio, as perplexity is of the loss.
    """

    name: str
    sample: RatioSample
    better: BetterDirection
    form: MeasureKind
    exponential: bool = False

    @property
    def rows(self) -> int:
        """Rows that count for every model."""
        return int((self.sample.bottom > 0).all(axis=1).sum())


def mean_column(measure: Measure, values: FloatArray) -> MeasureColumn:
    """Return a column of means. values: [rows, models], NaN where the measure does not apply to a row."""
    return MeasureColumn(measure.name, make_mean_sample(_keep_paired_rows(values)), measure.better, measure.form)


def ratio_column(measure: Measure, top: FloatArray, bottom: FloatArray, *, exponential: bool = False) -> MeasureColumn:
    """Return a column of sum(top) / sum(bottom), for example nats over tokens. top, bottom: [rows, models].

    A row that lacks a value for one model is skipped for all, so that the models stay paired.
    """
    complete = (bottom > 0).all(axis=1, keepdims=True) & np.isfinite(top).all(axis=1, keepdims=True)
    sample = RatioSample(np.where(complete, top, 0.0), np.where(complete, bottom, 0.0))
    return MeasureColumn(measure.name, sample, measure.better, measure.form, exponential)


def compute_figures(columns: Sequence[MeasureColumn], models: Sequence[str], seed: int) -> list[Figure]:
    """Return the figures of all columns with at least one row.

    All columns are drawn with the same rows, so that models and measures stay paired. models: names, base first.
    """
    filled = [column for column in columns if column.rows]
    figures: list[Figure] = []
    chunk = max(1, MAX_DRAWN_COLUMNS // len(models))
    for start in range(0, len(filled), chunk):
        part = filled[start : start + chunk]
        joined = RatioSample(
            np.concatenate([column.sample.top for column in part], axis=1),
            np.concatenate([column.sample.bottom for column in part], axis=1),
        )
        draws = bootstrap_values(joined, seed)
        width = len(models)
        figures += [_figure(c, draws[:, i * width : (i + 1) * width], models, seed) for i, c in enumerate(part)]
    return figures


def _figure(column: MeasureColumn, draws: FloatArray, models: Sequence[str], seed: int) -> Figure:
    values = column.sample.values
    shown = {name: _value(column, draws[:, i], float(values[i])) for i, name in enumerate(models)}
    if column.exponential:
        values, draws = _exp(values), _exp(draws)

    def difference(i: int, reference: int = 0) -> FigureDifference:
        value = float(values[i] - values[reference])
        return _difference(column, draws[:, i] - draws[:, reference], value, (reference, i), seed)

    others = list(enumerate(models))[1:]
    between: dict[str, dict[str, FigureDifference]] = {name: {} for _, name in others} if len(others) > 1 else {}
    for (first, reference), (second, name) in combinations(others, 2):
        between[reference][name] = difference(second, first)
        between[name][reference] = _reverse_difference(between[reference][name])
    compared = {name: difference(i) for i, name in others}
    return Figure(measure=column.name, rows=column.rows, models=shown, differences=compared, between=between)


def _reverse_difference(difference: FigureDifference) -> FigureDifference:
    """Return the difference with the two models exchanged."""
    value, low, high = (None if end is None else -end for end in (difference.value, difference.high, difference.low))
    swapped: dict[Verdict, Verdict] = {"better": "worse", "worse": "better"}
    verdict = swapped.get(difference.verdict, difference.verdict)
    return FigureDifference(value=value, low=low, high=high, p=difference.p, verdict=verdict)


def _value(column: MeasureColumn, draws: FloatArray, value: float) -> FigureValue:
    interval = (share_interval if column.form == "share" else bootstrap_interval)(draws, value, column.rows)
    if interval is not None and column.form == "figure":
        interval = (max(0.0, interval[0]), interval[1])  # widening for few rows may lead below 0; no measure goes there
    low, high = interval or (None, None)
    if column.exponential:
        value = float(_exp(value))
        low, high = (None if end is None else float(_exp(end)) for end in (low, high))
    return FigureValue(value=_number(value), low=low, high=high)


def _exp(values: Any) -> Any:
    return np.exp(np.minimum(values, 700))  # exp(710) overflows


def _difference(
    column: MeasureColumn, draws: FloatArray, value: float, pair: tuple[int, int], seed: int
) -> FigureDifference:
    """Return the difference of two models. pair: indices of the reference and of the model."""
    interval = bootstrap_interval(draws, value, column.rows, DIFFERENCE_CONFIDENCE)
    if interval is not None and column.form == "share":
        interval = (max(-1.0, interval[0]), min(1.0, interval[1]))
        if abs(value) == 1.0:  # all rows are equal: see share_interval
            bound = math.copysign(((1 - DIFFERENCE_CONFIDENCE) / 2) ** (1 / column.rows), value)
            interval = (min(bound, value), max(bound, value))
    reference, at = pair
    p = sign_flip_p_value(column.sample.top[:, at] - column.sample.top[:, reference], seed)
    low, high = interval or (None, None)
    return FigureDifference(
        value=_number(value), low=low, high=high, p=p, verdict=decide_verdict(column.better, interval, p)
    )


def decide_verdict(better: BetterDirection, interval: tuple[float, float] | None, p: float) -> Verdict:
    """Return the verdict on a difference. better: which direction is an improvement."""
    direction = decide_change_direction(interval, p)
    if direction == "noise":
        return "noise"
    if better == "neither":
        return "differs"
    return "better" if (direction == "up") == (better == "higher") else "worse"


def stack_scores(scores: Sequence[Mapping[str, FloatArray]], name: str, rows: int) -> FloatArray:
    """Return one score as [rows, models]; NaN where a model has none."""
    return np.stack([model.get(name, np.full(rows, np.nan)) for model in scores], axis=1)


def _keep_paired_rows(values: FloatArray) -> FloatArray:
    """Return `values` with NaN for all models in a row that lacks a value for one of them."""
    return np.where(np.isnan(values).any(axis=1, keepdims=True), np.nan, values)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
