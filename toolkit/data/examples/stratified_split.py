"""A split in which every answer has the same share of training and test rows, where there are few different answers.

Values in, positions out. Knows no template and no setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from toolkit.data.table import Table
from toolkit.errors import DataError

MAX_STRATIFIED_ANSWERS = 100

RowIndices = np.ndarray[Any, np.dtype[np.int64]]


def answer_codes(table: Table, columns: Sequence[str]) -> RowIndices:
    """A small number for each row, equal where the cells in `columns` are; int64, `rows` long.

    Raises DataError when the rows differ in more than MOST_ANSWERS ways.
    """
    codes = np.zeros(table.rows, dtype=np.int64)
    for column in columns:
        encoded = table.column(column).combine_chunks().dictionary_encode(null_encoding="encode")
        own = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64) + 1
        codes = np.unique(codes * (int(own.max(initial=0)) + 1) + own, return_inverse=True)[1].astype(np.int64)
    count = int(codes.max(initial=-1)) + 1
    if count > MAX_STRATIFIED_ANSWERS:
        message = (
            f"The completions differ in {count:,} ways; a stratified split needs at most {MAX_STRATIFIED_ANSWERS}."
        )
        raise DataError(message, "Switch the stratified split off.")
    return codes


def stratified_indices(codes: RowIndices, n_train: int, n_test: int, seed: int) -> tuple[RowIndices, RowIndices]:
    """(train, test): disjoint positions in `codes`, shuffled, each answer shared out by largest remainder."""
    random = np.random.default_rng(seed)
    counts = np.bincount(codes)
    tests = allocate_in_proportion(counts, n_test)
    trains = allocate_in_proportion(counts - tests, n_train)
    train, test = [], []
    for code, (for_test, for_train) in enumerate(zip(tests, trains, strict=True)):
        rows = random.permutation(np.flatnonzero(codes == code))
        test.append(rows[:for_test])
        train.append(rows[for_test : for_test + for_train])
    return random.permutation(np.concatenate(train)), random.permutation(np.concatenate(test))


def allocate_in_proportion(counts: RowIndices, wanted: int) -> RowIndices:
    """`wanted` items taken from groups of these sizes in proportion: whole numbers that sum up exactly."""
    exact = counts * (wanted / max(1, int(counts.sum())))
    whole: RowIndices = np.floor(exact).astype(np.int64)
    rest = wanted - int(whole.sum())
    room = np.flatnonzero(whole < counts)
    by_remainder = room[np.argsort(-(exact - whole)[room], kind="stable")]
    whole[by_remainder[:rest]] += 1
    return whole
