"""Uncertainty of figures: bootstrap intervals over the rows, and a test of the difference between two models.

Rows are resampled with all their figures, so that models stay paired on the same rows; a seed makes it repeatable.
A difference counts only when its 98 % interval excludes zero *and* a sign-flip test agrees (p < 0.02). Without a true
difference that test errs at most 2 times in 100 whatever the shape of the noise, while the bootstrap alone is too
confident when few rows differ. The level is stricter than 95 % because a dozen measures are read at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

FloatArray = np.ndarray[Any, np.dtype[np.float64]]
ChangeDirection = Literal["up", "down", "noise"]

BOOTSTRAP_DRAWS = 2_000
SIGN_FLIPS = 4_000
NUMBERS_PER_CHUNK = 4_000_000  # random numbers in memory at once, 32 MB as int64
VALUE_CONFIDENCE, DIFFERENCE_CONFIDENCE = 0.95, 0.98
"""Confidence of the interval around a value, and around a difference."""
MAX_P_VALUE = 1 - DIFFERENCE_CONFIDENCE
MIN_INTERVAL_ROWS = 5
"""With fewer rows no interval is given: the bootstrap of so few values is not valid."""


@dataclass(frozen=True)
class RatioSample:
    """Columns of ratios: column m has the value sum(top[:, m]) / sum(bottom[:, m]). Both are [rows, columns].

    For a mean, bottom is 1. A row that does not count for a column has 0 in both.
    """

    top: FloatArray
    bottom: FloatArray

    @property
    def values(self) -> FloatArray:
        """One value per column, NaN where no row counts."""
        return _ratio(self.top.sum(axis=0), self.bottom.sum(axis=0))


def make_mean_sample(columns: FloatArray) -> RatioSample:
    """Return the means of [rows, columns], in which NaN marks a row that does not count."""
    known = ~np.isnan(columns)
    return RatioSample(np.where(known, columns, 0.0), known.astype(np.float64))


def bootstrap_values(sample: RatioSample, seed: int = 0) -> FloatArray:
    """Return [BOOTSTRAP_DRAWS, columns]: the values of BOOTSTRAP_DRAWS samples of as many rows, drawn with replacement.

    Source: B. Efron, Bootstrap methods: another look at the jackknife, 1979.
    """
    rows = len(sample.top)
    random = np.random.default_rng(seed)
    values = []
    for count in _chunks(BOOTSTRAP_DRAWS, rows):
        picks = random.integers(0, rows, size=(count, rows))
        times = np.stack([np.bincount(pick, minlength=rows) for pick in picks]).astype(np.float64)
        values.append(_ratio(times @ sample.top, times @ sample.bottom))
    return np.concatenate(values)


def bootstrap_interval(
    draws: FloatArray, value: float, rows: int, level: float = VALUE_CONFIDENCE
) -> tuple[float, float] | None:
    """Return the percentile interval of one column's draws, None below MIN_INTERVAL_ROWS.

    It is widened like Student's t, and by sqrt(n / (n - 1)): the percentile interval is too narrow for few rows.
    """
    known = draws[np.isfinite(draws)]
    if rows < MIN_INTERVAL_ROWS or not known.size or not math.isfinite(value):
        return None
    low, high = np.percentile(known, [50 * (1 - level), 50 * (1 + level)])
    z = NormalDist().inv_cdf((1 + level) / 2)
    factor = _student_t(z, rows - 1) / z * math.sqrt(rows / (rows - 1))
    return float(value - (value - low) * factor), float(value + (high - value) * factor)


def share_interval(draws: FloatArray, value: float, rows: int) -> tuple[float, float] | None:
    """Return the 95 % interval of a share, 0 to 1; None below MIN_INTERVAL_ROWS.

    When all rows are equal every draw is the same, so the exact binomial bound (Clopper-Pearson) takes the place of the
    bootstrap.
    """
    interval = bootstrap_interval(draws, value, rows)
    if interval is None:
        return None
    if value in (0.0, 1.0):
        bound = 0.025 ** (1 / rows)  # half of 5 %: the interval is two-sided
        return (0.0, 1 - bound) if value == 0.0 else (bound, 1.0)
    return max(0.0, interval[0]), min(1.0, interval[1])


def sign_flip_p_value(differences: FloatArray, seed: int = 0, flips: int | None = None) -> float:
    """Return the two-sided p value of the sum of paired differences, one per row.

    It is the share of random sign patterns whose sum is at least as far from zero.
    """
    parts = differences[np.isfinite(differences) & (differences != 0)]
    if not parts.size:
        return 1.0
    observed = abs(parts.sum()) - 1e-9 * np.abs(parts).sum()  # less a rounding error, so that ties count
    random = np.random.default_rng(seed)
    extreme, total = 0, flips or SIGN_FLIPS
    for count in _chunks(total, len(parts)):
        signs = random.integers(0, 2, size=(count, len(parts)), dtype=np.int8) * 2 - 1
        extreme += int((np.abs(signs @ parts) >= observed).sum())
    return (extreme + 1) / (total + 1)  # the observed pattern is one of them: p is never 0


def decide_change_direction(interval: tuple[float, float] | None, p: float) -> ChangeDirection:
    """Return "up" or "down" when both interval and p value show a difference, else "noise"."""
    if interval is None or interval[0] <= 0 <= interval[1] or p >= MAX_P_VALUE:
        return "noise"
    return "up" if interval[0] > 0 else "down"


def _chunks(total: int, width: int) -> Iterator[int]:
    largest = max(1, NUMBERS_PER_CHUNK // max(1, width))
    for start in range(0, total, largest):
        yield min(largest, total - start)


def _ratio(top: FloatArray, bottom: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1.0), np.nan)


def _student_t(z: float, freedom: int) -> float:
    """Return the quantile of Student's t that corresponds to the normal quantile z.

    Cornish-Fisher expansion, within 3 % from 3 degrees of freedom on. Source: Abramowitz and Stegun, 26.7.5.
    """
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def find_t_quantile(tail: FloatArray, freedom: FloatArray) -> FloatArray:
    """Return t with P(|T| > t) = tail for Student's t with a whole number of degrees of freedom.

    Exact for 1 and 2, else within 0.1 %. Source: G. Hill, Algorithm 396: Student's t-quantiles, 1970.
    """
    tail, freedom = np.broadcast_arrays(np.asarray(tail, float), np.asarray(freedom, float))
    a = 1 / (freedom - 0.5)
    b = 48 / a**2
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * np.sqrt(a * math.pi / 2) * freedom
    y = (d * tail) ** (2 / freedom)
    z = np.array([NormalDist().inv_cdf(min(float(one) / 2, 0.5)) for one in tail.ravel()]).reshape(tail.shape)
    c = c + np.where(freedom < 5, 0.3 * (freedom - 4.5) * (z + 0.6), 0)
    c = (((0.05 * d * z - 5) * z - 7) * z - 2) * z + b + c
    center = np.expm1(a * np.square(((((0.4 * z**2 + 6.3) * z**2 + 36) * z**2 + 94.5) / c - z**2 - 3) / b * z + z))
    outer = 1 / (((freedom + 6) / (freedom * y) - 0.089 * d - 0.822) * (freedom + 2) * 3) + 0.5 / (freedom + 4)
    outer = (outer * y - 1) * (freedom + 1) / (freedom + 2) + 1 / y
    found = np.sqrt(freedom * np.where(y > 0.05 + a, center, outer))
    found = np.where(freedom == 1, 1 / np.tan(tail * math.pi / 2), found)
    return np.asarray(np.where(freedom == 2, np.sqrt(2 / (tail * (2 - tail)) - 2), found))
