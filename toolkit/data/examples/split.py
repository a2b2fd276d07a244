"""Split the rows of a table into training and test rows, the same for app, worker and evaluation.

`plan_split` alone decides. Rows with a missing cell in a used column are skipped first, then the other rows are split.
Sizes and shuffling are those of `datasets.Dataset.train_test_split`, except that a product such as 0.1 x 30 counts as
3 and not as 3.0000000000000004. A dataset with fixes has the split of its original.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow.compute as pc

from toolkit.config import Config, DataConfig
from toolkit.data.examples.renderers import renderer_of
from toolkit.data.examples.stratified_split import answer_codes, original_answer_codes, stratified_indices
from toolkit.data.examples.templates import Renderer
from toolkit.data.table import RowNumbers, RowOrigin, Table, rows_in_words
from toolkit.errors import DataError, Problem

DEFAULT_TEST_SIZE = 0.25
"""Share of test rows when neither size is given. Source: scikit-learn and datasets use the same."""

SplitSize = int | float | None
"""A count of rows, a fraction of them, or all remaining rows."""


@dataclass(frozen=True)
class SplitPlan:
    """0-based row numbers of the table, int64: `train` and `test` shuffled, `dropped` (skipped rows) ascending.

    Usable rows in none of the three are unused, because the sizes ask for fewer rows.
    """

    train: RowNumbers
    test: RowNumbers
    dropped: RowNumbers


def plan_split(table: Table, data: DataConfig) -> SplitPlan:
    """Assign every row. Raises DataError for templates that don't compile and for sizes that don't fit."""
    renderer = renderer_of(data, table.columns)
    usable = usable_indices(table, renderer.columns_required)
    unusable = np.ones(table.rows, dtype=bool)
    unusable[usable] = False
    dropped = np.flatnonzero(unusable)
    try:
        train, test = _split_positions(table, data, usable, renderer)
    except DataError as error:
        if not dropped.size:
            raise
        raise DataError(f"{_describe_skipped(len(dropped), table.rows)} {error.message}", error.hint) from error
    return SplitPlan(usable[train], usable[test], dropped)


def _split_positions(
    table: Table, data: DataConfig, usable: RowNumbers, renderer: Renderer
) -> tuple[RowNumbers, RowNumbers]:
    """Return the positions in `usable` of the training and of the test rows, shuffled."""
    seed = data.train_test_split_seed
    if table.held_out:
        return _split_at_test_file(usable, table.rows - table.held_out, seed)
    n_train, n_test = split_sizes(len(usable), data.train_size, data.test_size)
    codes = answer_codes(table, renderer.stub_template.columns)[usable] if data.stratify else None
    if table.origin is not None:
        kept = _split_as_original(table.origin, data, usable, renderer, (n_train, n_test))
        if all(map(len, kept)):
            return kept
    if codes is not None:
        return stratified_indices(codes, n_train, n_test, seed)
    return split_indices(len(usable), n_train, n_test, seed)


def _split_as_original(
    origin: RowOrigin, data: DataConfig, usable: RowNumbers, renderer: Renderer, sizes: tuple[int, int]
) -> tuple[RowNumbers, RowNumbers]:
    """Return the split of the original without the rows that fixes removed: no row changes its side.

    Where the settings ask for more rows than a side still has, unused rows are added. sizes: without regard to the
    original. A side may be empty; both are if the original's split is not known.
    """
    was_usable = np.zeros(origin.rows, dtype=bool)
    was_usable[origin.kept_rows[usable]] = True
    was_usable[origin.usable_removed_rows(renderer.columns_required)] = True
    before = np.flatnonzero(was_usable)
    seed, sizes_before = data.train_test_split_seed, split_sizes(len(before), data.train_size, data.test_size)
    if data.stratify:
        codes = original_answer_codes(origin, renderer.stub_template.columns)
        if codes is None:
            return usable[:0], usable[:0]
        sides = stratified_indices(codes[before], *sizes_before, seed)
    else:
        sides = split_indices(len(before), *sizes_before, seed)
    positions = np.full(origin.rows, -1, dtype=np.int64)
    positions[origin.kept_rows[usable]] = np.arange(len(usable))
    train, test = (found[found >= 0] for found in (positions[before[side]] for side in sides))
    unused = np.setdiff1d(np.arange(len(usable)), np.concatenate([train, test]))
    for_train, for_test = max(0, sizes[0] - len(train)), max(0, sizes[1] - len(test))
    more = np.split(np.random.default_rng(seed).permutation(unused), [for_train, for_train + for_test])
    return np.concatenate([train, more[0]]), np.concatenate([test, more[1]])


def _split_at_test_file(usable: RowNumbers, first_test_row: int, seed: int) -> tuple[RowNumbers, RowNumbers]:
    boundary = int(np.searchsorted(usable, first_test_row))
    if boundary == 0 or boundary == len(usable):
        which = "data" if boundary == 0 else "test file"
        message = f"No row of the {which} has a value in every column that the prompt and completion use."
        raise DataError(message, "The test file needs the same columns as the data.")
    random = np.random.default_rng(seed)
    return random.permutation(boundary), boundary + random.permutation(len(usable) - boundary)


def usable_indices(table: Table, columns: Sequence[str]) -> RowNumbers:
    """Return the rows, ascending, in which none of `columns` is missing.

    Reads only columns with missing cells, in batches.
    """
    gaps = [column for column in dict.fromkeys(columns) if table.missing.get(column, 0)]
    if not gaps:
        return np.arange(table.rows, dtype=np.int64)
    present = [
        np.logical_and.reduce([pc.is_valid(column).to_numpy(zero_copy_only=False) for column in batch.columns])
        for batch in table.batches(gaps, size=65_536)
    ]
    return np.flatnonzero(np.concatenate(present)) if present else np.arange(0, dtype=np.int64)


def usable_count(table: Table, columns: Sequence[str]) -> int:
    """Return the length of `usable_indices`: computed from the footer if at most one column has missing cells."""
    gaps = tuple(column for column in dict.fromkeys(columns) if table.missing.get(column, 0))
    if len(gaps) > 1:
        return _count_usable_rows(table, gaps)
    return table.rows - sum(table.missing[column] for column in gaps)


@lru_cache(maxsize=64)
def _count_usable_rows(table: Table, gaps: tuple[str, ...]) -> int:
    return len(usable_indices(table, gaps))


def split_sizes(rows: int, train_size: SplitSize, test_size: SplitSize) -> tuple[int, int]:
    """Return (training rows, test rows) of `rows` usable rows.

    A float is a fraction of the rows; training rows are rounded down, test rows up. An int is a count. None means all
    remaining rows; if both are None, a quarter is used for testing. Raises DataError unless both are at least 1 and
    fit.
    """
    if rows < 2:
        count = "no usable row" if rows == 0 else "1 usable row"
        raise DataError(
            f"The data has {count}; at least 2 are needed, one for training and one for testing.", "Add rows."
        )
    for name, size in (("train_size", train_size), ("test_size", test_size)):
        _check_size(name, size)
    if train_size is None and test_size is None:
        test_size = DEFAULT_TEST_SIZE
    n_train = _count(rows, train_size, math.floor)
    n_test = _count(rows, test_size, math.ceil)
    n_train = rows - (n_test or 0) if n_train is None else n_train
    n_test = rows - n_train if n_test is None else n_test
    _check_fit(rows, n_train, n_test)
    return n_train, n_test


def count_parts(table: Table, usable: RowNumbers, train_size: SplitSize, test_size: SplitSize) -> tuple[int, int]:
    """Return (training rows, test rows) as `plan_split` assigns them, if no fix removed any. Raises DataError."""
    if table.held_out:
        train = int(np.searchsorted(usable, table.rows - table.held_out))
        return train, len(usable) - train
    return split_sizes(len(usable), train_size, test_size)


def split_indices(rows: int, n_train: int, n_test: int, seed: int) -> tuple[RowNumbers, RowNumbers]:
    """Return (train, test): disjoint positions below `rows`, shuffled; the same for the same arguments."""
    order = np.random.default_rng(seed).permutation(rows)
    return order[n_test : n_test + n_train], order[:n_test]


def size_problems(config: Config, rows: int) -> list[Problem]:
    """Return why `rows` usable rows can't be split as the config says, under its fields.

    Empty if they can, and if the test rows come from a test file.
    """
    if config.data.test_path is not None:
        return []
    try:
        split_sizes(rows, config.data.train_size, config.data.test_size)
    except DataError as error:
        fields = [leaf for leaf in ("train_size", "test_size") if getattr(config.data, leaf) is not None]
        return [Problem(f"data.{leaf}", error.message, error.hint) for leaf in fields or ["test_size"]]
    return []


def _check_size(name: str, size: SplitSize) -> None:
    if size is None:
        return
    fraction = isinstance(size, float)
    if isinstance(size, bool) or not (0 < size < 1 if fraction else size >= 1):
        hint = "Enter a fraction between 0 and 1, or a whole number of rows."
        raise DataError(f"{name} is {size}.", hint)


def _count(rows: int, size: SplitSize, to_int: Any) -> int | None:
    if not isinstance(size, float):
        return size
    exact = size * rows
    nearest = round(exact)
    return nearest if abs(exact - nearest) <= 1e-9 * max(1.0, exact) else int(to_int(exact))


def _check_fit(rows: int, n_train: int, n_test: int) -> None:
    if n_train + n_test > rows and n_train < rows and n_test < rows:
        total = f"{n_train:,} training rows and {n_test:,} test rows add up to {n_train + n_test:,}"
        message = f"{total}, but the dataset has only {rows:,} usable rows."
        raise DataError(message, f"Reduce one of them by {n_train + n_test - rows:,}.")
    if n_train >= rows or n_test < 1:
        message = f"{n_train:,} of {rows_in_words(rows)} would be used for training and none for testing."
        raise DataError(message, f"Use at most {rows_in_words(rows - 1)} for training.")
    if n_test >= rows or n_train < 1:
        message = f"{n_test:,} of {rows_in_words(rows)} would be used for testing and {max(n_train, 0):,} for training."
        smallest = _smallest_fraction(rows)
        hint = f"Keep at least 1 training row: set the training split to {smallest} or more, and use fewer test rows."
        raise DataError(message, hint)


def _smallest_fraction(rows: int) -> str:
    """Return the smallest fraction, with two or more digits, that gives one row."""
    digits = max(2, len(str(rows)))
    return f"{math.ceil(10**digits / rows) / 10**digits:.{digits}f}"


def _describe_skipped(count: int, rows: int) -> str:
    have, are = ("has", "is") if count == 1 else ("have", "are")
    where = "in a column that the prompt or completion uses"
    return f"{count:,} of {rows_in_words(rows)} {have} a missing cell {where} and {are} skipped."
