"""Stratified split: each distinct answer has the same share of the training rows and of the test rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow.compute as pc

from toolkit.data.table import RowNumbers, Table
from toolkit.errors import DataError

MAX_STRATIFIED_ANSWERS = 100
"""Distinct answers up to which a split can be stratified; with more of them most have too few rows to share."""


def answer_codes(table: Table, columns: Sequence[str]) -> RowNumbers:
    """Return a small number for each row of the table, equal where the cells in `columns` are equal; int64.

    Raises DataError for more than MAX_STRATIFIED_ANSWERS distinct values.
    """
    codes = np.zeros(table.rows, dtype=np.int64)
    for column in columns:
        encoded = table.column(column).combine_chunks().dictionary_encode(null_encoding="encode")
        own = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64) + 1
        codes = np.unique(codes * (int(own.max(initial=0)) + 1) + own, return_inverse=True)[1].astype(np.int64)
    count = int(codes.max(initial=-1)) + 1
    if count > MAX_STRATIFIED_ANSWERS:
        message = (
            f"There are {count:,} different completions; a stratified split allows {MAX_STRATIFIED_ANSWERS} at most."
        )
        raise DataError(message, "Turn off the stratified split.")
    return codes


def stratified_indices(codes: RowNumbers, n_train: int, n_test: int, seed: int) -> tuple[RowNumbers, RowNumbers]:
    """Return (train, test): disjoint positions in `codes`, shuffled, with each answer divided in proportion."""
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


def allocate_in_proportion(counts: RowNumbers, total: int) -> RowNumbers:
    """Divide `total` items among groups of these sizes in proportion, by the largest remainder method.

    Returns integers that add up to `total`.
    """
    exact = counts * (total / max(1, int(counts.sum())))
    allocated: RowNumbers = np.floor(exact).astype(np.int64)
    remaining = total - int(allocated.sum())
    has_room = np.flatnonzero(allocated < counts)
    by_remainder = has_room[np.argsort(-(exact - allocated)[has_room], kind="stable")]
    allocated[by_remainder[:remaining]] += 1
    return allocated
