"""Find equal cells and rows: 128-bit hashes of cells, and group numbers made of them.

Memory grows with the number of rows (16 bytes for each and column), not with the length of their text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from toolkit.data.table import RowNumbers, Table

Hashes = np.ndarray[Any, np.dtype[np.uint64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
_BATCH = 4_096
_MISSING = b"\xff" * 16


def row_keys(table: Table, columns: Sequence[str]) -> RowNumbers:
    """Return a number for each row, equal exactly when the rows' cells in `columns` are equal; int64."""
    hashes = column_hashes(table, columns)
    return number_groups([hashes[column] for column in columns], table.rows)


def column_hashes(table: Table, columns: Sequence[str]) -> dict[str, Hashes]:
    """Return an array of shape (rows, 2) for each column: the hashes of its cells."""
    names = list(dict.fromkeys(columns))
    if not names:
        return {}
    parts: dict[str, list[Hashes]] = {name: [] for name in names}
    for batch in table.batches(names, _BATCH):
        for name, cells in zip(names, batch.columns, strict=True):
            parts[name].append(_hashes(cells))
    empty = np.zeros((0, 2), dtype=np.uint64)
    return {name: np.concatenate([empty, *found]) for name, found in parts.items()}


def number_groups(hashes: Sequence[Hashes], rows: int) -> RowNumbers:
    """Return `rows` numbers that are equal exactly where all of `hashes` are equal; zeros without hashes."""
    if not hashes or not rows:
        return np.zeros(rows, dtype=np.int64)
    order = np.lexsort([half for column in hashes for half in (column[:, 1], column[:, 0])])
    is_new = np.zeros(rows, dtype=bool)
    for column in hashes:
        ranked = column[order]
        is_new[1:] |= (ranked[1:] != ranked[:-1]).any(axis=1)
    numbers = np.empty(rows, dtype=np.int64)
    numbers[order] = np.cumsum(is_new)
    return numbers


def mark_repeats(keys: RowNumbers) -> Mask:
    """Return True at every position whose key also appears earlier."""
    repeated = np.ones(len(keys), dtype=bool)
    repeated[np.unique(keys, return_index=True)[1]] = False
    return repeated


def hash_texts(texts: Sequence[bytes | None]) -> Hashes:
    """Return the 128-bit hash of each text, shape (len(texts), 2); None has a value that differs from every hash."""
    digest = hashlib.blake2b
    joined = b"".join(_MISSING if text is None else digest(text, digest_size=16).digest() for text in texts)
    return np.frombuffer(joined, dtype=np.uint64).reshape(-1, 2)


def _hashes(cells: pa.Array) -> Hashes:
    return hash_texts(cells.cast(pa.binary()).to_pylist())
