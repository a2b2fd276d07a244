"""The difference between two values of a setting, over training seeds and test rows, valid whenever it is looked at.

Trials are paired: the same rows, seeds and other settings. The variance has a part for the rows (other rows would give
another difference) and one for the runs (another seed would). It is that of two crossed random effects, estimated by
moments, in which a term that both parts contain is counted twice: the interval is rather too wide than too narrow.
Source: A. Owen, The pigeonhole bootstrap, 2007; its bootstrap has this variance, and a formula needs no draws. How much
runs vary is estimated from all runs of a small study (`estimate_run_noise`): two or three pairs alone hardly tell.

The interval holds at all looks together: a page that is read after every run is a test that is repeated after every
run. Source: H. Robbins, Statistical methods related to the law of the iterated logarithm, 1970: a Brownian motion W
leaves sqrt(t (a^2 + log(t / m))) at any t >= m with probability 2 (1 - Phi(a) + a phi(a)). Here t is the information,
1 / variance, and m that of the first look, at two pairs; a mean over crossed effects has independent increments in it.
The normal quantile is replaced by Student's t of the same tail, as in C. Jennison and B. Turnbull, Group Sequential
Methods, 2000, section 4.4. `benchmarks/verdicts.py` measures how often the interval errs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np

from toolkit.evaluation.statistics.intervals import FloatArray, find_t_quantile

MIN_PAIRS = 2
"""With one pair, the variation between runs can't be told from the effect."""
MAX_SEEDS_ADVISED = 50
MIN_NOISE_FREEDOM, MAX_NOISE_FREEDOM = 4, 8
"""Degrees of freedom from which repeats alone tell how much runs vary, and that are counted at most: many runs do not
show how much one seed favors one value."""
MIN_TAIL, TINY_WEIGHT = 1e-12, 1e-9
_NORMAL = NormalDist()


@dataclass(frozen=True)
class PairedDifference:
    """A difference with its interval, an array of studies or scalars. low, high: infinite below MIN_PAIRS pairs.

    row_variance, run_variance: parts of the variance of `value`; row_freedom, run_freedom: their degrees of freedom.
    residual_variance: the share of `row_variance` that more runs would reduce.
    """

    value: FloatArray
    low: FloatArray
    high: FloatArray
    row_variance: FloatArray
    run_variance: FloatArray
    row_freedom: int
    run_freedom: int
    pairs: int
    alpha: float
    residual_variance: FloatArray

    @property
    def half_width(self) -> FloatArray:
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class RunNoise:
    """Variance between runs that differ in nothing but chance, an array of studies or a scalar."""

    variance: FloatArray
    freedom: int


def estimate_run_noise(means: FloatArray, settings: Sequence[Sequence[Any]], seeds: Sequence[int]) -> RunNoise:
    """Return how much runs vary that differ in nothing but chance, from all runs of a study.

    means: result of each run, [..., runs]. settings: of each run, its value of each setting. It is what remains when
    the mean of each combination and that of each seed are taken off or, with so few repeats that this leaves hardly
    any freedom, the effect of each setting alone: settings that depend on each other then look like noise.
    """
    repeated = _take_off(means, list(map(tuple, settings)), [seeds])
    if repeated.freedom >= MIN_NOISE_FREEDOM:
        return repeated
    added = _take_off(means, [()] * len(seeds), [*zip(*settings, strict=True), seeds])
    return max(repeated, added, key=lambda one: one.freedom)


def _take_off(means: FloatArray, groups: Sequence[Any], factors: Sequence[Sequence[Any]]) -> RunNoise:
    """Return the mean square of what the means of the groups and additive factors do not explain."""

    def mark(keys: Sequence[Any]) -> FloatArray:
        return np.array([[key == one for one in dict.fromkeys(keys)] for key in keys], dtype=float)

    grouped = mark(groups)
    average = grouped / grouped.sum(axis=0) @ grouped.T
    columns = np.hstack([mark(keys) for keys in factors])
    basis, weights, _ = np.linalg.svd(columns - average @ columns, full_matrices=False)
    basis = basis[:, weights > TINY_WEIGHT]
    freedom = len(groups) - grouped.shape[1] - basis.shape[1]
    rest = means - means @ average
    rest = rest - rest @ basis @ basis.T
    return RunNoise(np.square(rest).sum(axis=-1) / max(freedom, 1), freedom)


def compare_paired_trials(
    first: FloatArray,
    second: FloatArray,
    seeds: Sequence[int],
    others: Sequence[Any],
    alpha: float,
    *,
    share: bool,
    noise: RunNoise | None = None,
) -> PairedDifference:
    """Return second - first with an interval that errs at any look with probability `alpha`.

    first, second: scores of the two values, [..., pairs, rows]; leading axes are separate studies. seeds, others: of
    each pair, its training seed and its other settings. share: scores are 0 to 1, so a variance of 0 is not believed.
    noise: that of single runs, from all runs of the study; used if its degrees of freedom are more than the pairs have.
    """
    pairs, rows = first.shape[-2:]
    differences = second - first
    value = differences.mean(axis=(-2, -1))
    by_row = differences.mean(axis=-2)
    row_variance = by_row.var(axis=-1, ddof=1) / rows if rows > 1 else np.zeros_like(value)
    if share:
        # as if one row more had changed: no change in n rows does not show that none of all rows would change
        row_variance = np.maximum(row_variance, 1 / rows**2)
    run_variance, run_freedom = _estimate_run_variance(first, second, seeds, others, noise)
    row_freedom = max(1, rows - 1)
    if pairs < MIN_PAIRS:
        half, residual = np.full_like(value, np.inf), np.zeros_like(value)
    else:
        half = _half_width(row_variance, run_variance, row_freedom, run_freedom, pairs, alpha)
        residual = np.minimum(_residual_variance(differences), row_variance)
    return PairedDifference(
        value=value,
        low=value - half,
        high=value + half,
        row_variance=row_variance,
        run_variance=run_variance,
        row_freedom=row_freedom,
        run_freedom=run_freedom,
        pairs=pairs,
        alpha=alpha,
        residual_variance=residual,
    )


def _estimate_run_variance(
    first: FloatArray, second: FloatArray, seeds: Sequence[int], others: Sequence[Any], noise: RunNoise | None
) -> tuple[FloatArray, int]:
    """Return the part of the variance that other seeds would show, and its degrees of freedom.

    With repeats, it is the variation between the seeds of each value, which has twice the degrees of freedom of the
    paired differences; without, the variation between the other settings. The noise of all runs of the study replaces
    both where it has more.
    """
    differences = second - first
    pairs = differences.shape[-2]
    by_pair = differences.mean(axis=-1)
    if pairs < MIN_PAIRS:
        return np.zeros(differences.shape[:-2]), 1
    groups = {key: [at for at, other in enumerate(others) if other == key] for key in others}
    freedom = sum(len(members) - 1 for members in groups.values())
    if freedom:
        squares = sum(
            np.square(means[..., members] - means[..., members].mean(axis=-1, keepdims=True)).sum(axis=-1)
            for means in (first.mean(axis=-1), second.mean(axis=-1))
            for members in groups.values()
        )
        variance, freedom = squares / freedom / pairs, 2 * freedom
    else:
        variance, freedom = by_pair.var(axis=-1, ddof=1) / pairs, pairs - 1
    if noise is not None and min(noise.freedom, MAX_NOISE_FREEDOM) > freedom:
        variance, freedom = 2 * noise.variance / pairs, min(noise.freedom, MAX_NOISE_FREEDOM)
    by_seed = np.stack(
        [by_pair[..., [at for at, one in enumerate(seeds) if one == seed]].mean(axis=-1) for seed in set(seeds)],
        axis=-1,
    )
    if 1 < by_seed.shape[-1] < pairs:  # a seed may favor one value under all other settings
        variance = np.maximum(variance, by_seed.var(axis=-1, ddof=1) / by_seed.shape[-1])
    variance = np.maximum(variance, _residual_variance(differences))
    # trials that agree in every answer differ in nothing that a seed could change
    return np.where(differences.any(axis=(-2, -1)), variance, 0.0), freedom


def _residual_variance(differences: FloatArray) -> FloatArray:
    """Return the variance of the mean that single answers alone would cause, a lower bound of that between runs."""
    pairs, rows = differences.shape[-2:]
    if rows < 2:
        return np.zeros(differences.shape[:-2])
    by_row, by_pair = differences.mean(axis=-2, keepdims=True), differences.mean(axis=-1, keepdims=True)
    rest = differences - by_row - by_pair + differences.mean(axis=(-2, -1), keepdims=True)
    return np.asarray(np.square(rest).sum(axis=(-2, -1)) / ((pairs - 1) * (rows - 1)) / (pairs * rows))


def _half_width(
    row_variance: FloatArray,
    run_variance: FloatArray,
    row_freedom: int,
    run_freedom: int | FloatArray,
    pairs: int | FloatArray,
    alpha: float,
) -> FloatArray:
    total = row_variance + run_variance
    at_first_look = row_variance + run_variance * pairs / MIN_PAIRS
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = np.where(total > 0, at_first_look / total, 1.0)
        # Satterthwaite's degrees of freedom of a sum of two estimates, rounded down
        freedom = total**2 / (row_variance**2 / row_freedom + run_variance**2 / run_freedom)
    freedom = np.floor(np.where(total > 0, np.maximum(freedom, 1), 1))
    boundary = np.sqrt(find_robbins_constant(alpha) ** 2 + np.log(np.maximum(growth, 1)))
    tail = np.maximum([2 * _NORMAL.cdf(-float(one)) for one in boundary.ravel()], MIN_TAIL).reshape(boundary.shape)
    return np.asarray(find_t_quantile(tail, freedom) * np.sqrt(total))


def count_seeds_needed(found: PairedDifference, seeds: int, half_width: float) -> int | None:
    """Return how many seeds in total would make a single study's half width that small; None if no number would.

    seeds: how many there are now.
    """
    wanted = np.arange(seeds + 1, MAX_SEEDS_ADVISED + 1)
    share = seeds / wanted
    half = _half_width(
        found.row_variance - found.residual_variance * (1 - share),
        found.run_variance * share,
        found.row_freedom,
        np.maximum(1, np.round(found.run_freedom / max(seeds - 1, 1) * (wanted - 1))),
        np.round(found.pairs / share),
        found.alpha,
    )
    enough = wanted[half <= half_width]
    return int(enough[0]) if len(enough) else None


@cache
def find_robbins_constant(alpha: float) -> float:
    """Return a with 2 (1 - Phi(a) + a phi(a)) = alpha, by bisection; 2.80 for 5 %."""
    low, high = 0.0, 10.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        too_likely = 2 * (_NORMAL.cdf(-middle) + middle * _NORMAL.pdf(middle)) > alpha
        low, high = (middle, high) if too_likely else (low, middle)
    return high
