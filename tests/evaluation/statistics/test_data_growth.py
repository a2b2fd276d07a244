"""The gain from more training rows: a planted power law is found, no growth is none, and few sizes say nothing."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.evaluation.statistics.data_growth import fit_data_growth

SIZES = (100, 200, 400)


def draw(exponent: float, rows: int = 400, seeds: int = 3, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    hardness = random.random(rows)
    right = [hardness > 0.4 * (size / 100) ** -exponent + random.normal(0, 0.02, (seeds, rows)) for size in SIZES]
    return np.array(right, dtype=float)


def test_a_planted_power_law_is_found_within_its_band() -> None:
    truth = 0.4 * (4**-0.5 - 8**-0.5)
    inside = 0
    for seed in range(40):
        found = fit_data_growth(SIZES, draw(0.5, seed=seed))
        assert found is not None and found.low <= found.gain <= found.high
        inside += found.low <= truth <= found.high
    assert inside >= 34


def test_data_that_adds_nothing_has_a_band_around_zero() -> None:
    found = fit_data_growth(SIZES, draw(0.0))
    assert found is not None
    assert found.low < 0.01 and abs(found.gain) < 0.03
    assert found.exponent == pytest.approx(0, abs=0.1)


def test_two_sizes_say_nothing_and_a_perfect_score_gains_nothing() -> None:
    assert fit_data_growth(SIZES[:2], draw(0.5)[:2]) is None
    found = fit_data_growth(SIZES, np.ones((3, 2, 50)))
    assert found is not None and found.gain == pytest.approx(0, abs=1e-9)
