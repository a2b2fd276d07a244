"""Group rows into batches of similar length, or pack them into rows of a fixed capacity (best fit)."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, insort
from typing import Any

import numpy as np

MEGABATCHES = 50
"""Batches within which rows are sorted by length: enough to save padding, few enough to keep the order random."""

IntegerArray = np.ndarray[Any, np.dtype[np.int64]]
"""Token lengths of rows, or positions in an array of lengths."""


def count_batches(rows: int, batch_size: int, processes: int = 1) -> int:
    """Return the number of batches of `batch_size` rows per process; a last one that is too small is merged."""
    rows_per_step = batch_size * processes
    return math.ceil(rows / rows_per_step) - merges_last_batch(rows, batch_size, processes)


def merges_last_batch(rows: int, batch_size: int, processes: int) -> bool:
    """Return whether the last rows are too few to give every process one."""
    rows_per_step = batch_size * processes
    return 0 < rows % rows_per_step < processes and rows > rows_per_step


def batch_by_length(
    lengths: IntegerArray, batch_size: int, processes: int = 1, seed: int = 0, epoch: int = 0
) -> list[IntegerArray]:
    """Return positions in `lengths`, batch by batch for all processes together, each position once.

    The result is determined by seed and epoch. The batch that needs most memory comes first, so that it fails at the
    start or never.
    """
    rows_per_step = batch_size * processes
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    # at least 4 spans, so that a small table is not sorted as a whole
    span = rows_per_step * max(1, min(MEGABATCHES, len(lengths) // (4 * rows_per_step)))
    spans = (order[start : start + span] for start in range(0, len(order), span))
    grouped = np.concatenate([part[np.argsort(-lengths[part], kind="stable")] for part in spans])
    ends = list(itertools.accumulate([rows_per_step] * (count_batches(len(lengths), batch_size, processes) - 1)))
    batches = np.split(grouped, ends)
    longest = max(range(len(batches)), key=lambda i: lengths[batches[i]].max())
    others = [i for i in random.permutation(len(batches)) if i != longest]
    return [batches[i] for i in [longest, *others]]


def pack_best_fit(lengths: IntegerArray, capacity: int, seed: int = 0, epoch: int = 0) -> list[IntegerArray]:
    """Return positions in `lengths`, one array for each packed row of at most `capacity` tokens, each position once.

    Best-fit decreasing: the longest first, each into the row with the least room that still fits it. Seed and epoch
    determine which of equally long rows goes where; the number of packed rows depends on the lengths alone. A row that
    is longer than `capacity` gets a packed row of its own.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(lengths))
    order = order[np.argsort(-lengths[order], kind="stable")]
    packed: list[list[int]] = []
    by_room: dict[int, list[int]] = {}
    rooms: list[int] = []  # the keys of by_room, ascending
    for row, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        at = bisect_left(rooms, length)
        if at == len(rooms):
            where, left = len(packed), capacity - length
            packed.append([])
        else:
            room = rooms[at]
            where, left = by_room[room].pop(), room - length
            if not by_room[room]:
                del by_room[room], rooms[at]
        packed[where].append(row)
        if left > 0:
            if left not in by_room:
                by_room[left] = []
                insort(rooms, left)
            by_room[left].append(where)
    return [np.asarray(rows, dtype=np.int64) for rows in packed]
