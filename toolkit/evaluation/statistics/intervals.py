"""How sure a figure is: bootstrap intervals over the rows, and a verdict on a difference between two models.

Rows are drawn again with all their figures, so that models stay paired on the same rows; the seed makes it repeatable.
A difference counts only when its 98 % interval leaves out zero *and* a sign-flip test agrees (p < 0.02): with no true
difference that test is right 98 times in 100 whatever the shape of the noise, while the bootstrap alone is too sure of
itself when few rows differ. Stricter than 95 %, because one looks at a dozen measures at once. Knows arrays, no
measure and no model.
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
NUMBERS_PER_CHUNK = 4_000_000  # numbers that are drawn at once
VALUE_CONFIDENCE, DIFFERENCE_CONFIDENCE = 0.95, 0.98
"""Confidence of the interval around a value, and around a difference."""
MAX_P_VALUE = 1 - DIFFERENCE_CONFIDENCE
MIN_INTERVAL_ROWS = 5
"""Below so many rows nothing is said about a figure's doubt: whatever was said would be wrong."""


@dataclass(frozen=True)
class RatioSample:
    """Columns of ratios: column m has the value sum(top[:, m]) / sum(bottom[:, m]). Both are [rows, columns].

    A mean has 1 at the bottom; a row that does not count for a column has 0 in both.
    """

    top: FloatArray
    bottom: FloatArray

    @property
    def values(self) -> FloatArray:
        """One value a column; NaN where no row counts."""
        return _ratio(self.top.sum(axis=0), self.bottom.sum(axis=0))


def make_mean_sample(columns: FloatArray) -> RatioSample:
    """The means of columns in which NaN means that a row does not count."""
    there = ~np.isnan(columns)
    return RatioSample(np.where(there, columns, 0.0), there.astype(np.float64))


def bootstrap_values(sample: RatioSample, seed: int = 0, draws: int | None = None) -> FloatArray:
    """[draws, columns]: the values of `draws` samples of as many rows, drawn with replacement."""
    rows = len(sample.top)
    random = np.random.default_rng(seed)
    found = []
    for count in _chunks(draws or BOOTSTRAP_DRAWS, rows):
        picks = random.integers(0, rows, size=(count, rows))
        times = np.stack([np.bincount(pick, minlength=rows) for pick in picks]).astype(np.float64)
        found.append(_ratio(times @ sample.top, times @ sample.bottom))
    return np.concatenate(found)


def bootstrap_interval(
    draws: FloatArray, value: float, rows: int, level: float = VALUE_CONFIDENCE
) -> tuple[float, float] | None:
    """The interval of one column's draws, widened for small samples as Student's t is; None below FEWEST rows."""
    known = draws[np.isfinite(draws)]
    if rows < MIN_INTERVAL_ROWS or not known.size or not math.isfinite(value):
        return None
    low, high = np.percentile(known, [50 * (1 - level), 50 * (1 + level)])
    z = NormalDist().inv_cdf((1 + level) / 2)
    wider = _student_t(z, rows - 1) / z * math.sqrt(rows / (rows - 1))
    return float(value - (value - low) * wider), float(value + (high - value) * wider)


def share_interval(draws: FloatArray, value: float, rows: int) -> tuple[float, float] | None:
    """Like `interval` for a share, 0 to 1. All rows alike: the exact bound, for the bootstrap sees no doubt there."""
    found = bootstrap_interval(draws, value, rows)
    if found is None:
        return None
    if value in (0.0, 1.0):
        doubt = 0.025 ** (1 / rows)
        return (0.0, 1 - doubt) if value == 0.0 else (doubt, 1.0)
    return max(0.0, found[0]), min(1.0, found[1])


def sign_flip_p_value(differences: FloatArray, seed: int = 0, flips: int | None = None) -> float:
    """Two-sided p of a sum of paired differences (one a row): how often signs thrown at random reach as far."""
    parts = differences[np.isfinite(differences) & (differences != 0)]
    if not parts.size:
        return 1.0
    reach = abs(parts.sum()) - 1e-9 * np.abs(parts).sum()
    random = np.random.default_rng(seed)
    as_far, wanted = 0, flips or SIGN_FLIPS
    for count in _chunks(wanted, len(parts)):
        signs = random.integers(0, 2, size=(count, len(parts)), dtype=np.int8) * 2 - 1
        as_far += int((np.abs(signs @ parts) >= reach).sum())
    return (as_far + 1) / (wanted + 1)


def decide_change_direction(found: tuple[float, float] | None, p: float) -> ChangeDirection:
    """What a difference's interval and p say: "up", "down", or "noise"."""
    if found is None or found[0] <= 0 <= found[1] or p >= MAX_P_VALUE:
        return "noise"
    return "up" if found[0] > 0 else "down"


def _chunks(total: int, width: int) -> Iterator[int]:
    most = max(1, NUMBERS_PER_CHUNK // max(1, width))
    for start in range(0, total, most):
        yield min(most, total - start)


def _ratio(top: FloatArray, bottom: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1.0), np.nan)


def _student_t(z: float, freedom: int) -> float:
    """Student's t where the normal law has z, by the Cornish-Fisher expansion: within 3 % from 3 degrees on."""
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
