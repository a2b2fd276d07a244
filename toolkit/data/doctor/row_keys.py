"""Which cells and rows are the same: 128-bit hashes by column, in batches, and group numbers from them.

Memory grows with the number of rows (16 bytes each and column), not with their text. Knows no template.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from toolkit.data.findings import RowNumbers
from toolkit.data.table import Table

Hashes = np.ndarray[Any, np.dtype[np.uint64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
_BATCH = 4_096
_MISSING = b"\xff" * 16


def row_keys(table: Table, columns: Sequence[str]) -> RowNumbers:
    """A number for each row, equal exactly when the rows' cells in `columns` are equal; int64, `rows` long."""
    hashes = column_hashes(table, columns)
    return number_groups([hashes[column] for column in columns], table.rows)


def column_hashes(table: Table, columns: Sequence[str]) -> dict[str, Hashes]:
    """(rows, 2) of each column: equal where the cells are."""
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
    """Numbers that are equal exactly where all of `hashes` are; all zero without any."""
    if not hashes or not rows:
        return np.zeros(rows, dtype=np.int64)
    order = np.lexsort([half for one in hashes for half in (one[:, 1], one[:, 0])])
    new = np.zeros(rows, dtype=bool)
    for one in hashes:
        ranked = one[order]
        new[1:] |= (ranked[1:] != ranked[:-1]).any(axis=1)
    numbers = np.empty(rows, dtype=np.int64)
    numbers[order] = np.cumsum(new)
    return numbers


def mark_repeats(keys: RowNumbers) -> Mask:
    """True where a key stood earlier."""
    again = np.ones(len(keys), dtype=bool)
    again[np.unique(keys, return_index=True)[1]] = False
    return again


def hash_texts(texts: Sequence[bytes | None]) -> Hashes:
    """(len(texts), 2): the 128-bit hash of each text, None apart from every text."""
    digest = hashlib.blake2b
    joined = b"".join(_MISSING if text is None else digest(text, digest_size=16).digest() for text in texts)
    return np.frombuffer(joined, dtype=np.uint64).reshape(-1, 2)


def _hashes(cells: pa.Array) -> Hashes:
    return hash_texts(cells.cast(pa.binary()).to_pylist())
