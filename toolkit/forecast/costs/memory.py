"""The memory of a training run, part by part, from the model's shape and the largest real batch.

Activations are counted as the worker's layers store them; tests compare with what autograd holds. The bytes of a
process without a model and the overhead of the allocators were measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from toolkit.forecast.costs.adapter_size import AdapterSize
from toolkit.forecast.costs.model_shape import ModelShape
from toolkit.settings.device_defaults import Precision

PROCESS_BYTES = 440_000_000
"""A process with torch, transformers, trl and peft on a CPU, before it has a model; measured."""
RUNTIME_BYTES = 40_000_000
"""Added once the process trains: autograd, kernels for a shape, the optimizer's code; measured."""
ALLOCATOR_OVERHEAD, TRANSIENT_OVERHEAD, LARGE_BLOCK_OVERHEAD = 1.2, 2.0, 1.1
"""Bytes that the allocator holds for each byte that is stored until the backward pass, for each byte that is freed
soon, and for each byte of a large block. Fragmentation is worst where blocks of many sizes come and go; large blocks
are returned to the system at once, and a GPU's allocator wastes as little."""
LARGE_BLOCK_BYTES = 32 * 2**20
"""Size from which glibc always returns a freed block to the system (its M_MMAP_THRESHOLD maximum)."""
KERNEL_BYTES, KERNEL_BYTES_PER_WIDTH, KERNEL_BYTES_PER_COUNT = 40_000_000, 5_000_000, 14_000_000
"""Code that oneDNN generates for bf16 products on a CPU and keeps: once, for each distinct width of an example, and for
each distinct number of tokens of a batch (worker/compute/even_shapes.py)."""
MAX_KERNEL_BYTES = 700_000_000
"""The maximum that was measured: from there on, kernels of other shapes are used again."""
GPU_PROCESS_BYTES = 650_000_000
"""A CUDA context with its kernels and workspaces."""
LOSS_CHUNK_MAX_LOGITS, LOSS_CHUNK_ROWS, LOSS_CHUNK_CACHED_LOGITS, MAX_MATERIALIZED_LOGITS = 2**22, 256, 2**21, 2**26
"""Logits that exist at once in the fused loss (worker/compute/fused_loss.py) and without it
(worker/training/trainer.py). Copies of the worker's constants, which cannot be imported without torch."""
NORM_BYTES_PER_TOKEN = 8
"""Bytes per token that a layer's two norms store in addition to their inputs."""
MAX_STORED_ATTENTION_TOKENS = {"bf16": 512, "fp32": 256}
"""Longest row, in tokens, for which attention on a CPU stores all attention weights (worker/compute/attention.py)."""
_OPTIMIZER_STATES = {"sgd": 0.0, "adafactor": 0.25, "rmsprop": 1.0, "adagrad": 1.0, "lion": 1.0, "ademamix": 3.0}
"""Numbers that an optimizer stores per trained parameter; the Adam family stores two."""
_QUANTIZED_BYTES = {"4bit": 0.516, "4bit-plain": 0.5625, "8bit": 1.01}
"""Bytes per weight, quantization constants included: 4bit with double quantization, 4bit-plain without."""
_GPU_LOGIT_TOKENS, _GPU_LOGIT_VOCABULARY, _GPU_LOGIT_BYTES = 4096, 8192, 12.0
"""Logits that a GPU computes at once, as a tile of tokens x vocabulary, and the bytes of each with its gradient."""


@dataclass(frozen=True)
class BatchWorkload:
    """One batch of one process, and how it is computed.

    rows, tokens: of the batch, with padding if it is computed. longest: tokens of the longest row. scored: tokens with
    a loss. quantized: "" or a key of _QUANTIZED_BYTES. file_bytes: of a stored weight. widths, counts: distinct widths
    of examples and distinct numbers of tokens over all batches. whole_logits: whether the logits of all scored tokens
    exist at once. shards: the processes over which the base model's weights are split.
    """

    rows: int
    longest: int
    tokens: int
    scored: int
    precision: Precision = "fp32"
    checkpointing: bool = False
    quantized: str = ""
    dropout: bool = False
    optimizer: str = "adamw_torch"
    gpu: bool = False
    file_bytes: int = 4
    widths: int = 1
    counts: int = 1
    whole_logits: bool = False
    shards: int = 1

    @property
    def number_bytes(self) -> int:
        """Bytes of a number in the computation."""
        return 4 if self.precision == "fp32" else 2


@dataclass(frozen=True)
class MemoryUse:
    """Bytes, part by part. loading: temporary, while the weights are read."""

    process: float
    weights: float
    adapter: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    loading: float
    kernels: float = 0.0

    @property
    def resident(self) -> float:
        """Bytes that are held from the first step to the last."""
        return self.process + self.weights + self.adapter + self.gradients + self.optimizer + self.kernels

    @property
    def peak(self) -> float:
        """The maximum over loading and training."""
        return max(self.resident + self.activations + self.logits, self.process + self.weights + self.loading)

    def scaled(self, factor: float) -> MemoryUse:
        """Return the memory with every part except the process multiplied by `factor`."""
        names = ("weights", "adapter", "gradients", "optimizer", "activations", "logits", "loading", "kernels")
        return replace(self, **{name: getattr(self, name) * factor for name in names})


def forecast_memory(shape: ModelShape, adapter: AdapterSize, load: BatchWorkload) -> MemoryUse:
    """Return the memory of one process that trains `adapter` on batches like `load`."""
    weights = weight_bytes(shape, load)
    held = _held_weight_bytes(shape, load, weights)
    states = _OPTIMIZER_STATES.get(load.optimizer.removeprefix("paged_").partition("_")[0], 2.0)
    state_bytes = states * (1 if "8bit" in load.optimizer else 4)
    trained = adapter.parameters
    loading = 0.0 if load.gpu else _loading_bytes(shape, load)
    if not load.gpu or load.quantized:
        loading += weights - held  # loaded whole where it is then sharded
    return MemoryUse(
        process=GPU_PROCESS_BYTES if load.gpu else PROCESS_BYTES + RUNTIME_BYTES,
        weights=held,
        adapter=4 * trained,
        gradients=4 * trained,
        optimizer=state_bytes * trained,
        activations=_activation_bytes(shape, adapter, load) + load.number_bytes * adapter.copied,
        logits=ALLOCATOR_OVERHEAD * _logit_bytes(shape, load),
        loading=loading,
        kernels=_kernel_bytes(load),
    )


def _kernel_bytes(load: BatchWorkload) -> float:
    if load.gpu or load.precision == "fp32":
        return 0.0
    return min(
        KERNEL_BYTES + KERNEL_BYTES_PER_WIDTH * load.widths + KERNEL_BYTES_PER_COUNT * load.counts, MAX_KERNEL_BYTES
    )


def activation_and_logit_bytes(shape: ModelShape, adapter: AdapterSize, load: BatchWorkload) -> float:
    """Return the bytes that a batch stores from forward to backward pass: activations and logits."""
    return _activation_bytes(shape, adapter, load) + ALLOCATOR_OVERHEAD * _logit_bytes(shape, load)


def weight_bytes(shape: ModelShape, load: BatchWorkload) -> float:
    """Return the bytes of the base model's weights in memory."""
    if not load.quantized:
        return shape.parameters * load.number_bytes
    inside = shape.linear_parameters - shape.layers * shape.experts
    return inside * _QUANTIZED_BYTES[load.quantized] + (shape.parameters - inside) * load.number_bytes


def _held_weight_bytes(shape: ModelShape, load: BatchWorkload, weights: float) -> float:
    """Return the bytes of weights in one process: its shard, what no layer contains, and two layers while they compute.

    weights: of the whole model.
    """
    if load.shards == 1:
        return weights
    outside = (shape.parameters - shape.linear_parameters) * load.number_bytes
    gathered = outside + 2 * max(weights - outside, 0.0) / max(shape.layers, 1)
    return min(weights, weights / load.shards + gathered)


def _loading_bytes(shape: ModelShape, load: BatchWorkload) -> float:
    """Return the bytes of the mapped file: its pages count as well if the weights are converted while they are read."""
    as_stored = not load.quantized and load.number_bytes == load.file_bytes
    return 0.0 if as_stored else shape.parameters * load.file_bytes


def _activation_bytes(shape: ModelShape, adapter: AdapterSize, load: BatchWorkload) -> float:
    """Stored activations of all layers, and the temporary ones of the layer that is computed."""
    layer = _layer_activation_bytes(shape, adapter, load) * load.tokens
    widest = max(shape.feed, shape.queries, shape.hidden)
    temporary = float((4 * widest + 3 * shape.hidden) * load.number_bytes * load.tokens)
    # one layer's scores before and after the mask, and as much again for their gradients
    attention = float((4 + 2 * load.number_bytes) * shape.hidden * load.tokens)
    attention += 2 * _attention_weight_bytes(shape, load) * load.tokens
    temporary += _dequantized_bytes(shape, load)
    stored_factor, temporary_factor = _allocator_overhead(
        load.gpu or widest * load.number_bytes * load.tokens >= LARGE_BLOCK_BYTES
    )
    if load.checkpointing:
        kept = shape.layers * shape.hidden * load.number_bytes * load.tokens + layer
        return stored_factor * kept + temporary_factor * (2 * temporary + attention)
    return stored_factor * shape.layers * layer + temporary_factor * (temporary + attention)


def _allocator_overhead(large: bool) -> tuple[float, float]:
    return (LARGE_BLOCK_OVERHEAD, LARGE_BLOCK_OVERHEAD) if large else (ALLOCATOR_OVERHEAD, TRANSIENT_OVERHEAD)


def _dequantized_bytes(shape: ModelShape, load: BatchWorkload) -> float:
    """Return the bytes of dequantized weights: each product expands them. On a CPU, small blocks stay allocated."""
    if not load.quantized:
        return 0.0
    each = [linear.parameters * load.number_bytes for linear in shape.linears]
    small = 0 if load.gpu else 2 * sum(size for size in each if size < LARGE_BLOCK_BYTES)
    return float(max(small, 2 * max(each)))


def _layer_activation_bytes(shape: ModelShape, adapter: AdapterSize, load: BatchWorkload) -> float:
    """Return the bytes per token that autograd stores of one layer from forward to backward pass."""
    width = load.number_bytes
    hidden, feed = 4 * width, (2 + shape.steps_kept) * width
    if load.dropout or load.quantized:  # the feed-forward layer is not fused then
        feed = 4 * width
    pairs = _attention_weight_bytes(shape, load)
    attention = 2 * width * (shape.queries + shape.keys) + (pairs or 4 * shape.heads)
    if shape.drops:  # weights before and after dropout, and the mask
        attention += (2 * width + 1) * shape.heads * load.longest
    narrow = width * adapter.narrow
    copies = 0.0
    if load.dropout:  # each pair has its own dropout, and stores its inputs and the mask
        copies = (width + 4) * adapter.inputs
    elif load.quantized and load.precision != "fp32":  # under autocast, peft copies the input once per pair
        copies = width * adapter.inputs
    return hidden * shape.hidden + feed * shape.feed + NORM_BYTES_PER_TOKEN + attention + narrow + copies


def _attention_weight_bytes(shape: ModelShape, load: BatchWorkload) -> float:
    """Return the bytes per token of the attention weights, if they are stored."""
    pairs = not load.gpu and load.longest <= MAX_STORED_ATTENTION_TOKENS.get(load.precision, 0)
    return float(load.number_bytes * shape.heads * load.longest) if pairs else 0.0


def _logit_bytes(shape: ModelShape, load: BatchWorkload) -> float:
    """Return the bytes of a chunk of logits with their exponentials, and of the scored tokens' hidden states."""
    if load.gpu:
        return min(load.tokens, _GPU_LOGIT_TOKENS) * min(shape.vocabulary, _GPU_LOGIT_VOCABULARY) * _GPU_LOGIT_BYTES
    all_logits = load.scored * shape.vocabulary
    if load.whole_logits and all_logits <= MAX_MATERIALIZED_LOGITS:  # logits, their fp32 copy and the gradients
        return all_logits * (load.number_bytes + 12.0)
    cached = max(LOSS_CHUNK_CACHED_LOGITS, LOSS_CHUNK_ROWS * shape.vocabulary)
    at_once = min(all_logits, max(min(LOSS_CHUNK_MAX_LOGITS, cached), shape.vocabulary))
    return at_once * (8 if load.precision == "fp32" else 10) + 3 * load.scored * shape.hidden * load.number_bytes
