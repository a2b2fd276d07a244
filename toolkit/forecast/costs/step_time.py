"""The time of a training step, from its arithmetic, its memory traffic and its number of small operations.

The constants were fitted to the runs of `benchmarks/forecast_accuracy.py` by least squares. An unknown CPU is assumed
to be a modern server core; `history.py` corrects the result with this machine's runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from toolkit.data.examples.batches import IntegerArray, batch_by_length, count_batches, pack_best_fit
from toolkit.forecast.costs.adapter_size import AdapterSize
from toolkit.forecast.costs.memory import BatchWorkload
from toolkit.forecast.costs.model_shape import ModelShape
from toolkit.forecast.costs.sampled_lengths import SampledLengths

BATCH_OVERHEAD_SECONDS, LAYER_OVERHEAD_SECONDS = 0.004, 0.0035
"""Overhead of Python calls for one batch, and for each of its layers, whatever their size."""
PASSES_PER_KEPT_BYTE = 3.5
"""Times that each stored byte is moved."""
MOVED_BYTES_PER_LOGIT, MOVED_BYTES_PER_PARAMETER = 64.0, 64.0
"""Bytes moved for each logit of a scored token (its exponential included) and for each trained parameter."""
KERNEL_BUILD_SECONDS = 0.012
"""Of generating code for one more distinct number of tokens in bf16 batches on a CPU."""


@dataclass(frozen=True)
class DeviceRates:
    """Speed of a device. flops: useful FLOPs per second by precision. bytes: memory traffic per second.

    eager: factor on the overhead of Python calls.
    """

    flops: dict[str, float]
    bytes: float
    threads: int = 1
    eager: float = 1.0


def cpu_rates(threads: int) -> DeviceRates:
    """Return the rates of server cores of 2025; bf16 on CPUs that support it. Threads scale with an exponent of 0.9."""
    share = threads**0.9
    return DeviceRates({"fp32": 83e9 * share, "bf16": 150e9 * share, "fp16": 83e9 * share}, 8e9 * share, threads)


def gpu_rates(name: str) -> DeviceRates:
    """Return the rates of a GPU by its name: about half of its peak, which training reaches."""
    for mark, peak, bandwidth in _GPU_SPECS:
        if mark in name.upper():
            return DeviceRates({"fp32": peak / 8, "bf16": peak / 2, "fp16": peak / 2}, bandwidth * 0.6, eager=0.25)
    return DeviceRates({"fp32": 10e12, "bf16": 25e12, "fp16": 25e12}, 3e11, eager=0.25)


_GPU_SPECS = (
    ("B200", 2250e12, 8e12), ("H200", 989e12, 4.8e12), ("H100", 989e12, 3.35e12), ("A100", 312e12, 2e12),
    ("L40", 181e12, 8.6e11), ("A6000", 155e12, 7.7e11), ("5090", 210e12, 1.8e12), ("4090", 165e12, 1e12),
    ("3090", 71e12, 9.3e11), ("L4", 121e12, 3e11), ("A10", 125e12, 6e11), ("V100", 112e12, 9e11), ("T4", 65e12, 3.2e11),
)  # fmt: skip
"""(part of the name, dense 16-bit FLOPs per second, bytes per second), from the makers' data sheets."""


def batch_flops(shape: ModelShape, adapter: AdapterSize, load: BatchWorkload) -> float:
    """Return the FLOPs of a forward and backward pass: per token 4 for each frozen weight, 6 for each trained one."""
    linear = shape.active_parameters * (6 if load.checkpointing else 4) + 6 * adapter.lora
    attention = 14 * shape.layers * shape.queries * load.longest / (2 if load.gpu else 1)
    return load.tokens * (linear + attention) + load.scored * 4 * shape.embedding


def batch_seconds(
    shape: ModelShape, adapter: AdapterSize, load: BatchWorkload, rates: DeviceRates, kept_bytes: float
) -> float:
    """Return the seconds of one batch, forward and backward. kept_bytes: of its activations and logits."""
    arithmetic = batch_flops(shape, adapter, load) / rates.flops[load.precision]
    slower = 1.3 if load.quantized else 1.0
    overhead = (
        (BATCH_OVERHEAD_SECONDS + LAYER_OVERHEAD_SECONDS * shape.layers)
        * (1.4 if load.checkpointing else 1.0)
        * rates.eager
    )
    moved = PASSES_PER_KEPT_BYTE * kept_bytes + MOVED_BYTES_PER_PARAMETER * adapter.parameters
    if not load.gpu:
        moved += MOVED_BYTES_PER_LOGIT * load.scored * shape.vocabulary
    return arithmetic * slower + moved / rates.bytes + overhead


SIMULATED_ROWS = 4_000
"""Maximum number of rows that are batched; the time of more rows is extrapolated."""


ROW_WIDTH_MULTIPLE, MAX_ROUNDED_WIDTH, TOKEN_COUNT_MULTIPLE = 16, 512, 32
"""In bf16 on a CPU the worker rounds the width of examples up to this maximum (worker/compute/attention.py), and the
tokens of a batch (worker/compute/even_shapes.py). Copies, because the worker cannot be imported without torch."""


@dataclass(frozen=True)
class SimulatedEpoch:
    """The batches of one epoch. limit: max sequence length. packed: whether several examples share a row."""

    lengths: SampledLengths
    limit: int
    batch_size: int
    processes: int
    packed: bool = False

    @cached_property
    def batch_sizes(self) -> list[tuple[int, int, int]]:
        """(rows, tokens of the longest row, tokens without padding) of each simulated batch of one process."""
        tokens = self._row_tokens
        batches = [tokens[rows] for rows in batch_by_length(tokens, self.batch_size, self.processes)]
        share = self.processes
        return [(math.ceil(len(batch) / share), int(batch.max()), int(batch.sum()) // share) for batch in batches]

    @property
    def distinct_widths(self) -> int:
        """Number of distinct example lengths up to MAX_ROUNDED_WIDTH, rounded up as the worker does."""
        examples = self._example_tokens
        return len(np.unique(np.ceil(examples[examples <= MAX_ROUNDED_WIDTH] / ROW_WIDTH_MULTIPLE)))

    @property
    def distinct_token_counts(self) -> int:
        """Number of distinct token counts of the batches, rounded up as the worker does."""
        return len({math.ceil(real / TOKEN_COUNT_MULTIPLE) for *_, real in self.batch_sizes})

    @property
    def _example_tokens(self) -> IntegerArray:
        return replace(self.lengths, train=min(self.lengths.train, SIMULATED_ROWS)).row_tokens(self.limit)

    @cached_property
    def _row_tokens(self) -> IntegerArray:
        """Tokens of each simulated row: one example, or several packed ones."""
        tokens = self._example_tokens
        return np.array([tokens[row].sum() for row in pack_best_fit(tokens, self.limit)]) if self.packed else tokens

    @property
    def batches(self) -> int:
        """Number of batches of the whole epoch in one process."""
        scale = self.lengths.train / max(min(self.lengths.train, SIMULATED_ROWS), 1)
        rows = round(len(self._row_tokens) * scale) if self.packed else self.lengths.train
        return count_batches(rows, self.batch_size, self.processes)
