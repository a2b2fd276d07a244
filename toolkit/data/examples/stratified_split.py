"""Stratified split: each distinct answer has the same share of the training rows and of the test rows."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from toolkit.data.table import RowNumbers, RowOrigin, Table
from toolkit.errors import DataError

MAX_STRATIFIED_ANSWERS = 100
"""Distinct answers up to which a split can be stratified; with more of them most have too few rows to share."""
MAX_RECORDED_ROWS = 200_000
"""Rows up to which a dataset with fixes records the labels of its original, a third more bytes than rows per column."""


def answer_codes(table: Table, columns: Sequence[str]) -> RowNumbers:
    """Return a small number for each row of the table, equal where the cells in `columns` are equal; int64.

    Raises DataError for more than MAX_STRATIFIED_ANSWERS distinct values.
    """
    codes = _combine_codes(table.rows, (_encode(table.column(column).combine_chunks()) for column in columns))
    count = int(codes.max(initial=-1)) + 1
    if count > MAX_STRATIFIED_ANSWERS:
        message = (
            f"There are {count:,} different completions; a stratified split allows {MAX_STRATIFIED_ANSWERS} at most."
        )
        raise DataError(message, "Turn off the stratified split.")
    return codes


def original_answer_codes(origin: RowOrigin, columns: Sequence[str]) -> RowNumbers | None:
    """Return what `answer_codes` gave for the original of a dataset with fixes; None if that is not recorded."""
    if not set(columns) <= set(origin.labels):
        return None
    return _combine_codes(origin.rows, map(origin.label_numbers, columns))


def record_labels(table: Table) -> dict[str, str]:
    """Return `RowOrigin.labels` of a table; nothing for a large one, in which a number per row takes much room."""
    if table.rows > MAX_RECORDED_ROWS:
        return {}
    found = {}
    for column in table.columns:
        numbers = _number_labels(table, column)
        if numbers is not None:
            found[column] = base64.b64encode(numbers.astype(np.uint8).tobytes()).decode()
    return found


def _number_labels(table: Table, column: str) -> RowNumbers | None:
    """Return a number for each row in the order of first appearance; None for too many different cells."""
    known: dict[str | None, int] = {}
    parts = [np.zeros(0, dtype=np.int64)]
    for batch in table.batches([column]):
        encoded = batch.column(0).dictionary_encode(null_encoding="encode")
        if len(encoded.dictionary) > MAX_STRATIFIED_ANSWERS:
            return None
        numbers = [known.setdefault(cell, len(known)) for cell in encoded.dictionary.to_pylist()]
        if len(known) > MAX_STRATIFIED_ANSWERS:
            return None
        parts.append(np.array(numbers, dtype=np.int64)[encoded.indices.to_numpy(zero_copy_only=False)])
    return np.concatenate(parts)


def _encode(cells: pa.Array) -> RowNumbers:
    encoded = cells.dictionary_encode(null_encoding="encode")
    numbers: RowNumbers = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64) + 1
    return numbers


def _combine_codes(rows: int, columns: Iterable[RowNumbers]) -> RowNumbers:
    """Return a small number for each row, equal where the numbers of all columns are."""
    codes = np.zeros(rows, dtype=np.int64)
    for own in columns:
        codes = np.unique(codes * (int(own.max(initial=0)) + 1) + own, return_inverse=True)[1].astype(np.int64)
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
