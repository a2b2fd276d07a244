"""What more training rows would add: a power law through the errors at several sizes, with its band.

error = scale * rows ** -exponent, fitted as a line in logarithms. Source: J. Hestness et al., Deep learning scaling is
predictable, empirically, 2017. The band is that of the pigeonhole bootstrap (see `paired_trials.py`): seeds and test
rows are drawn with replacement, independently of each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.evaluation.statistics.intervals import FloatArray

MIN_SIZES = 3
"""A power law through two sizes would fit any two errors."""
DRAWS = 1000


@dataclass(frozen=True)
class DataGrowth:
    """The gain in score from twice the training rows, with a 95 % band. exponent: of the power law; 0 means no gain."""

    gain: float
    low: float
    high: float
    exponent: float


def fit_data_growth(sizes: Sequence[float], scores: FloatArray, seed: int = 0) -> DataGrowth | None:
    """Return what doubling the largest size would add; None below MIN_SIZES sizes.

    sizes: training rows, or shares of them. scores: [sizes, seeds, test rows], each 0 to 1.
    """
    count, seeds, rows = scores.shape
    if count < MIN_SIZES or rows < 1:
        return None
    gain, exponent = _fit(sizes, scores.mean(axis=(1, 2)), rows)
    random = np.random.default_rng(seed)
    gains = []
    for _ in range(DRAWS):
        drawn = scores[:, random.integers(0, seeds, seeds)].mean(axis=1)
        gains.append(_fit(sizes, drawn[:, random.integers(0, rows, rows)].mean(axis=1), rows)[0])
    low, high = np.percentile(gains, [2.5, 97.5])
    return DataGrowth(gain, float(min(low, gain)), float(max(high, gain)), exponent)


def _fit(sizes: Sequence[float], means: FloatArray, rows: int) -> tuple[float, float]:
    """Return (gain of twice the largest size, exponent)."""
    # no error in n rows is not an error of 0, whose logarithm is endless
    errors = np.maximum(1 - means, 0.5 / rows)
    exponent = -float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])
    at_largest = float(errors[int(np.argmax(sizes))])
    return at_largest * (1 - 2**-exponent), exponent
