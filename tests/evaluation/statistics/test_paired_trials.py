"""The interval of a paired difference: quantiles, what widens it, and that it errs rarely however often one looks."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.verdicts import Design, Tally, draw_scores, judge
from toolkit.evaluation.statistics.intervals import find_t_quantile
from toolkit.evaluation.statistics.paired_trials import (
    compare_paired_trials,
    count_seeds_needed,
    estimate_run_noise,
    find_robbins_constant,
)


@pytest.mark.parametrize(
    ("freedom", "at_5_percent", "at_half_percent"),
    [(1, 12.706, 127.321), (2, 4.3027, 14.089), (3, 3.1824, 7.4533), (6, 2.4469, 4.3168), (30, 2.0423, 3.0298)],
)
def test_quantiles_are_those_of_the_tables(freedom: int, at_5_percent: float, at_half_percent: float) -> None:
    found = find_t_quantile(np.array([0.05, 0.005]), np.array(freedom))
    assert found == pytest.approx([at_5_percent, at_half_percent], rel=1e-3)


def test_the_boundary_is_robbins_own() -> None:
    assert find_robbins_constant(0.05) == pytest.approx(2.7955, abs=1e-3)
    assert find_robbins_constant(0.05 / 3) > find_robbins_constant(0.05)


def test_one_pair_says_nothing() -> None:
    found = compare_paired_trials(np.zeros((1, 50)), np.ones((1, 50)), [42], [""], 0.05, share=True)
    assert float(found.value) == 1.0
    assert (float(found.low), float(found.high)) == (-np.inf, np.inf)


def test_equal_answers_are_an_interval_around_zero_that_more_rows_make_smaller() -> None:
    random = np.random.default_rng(0)
    halves = []
    for rows in (20, 200):
        answers = (random.random((3, rows)) < 0.6).astype(float)
        found = compare_paired_trials(answers, answers, [1, 2, 3], [""] * 3, 0.05, share=True)
        assert float(found.value) == 0 and float(found.low) < 0 < float(found.high)
        halves.append(float(found.half_width))
    assert halves[1] < halves[0] / 5 and halves[1] < 0.03


def test_a_clear_effect_excludes_zero_and_one_lucky_run_does_not() -> None:
    random = np.random.default_rng(1)
    first = (random.random((6, 100)) < 0.4).astype(float)
    better = np.maximum(first, random.random((6, 100)) < 0.6)
    seeds = [1, 2, 3, 4, 5, 6]
    assert float(compare_paired_trials(first, better, seeds, [""] * 6, 0.05, share=True).low) > 0.1
    lucky = first.copy()
    lucky[0] = 1.0
    found = compare_paired_trials(first, lucky, seeds, [""] * 6, 0.05, share=True)
    assert float(found.low) < 0 < float(found.high)


def test_a_loss_has_no_rows_and_is_judged_by_its_runs() -> None:
    first, second = np.array([[1.0], [1.1], [0.9]]), np.array([[0.5], [0.6], [0.4]])
    found = compare_paired_trials(first, second, [1, 2, 3], [""] * 3, 0.05, share=False)
    assert float(found.value) == pytest.approx(-0.5)
    assert float(found.row_variance) == 0
    same = compare_paired_trials(first, first, [1, 2, 3], [""] * 3, 0.05, share=False)
    assert (float(same.low), float(same.high)) == (0, 0)


def test_more_seeds_are_advised_until_the_rows_are_the_limit() -> None:
    random = np.random.default_rng(2)
    first, second = ((random.random((3, 300)) < 0.6).astype(float) for _ in range(2))
    found = compare_paired_trials(first, second, [1, 2, 3], [""] * 3, 0.05, share=True)
    wide = float(found.half_width)
    needed = count_seeds_needed(found, 3, wide / 2)
    assert needed is not None and 4 <= needed <= 20
    assert count_seeds_needed(found, 3, 1e-4) is None


def test_all_runs_of_a_study_tell_how_much_runs_vary_by_chance() -> None:
    settings = [(value,) for value in range(4) for _ in range(3)]
    seeds = [1, 2, 3] * 4
    of_seed, of_value = np.tile([0.0, 0.2, 0.5], 4), np.repeat([0.1, 0.3, 0.3, 0.4], 3)
    equal = estimate_run_noise(of_seed + of_value, settings, seeds)
    assert equal.freedom == 6 and float(equal.variance) == pytest.approx(0)
    random = np.random.default_rng(4)
    drawn = estimate_run_noise(of_seed + of_value + random.normal(0, 0.1, (2000, 12)), settings, seeds)
    assert float(drawn.variance.mean()) == pytest.approx(0.01, rel=0.05)
    # without repeats, each setting's own effect is taken off, and what depends on another setting is noise
    crossed = [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)]
    added = np.array([0.1 * a + 0.2 * b - 0.3 * c for a, b, c in crossed])
    joint = added + np.array([0.1 * (a == b) for a, b, _ in crossed])
    plain, mixed = (estimate_run_noise(one, crossed, [42] * 8) for one in (added, joint))
    assert (plain.freedom, float(plain.variance)) == (4, pytest.approx(0)) and float(mixed.variance) > 0.001


def test_what_a_seed_does_to_all_values_does_not_widen_the_interval_of_two() -> None:
    random, of_seed = np.random.default_rng(6), np.array([[0.4], [0.6], [0.7]])
    values = [(random.random((3, 150)) < of_seed).astype(float) for _ in range(4)]
    means = np.concatenate([one.mean(axis=-1) for one in values])
    noise = estimate_run_noise(means, [(at,) for at in range(4) for _ in range(3)], [1, 2, 3] * 4)
    alone, known = (
        compare_paired_trials(*values[:2], [1, 2, 3], [""] * 3, 0.05 / 6, share=True, noise=one)
        for one in (None, noise)
    )
    assert float(alone.value) == float(known.value) and known.run_freedom > alone.run_freedom
    assert float(known.half_width) < 0.5 * float(alone.half_width)


@pytest.mark.parametrize(
    "design", [Design(2, 1, 3, 60), Design(3, 2, 3, 100), Design(2, 4, 1, 100), Design(4, 1, 3, 150)]
)
def test_a_null_is_called_at_most_one_time_in_twenty_at_any_look(design: Design) -> None:
    random = np.random.default_rng(3)
    total = Tally()
    for _ in range(12):
        total.add(judge(design, *draw_scores(design, 0.0, random)))
    assert total.studies == 600
    assert total.share("called") <= 0.05
    assert total.share("covered_always") >= 0.95


def test_ten_points_are_found_where_the_interval_is_narrow_enough() -> None:
    design, random, total = Design(2, 8, 5, 300), np.random.default_rng(5), Tally()
    for _ in range(4):
        total.add(judge(design, *draw_scores(design, 0.1, random)))
    assert total.share("half_width") < 0.1
    assert total.share("called_right") >= 0.9
