"""Exact split sizes and the one function that decides which row goes where."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.config import Config, DataConfig
from toolkit.data.examples.split import plan_split, size_problems, split_indices, split_sizes, usable_indices
from toolkit.data.table import Table
from toolkit.errors import DataError


@pytest.mark.parametrize(
    ("rows", "train", "test", "expected"),
    [
        (10, 0.8, 0.2, (8, 2)),
        (10, None, None, (7, 3)),
        (100, None, None, (75, 25)),
        (10, 0.7, 0.30000000000000004, (7, 3)),
        (30, 0.9, 0.1, (27, 3)),  # 0.1 * 30 is 3.0000000000000004 in floats
        (100, 0.29, None, (29, 71)),  # 0.29 * 100 is 28.999999999999996
        (11, 0.5, 0.5, (5, 6)),
        (10, 3, None, (3, 7)),
        (10, None, 3, (7, 3)),
        (10, 0.5, 2, (5, 2)),
        (10, 2, 0.5, (2, 5)),
        (2, 1, 1, (1, 1)),
        (1_000_000, 0.8, 0.2, (800_000, 200_000)),
    ],
)
def test_sizes(rows: int, train: int | float | None, test: int | float | None, expected: tuple[int, int]) -> None:
    assert split_sizes(rows, train, test) == expected


@pytest.mark.parametrize(
    ("rows", "train", "test", "words"),
    [
        (0, 0.8, 0.2, "no usable row"),
        (1, 0.8, 0.2, "1 usable row"),
        (3, 0.1, 0.2, "and 0 for training"),
        (3, 0.2, None, "and 0 for training"),
        (10, 8, 4, "add up to 12, but the dataset has only 10"),
        (10, 10, None, "none for testing"),
        (10, 11, None, "none for testing"),
        (10, None, 10, "and 0 for training"),
        (10, None, 1000, "and 0 for training"),
        (10, 1.0, None, "train_size is 1.0"),
        (10, 0, None, "train_size is 0"),
        (10, None, -1, "test_size is -1"),
        (10, True, None, "train_size is True"),
        (10, math.nan, None, "train_size is nan"),
        (10, math.inf, None, "train_size is inf"),
    ],
)
def test_sizes_that_do_not_fit(rows: int, train: int | float | None, test: int | float | None, words: str) -> None:
    with pytest.raises(DataError) as caught:
        split_sizes(rows, train, test)
    assert words in str(caught.value)
    assert caught.value.hint


SIZES = st.one_of(st.none(), st.integers(1, 60), st.integers(1, 99).map(lambda percent: percent / 100))


@given(st.integers(0, 60), SIZES, SIZES)
def test_fractions_round_down_for_training_and_up_for_test(rows: int, train: int | float, test: int | float) -> None:
    try:
        n_train, n_test = split_sizes(rows, train, test)
    except DataError:
        return
    assert n_train >= 1
    assert n_test >= 1
    assert n_train + n_test <= rows
    if isinstance(train, float):
        assert n_train == math.floor(Fraction(str(train)) * rows)
    if isinstance(test, float):
        assert n_test == math.ceil(Fraction(str(test)) * rows)
    if train is None or test is None:
        assert n_train + n_test == rows


def test_indices_are_those_of_datasets_and_stay_so() -> None:
    train, test = split_indices(10, 5, 3, 42)
    order = np.random.default_rng(42).permutation(10)
    assert test.tolist() == order[:3].tolist()
    assert train.tolist() == order[3:8].tolist()
    assert order.tolist() == [5, 6, 0, 7, 3, 2, 4, 9, 1, 8]  # another order would change every user's split
    again = split_indices(10, 5, 3, 42)
    assert (train.tolist(), test.tolist()) == (again[0].tolist(), again[1].tolist())
    assert split_indices(10, 5, 3, 43)[0].tolist() != train.tolist()


def test_size_problems_stand_under_the_fields_that_are_filled() -> None:
    config = Config.model_validate({"data": {"train_size": 8, "test_size": None}})
    assert size_problems(config, 100) == []
    assert [problem.path for problem in size_problems(config, 8)] == ["data.train_size"]
    neither = Config.model_validate({"data": {"train_size": None, "test_size": None}})
    assert [problem.path for problem in size_problems(neither, 1)] == ["data.test_size"]


@pytest.fixture
def table(open_bytes: Callable[..., Table]) -> Table:
    rows = [f"m{i},{'' if i % 10 == 3 else f'a{i}'},{'' if i % 2 else 'x'}" for i in range(100)]
    return open_bytes("message,answer,unused\n" + "\n".join(rows))


def test_plan_skips_rows_with_missing_used_cells_before_splitting(table: Table) -> None:
    plan = plan_split(table, DataConfig(prompt="{message}", prompt_stub="{answer}", train_size=0.8, test_size=0.2))
    assert plan.dropped.tolist() == list(range(3, 100, 10))
    assert (len(plan.train), len(plan.test)) == (72, 18)
    everything = np.concatenate([plan.train, plan.test, plan.dropped])
    assert sorted(everything.tolist()) == list(range(100))
    assert [part.dtype for part in (plan.train, plan.test, plan.dropped)] == [np.int64] * 3


def test_usable_rows_depend_on_the_columns_used(table: Table) -> None:
    assert usable_indices(table, ["message"]).tolist() == list(range(100))
    assert usable_indices(table, []).tolist() == list(range(100))
    both = [i for i in range(100) if i % 10 != 3 and i % 2 == 0]
    assert usable_indices(table, ["answer", "unused"]).tolist() == both


def test_plan_says_how_many_rows_were_skipped_when_too_few_remain(open_bytes: Callable[..., Table]) -> None:
    table = open_bytes("message,answer\na,\nb,\nc,yes\n")
    with pytest.raises(DataError, match="2 of 3 rows have a missing cell") as caught:
        plan_split(table, DataConfig(prompt="{message}", prompt_stub="{answer}"))
    assert "1 usable row" in caught.value.message


def test_plan_refuses_a_template_that_does_not_compile(table: Table) -> None:
    with pytest.raises(DataError, match="No column is named 'text'"):
        plan_split(table, DataConfig(prompt="{text}", prompt_stub="{answer}"))


@given(st.lists(st.integers(0, 4), min_size=4, max_size=200), st.floats(0.1, 0.9), st.integers(0, 5))
def test_a_stratified_split_keeps_the_shares(answers: list[int], share: float, seed: int) -> None:
    from toolkit.data.examples.stratified_split import stratified_indices

    codes = np.unique(np.array(answers), return_inverse=True)[1].astype(np.int64)
    n_test = max(1, min(len(codes) - 1, round(share * len(codes))))
    train, test = stratified_indices(codes, len(codes) - n_test, n_test, seed)
    assert sorted([*train, *test]) == list(range(len(codes)))
    assert len(test) == n_test
    exact = np.bincount(codes) * n_test / len(codes)
    assert (abs(np.bincount(codes[test], minlength=len(exact)) - exact) < 1).all()
    again = stratified_indices(codes, len(codes) - n_test, n_test, seed)
    assert (again[0] == train).all()
