"""The statistics on simulated data: no effect is noise, a known effect is found, few rows give no verdict."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from toolkit.evaluation.statistics import intervals
from toolkit.evaluation.statistics.counting import compute_figures, mean_column, ratio_column
from toolkit.evaluation.statistics.measures import MEASURES_BY_NAME
from toolkit.evaluation.statistics.results import Verdict

Pair = Callable[[np.random.Generator], np.ndarray]


def flips(rows: int, share: float) -> Pair:
    """A model that is right on half of the rows, and one that flips each row with the same chance either way."""

    def draw(random: np.random.Generator) -> np.ndarray:
        base = random.permutation(np.arange(rows) % 2).astype(float)
        return np.stack([base, np.where(random.random(rows) < share, 1 - base, base)], axis=1)

    return draw


def noise(rows: int, draw: Callable[[np.random.Generator, int], np.ndarray]) -> Pair:
    def both(random: np.random.Generator) -> np.ndarray:
        base = random.random(rows)
        return np.stack([base, base + draw(random, rows)], axis=1)

    return both


NULLS = {
    "few flips": flips(128, 0.04),
    "many flips": flips(128, 0.4),
    "few rows": flips(12, 0.5),
    "normal": noise(60, lambda r, n: r.normal(size=n)),
    "heavy tails": noise(60, lambda r, n: r.standard_t(2, size=n)),
    "few values": noise(10, lambda r, n: r.normal(size=n)),
}
SEEDS = 120


def verdict(values: np.ndarray, measure: str = "token_f1", seed: int = 0) -> Verdict:
    column = mean_column(MEASURES_BY_NAME[measure], values)
    return compute_figures([column], ["base", "adapter"], seed)[0].differences["adapter"].verdict


@pytest.mark.parametrize("name", NULLS)
def test_a_planted_null_is_within_noise(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "SIGN_FLIPS", 1_000)
    monkeypatch.setattr(intervals, "BOOTSTRAP_DRAWS", 1_000)
    found = [verdict(NULLS[name](np.random.default_rng([seed, 7])), seed=seed) for seed in range(SEEDS)]
    assert found.count("noise") / SEEDS >= 0.95


def test_a_planted_effect_is_found() -> None:
    random = np.random.default_rng(3)
    base = (random.random(200) < 0.3).astype(float)
    better = np.where(random.random(200) < 0.25, 1.0, base)
    assert verdict(np.stack([base, better], axis=1)) == "better"
    assert verdict(np.stack([better, base], axis=1)) == "worse"
    assert verdict(np.stack([better, base], axis=1), "length_difference") == "better", "less is better there"
    assert verdict(np.stack([better, base], axis=1), "length_ratio") == "differs"


def test_equal_answers_are_noise() -> None:
    same = np.repeat((np.arange(50) % 3 == 0).astype(float)[:, None], 2, axis=1)
    column = compute_figures([mean_column(MEASURES_BY_NAME["exact_match"], same)], ["base", "adapter"], 0)[0]
    gap = column.differences["adapter"]
    assert (gap.verdict, gap.value, gap.low, gap.high, gap.p) == ("noise", 0, 0, 0, 1)


def test_five_flips_of_a_hundred_are_not_enough() -> None:
    values = np.zeros((100, 2))
    values[:5, 1] = 1
    assert verdict(values) == "noise", "five coins fall on one side once in sixteen times"
    values[:12, 1] = 1
    assert verdict(values) == "better"


@pytest.mark.parametrize("rows", [1, 4])
def test_a_handful_of_rows_gives_no_verdict(rows: int) -> None:
    values = np.array([[0.0, 1.0]] * rows)
    found = compute_figures([mean_column(MEASURES_BY_NAME["exact_match"], values)], ["base", "adapter"], 0)[0]
    assert found.models["adapter"].value == 1
    assert found.models["adapter"].low is None
    assert found.differences["adapter"].verdict == "noise"


def test_a_share_of_one_has_an_interval() -> None:
    found = compute_figures(
        [mean_column(MEASURES_BY_NAME["exact_match"], np.array([[0.0, 1.0]] * 20))], ["base", "adapter"], 0
    )[0]
    exact = 0.025 ** (1 / 20)  # Clopper and Pearson's bound
    assert found.models["adapter"].low == pytest.approx(exact)
    assert found.models["base"].high == pytest.approx(1 - exact)
    assert found.differences["adapter"].verdict == "better"


def test_intervals_cover_the_true_value_at_their_level() -> None:
    random = np.random.default_rng(5)
    held = 0
    for seed in range(200):
        values = random.normal(1.0, 2.0, size=(40, 1))
        found = compute_figures([mean_column(MEASURES_BY_NAME["length_difference"], values)], ["base"], seed)[0].models[
            "base"
        ]
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 1.0 <= found.high
    assert 0.90 <= held / 200 <= 0.99


def test_the_same_seed_gives_the_same_figures() -> None:
    values = np.random.default_rng(1).random((40, 2))
    column = mean_column(MEASURES_BY_NAME["chrf"], values)
    assert compute_figures([column], ["base", "a"], 4) == compute_figures([column], ["base", "a"], 4)
    assert compute_figures([column], ["base", "a"], 4) != compute_figures([column], ["base", "a"], 5)


def test_loss_weighs_tokens_and_perplexity_is_its_exponential() -> None:
    top, bottom = np.array([[2.0, 1.0], [9.0, 3.0], [7.0, 7.0]]), np.array([[1.0, 1.0], [9.0, 9.0], [0.0, 7.0]])
    columns = [
        ratio_column(MEASURES_BY_NAME[name], top, bottom, exponential=name == "perplexity")
        for name in ("loss", "perplexity")
    ]
    loss, perplexity = compute_figures(columns, ["base", "a"], 0)
    assert loss.rows == 2, "a row without a loss for one model counts for none"
    assert loss.models["base"].value == pytest.approx(11 / 10)
    assert perplexity.models["base"].value == pytest.approx(np.exp(1.1))
    assert loss.differences["a"].value == pytest.approx(4 / 10 - 11 / 10)


def test_a_row_without_a_value_for_one_model_is_skipped_for_all() -> None:
    values = np.array([[1.0, np.nan], [0.0, 1.0], [1.0, 1.0]])
    found = compute_figures([mean_column(MEASURES_BY_NAME["exact_match"], values)], ["base", "a"], 0)[0]
    assert found.rows == 2
    assert found.models["base"].value == 0.5


def test_the_sign_flip_p_value_is_close_to_the_exact_one() -> None:
    assert intervals.sign_flip_p_value(np.ones(5), flips=40_000) == pytest.approx(2 / 32, abs=0.005)
    assert intervals.sign_flip_p_value(np.zeros(9)) == 1.0
    assert intervals.sign_flip_p_value(np.array([np.nan, 1.0])) == pytest.approx(1.0, abs=0.01)


def test_intervals_stay_within_possible_values() -> None:
    """However few the rows: shares within 0 .. 1, differences of shares within -1 .. 1, nothing below zero."""
    random = np.random.default_rng(2)
    shares = random.random((6, 2)) ** 4
    losses = random.exponential(1.0, (6, 2))
    columns = [
        mean_column(MEASURES_BY_NAME["chrf"], shares),
        mean_column(MEASURES_BY_NAME["length_difference"], 100 * shares),
        ratio_column(MEASURES_BY_NAME["perplexity"], losses, np.ones((6, 2)), exponential=True),
    ]
    chrf, length, perplexity = compute_figures(columns, ["base", "a"], 0)
    for value in chrf.models.values():
        assert value.low is not None
        assert value.high is not None
        assert 0 <= value.low <= value.high <= 1
    gap = chrf.differences["a"]
    assert gap.low is not None
    assert gap.high is not None
    assert -1 <= gap.low <= gap.high <= 1
    assert min(value.low or 0 for value in length.models.values()) >= 0
    assert min(value.low or 0 for value in perplexity.models.values()) >= 1
