"""One pass over the training rows as the trainer's sampler makes it: batches, what is in them, how many. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from toolkit.data.examples.batches import IntegerArray, batch_by_length, count_batches, pack_best_fit
from toolkit.forecast.costs.sampled_lengths import SampledLengths

SIMULATED_ROWS = 4_000
"""Batches are formed for at most so many rows, and their time scaled up."""
ROW_WIDTH_MULTIPLE, MAX_ROUNDED_WIDTH, TOKEN_COUNT_MULTIPLE = 16, 512, 32
"""What the worker rounds an example's width in bf16 on a CPU up to, and the longest that it treats so
(worker/compute/attention.py); what it rounds a batch's tokens up to (worker/compute/even_shapes.py)."""


@dataclass(frozen=True)
class SimulatedEpoch:
    """One pass over the training rows: batches, their padded tokens, and the longest of them."""

    lengths: SampledLengths
    limit: int
    batch_size: int
    processes: int
    packed: bool = False

    @cached_property
    def parts(self) -> list[tuple[int, int, int]]:
        """(rows, longest, real tokens) of each simulated batch of one process."""
        tokens = self._tokens
        found = batch_by_length(tokens, self.batch_size, self.processes)
        each = self.processes
        return [(math.ceil(len(b) / each), int(tokens[b].max()), int(tokens[b].sum()) // each) for b in found]

    @property
    def widths(self) -> int:
        """How many different lengths the examples have, rounded up as the worker does; those that it multiplies out."""
        examples = self._examples
        return len(np.unique(np.ceil(examples[examples <= MAX_ROUNDED_WIDTH] / ROW_WIDTH_MULTIPLE)))

    @property
    def counts(self) -> int:
        """How many different numbers of tokens its batches have, rounded up likewise."""
        return len({math.ceil(real / TOKEN_COUNT_MULTIPLE) for *_, real in self.parts})

    @property
    def _examples(self) -> IntegerArray:
        return replace(self.lengths, train=min(self.lengths.train, SIMULATED_ROWS)).row_tokens(self.limit)

    @cached_property
    def _tokens(self) -> IntegerArray:
        """Of each simulated row: an example, or several that are packed."""
        tokens = self._examples
        return np.array([tokens[row].sum() for row in pack_best_fit(tokens, self.limit)]) if self.packed else tokens

    @property
    def batches(self) -> int:
        scale = self.lengths.train / max(min(self.lengths.train, SIMULATED_ROWS), 1)
        rows = round(len(self._tokens) * scale) if self.packed else self.lengths.train
        return count_batches(rows, self.batch_size, self.processes)
