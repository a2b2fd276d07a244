"""Which rows share a batch, and which share a packed row: like lengths together, or a best fit. Pure; numpy alone."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, insort
from typing import Any

import numpy as np

MEGABATCHES = 50
"""Rows are sorted by length within so many batches at a time: enough to save padding, few enough to stay random."""

IntegerArray = np.ndarray[Any, np.dtype[np.int64]]


def count_batches(rows: int, batch_size: int, processes: int = 1) -> int:
    """Batches of `batch_size` rows for each of the processes; a rest smaller than their number joins the one before."""
    whole = batch_size * processes
    return math.ceil(rows / whole) - merges_last_batch(rows, batch_size, processes)


def merges_last_batch(rows: int, batch_size: int, processes: int) -> bool:
    """Whether the last rows are too few to give every process one."""
    whole = batch_size * processes
    return 0 < rows % whole < processes and rows > whole


def batch_by_length(
    lengths: IntegerArray, batch_size: int, processes: int = 1, seed: int = 0, epoch: int = 0
) -> list[IntegerArray]:
    """Positions in `lengths`, batch by batch, for all processes together; each comes once. Follows from seed and epoch.

    The batch that needs most memory comes first: it fails at once or never.
    """
    whole = batch_size * processes
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    span = whole * max(1, min(MEGABATCHES, len(lengths) // (4 * whole)))
    spans = (order[start : start + span] for start in range(0, len(order), span))
    grouped = np.concatenate([part[np.argsort(-lengths[part], kind="stable")] for part in spans])
    ends = list(itertools.accumulate([whole] * (count_batches(len(lengths), batch_size, processes) - 1)))
    batches = np.split(grouped, ends)
    longest = max(range(len(batches)), key=lambda i: lengths[batches[i]].max())
    others = [i for i in random.permutation(len(batches)) if i != longest]
    return [batches[i] for i in [longest, *others]]


def pack_best_fit(lengths: IntegerArray, capacity: int, seed: int = 0, epoch: int = 0) -> list[IntegerArray]:
    """Positions in `lengths`, packed row by packed row of at most `capacity` tokens; each comes once.

    The longest first, each into the row that it fills best. Which of several like lengths goes where follows from seed
    and epoch; the number of packed rows follows from the lengths alone. A longer row than fits has one to itself.
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
