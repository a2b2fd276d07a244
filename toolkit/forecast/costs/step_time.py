"""How long a step takes, from what it computes and how fast a machine does that. Pure.

Three things take time: arithmetic, moving what is kept, scored or trained, and starting thousands of small operations.
The constants follow from the grid of `benchmarks/forecast_accuracy.py`, by least squares over its runs.
The rates of a machine that nothing is known of are those of one modern core; `history.py` corrects them by its runs.
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
"""Of one batch, and of one of its layers: calls from Python, whatever their size."""
PASSES_PER_KEPT_BYTE = 3.5
"""Passes over memory for each byte that is kept."""
MOVED_BYTES_PER_LOGIT, MOVED_BYTES_PER_PARAMETER = 64.0, 64.0
"""Moved for each logit that is scored (exponentials count as much as their passes) and for each number trained."""
KERNEL_BUILD_SECONDS = 0.012
"""Of making code for bf16 batches on a CPU with one more number of tokens."""


@dataclass(frozen=True)
class DeviceRates:
    """Arithmetic and memory speed of a device. flops: by precision, useful ones each second; bytes: each second."""

    flops: dict[str, float]
    bytes: float
    threads: int = 1
    eager: float = 1.0


def cpu_rates(threads: int) -> DeviceRates:
    """A core of a server of these years: fp32 and, where it has the instructions, bf16."""
    share = threads**0.9
    return DeviceRates({"fp32": 83e9 * share, "bf16": 150e9 * share, "fp16": 83e9 * share}, 8e9 * share, threads)


def gpu_rates(name: str) -> DeviceRates:
    """By the card's name: what training reaches of its peak, about a half."""
    for mark, peak, bandwidth in _GPU_SPECS:
        if mark in name.upper():
            return DeviceRates({"fp32": peak / 8, "bf16": peak / 2, "fp16": peak / 2}, bandwidth * 0.6, eager=0.25)
    return DeviceRates({"fp32": 10e12, "bf16": 25e12, "fp16": 25e12}, 3e11, eager=0.25)


_GPU_SPECS = (
    ("B200", 2250e12, 8e12), ("H200", 989e12, 4.8e12), ("H100", 989e12, 3.35e12), ("A100", 312e12, 2e12),
    ("L40", 181e12, 8.6e11), ("A6000", 155e12, 7.7e11), ("5090", 210e12, 1.8e12), ("4090", 165e12, 1e12),
    ("3090", 71e12, 9.3e11), ("L4", 121e12, 3e11), ("A10", 125e12, 6e11), ("V100", 112e12, 9e11), ("T4", 65e12, 3.2e11),
)  # fmt: skip
"""Dense 16-bit operations and bytes each second, from the makers' data sheets."""


def batch_flops(shape: ModelShape, adapter: AdapterSize, load: BatchWorkload) -> float:
    """Floating-point operations of one forward and backward: frozen weights 4 a token, trained ones 6."""
    linear = shape.active_parameters * (6 if load.checkpointing else 4) + 6 * adapter.lora
    attention = 14 * shape.layers * shape.queries * load.longest / (2 if load.gpu else 1)
    return load.tokens * (linear + attention) + load.scored * 4 * shape.embedding


def batch_seconds(
    shape: ModelShape, adapter: AdapterSize, load: BatchWorkload, rates: DeviceRates, kept_bytes: float
) -> float:
    """Seconds of one batch, forward and backward. kept_bytes: its activations and logits."""
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
