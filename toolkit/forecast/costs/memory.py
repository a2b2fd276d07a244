"""Bytes that a training run needs, part by part, from the model's shape and the longest real batch. Pure.

What is kept for the backward is counted as the worker's own layers keep it (tests compare with what autograd really
holds); what a process needs before it has a model, and how much an allocator wastes, was measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from toolkit.forecast.costs.adapter_size import AdapterSize
from toolkit.forecast.costs.model_shape import ModelShape
from toolkit.settings.device_defaults import Precision

PROCESS_BYTES = 440_000_000
"""Python with torch, transformers, trl and peft, on a CPU; before any model."""
RUNTIME_BYTES = 40_000_000
"""What the same process adds once it trains: autograd, kernels made for a shape, the optimizer's code."""
ALLOCATOR_OVERHEAD, TRANSIENT_OVERHEAD, LARGE_BLOCK_OVERHEAD = 1.2, 2.0, 1.1
"""Memory that the allocator holds for each byte that is kept until the backward, and for each that soon goes again: it
keeps pieces that nothing fits into any more, most of them where pieces of many sizes come and go. What is large goes
back to the system at once; a GPU's allocator wastes as little."""
LARGE_BLOCK_BYTES = 32 * 2**20
"""From so many on glibc gives a piece back."""
KERNEL_BYTES, KERNEL_BYTES_PER_WIDTH, KERNEL_BYTES_PER_COUNT = 40_000_000, 5_000_000, 14_000_000
"""Code that oneDNN makes for bf16 products on a CPU and keeps: at all, for each width of an example and for each number
of tokens of a batch (worker/compute/even_shapes.py)."""
MAX_KERNEL_BYTES = 700_000_000
"""More was not met: what is made for other shapes serves then."""
GPU_PROCESS_BYTES = 650_000_000
"""A CUDA context with its kernels and workspaces."""
LOSS_CHUNK_MAX_LOGITS, LOSS_CHUNK_ROWS, LOSS_CHUNK_CACHED_LOGITS, MAX_MATERIALISED_LOGITS = 2**22, 256, 2**21, 2**26
"""Logits that exist at once (worker/compute/fused_loss.py), and where nothing but the head's own step can compute the loss
(worker/training/trainer.py)."""
NORM_BYTES_PER_TOKEN = 8
"""Bytes for each token that a layer's two norms keep beside their inputs."""
MAX_STORED_ATTENTION_TOKENS = {"bf16": 512, "fp32": 256}
"""Up to so many tokens attention on a CPU keeps a weight for every pair (worker/compute/attention.py)."""
_OPTIMIZER_STATES = {"sgd": 0.0, "adafactor": 0.25, "rmsprop": 1.0, "adagrad": 1.0, "lion": 1.0, "ademamix": 3.0}
"""Numbers that an optimizer keeps for each trained one; two for the Adam family."""
_QUANTIZED_BYTES = {"4bit": 0.516, "4bit-plain": 0.5625, "8bit": 1.01}


@dataclass(frozen=True)
class BatchWorkload:
    """What one process computes at once.

    rows, tokens: of the longest batch, padding included where it is computed. longest: tokens of its longest row.
    scored: labelled tokens in the batch. quantized: "" or a key of the bytes that a quantized weight takes.
    file_bytes: of a weight as it is stored. widths, counts: how many different widths of examples, and numbers of
    tokens, all batches have. whole_logits: whether those of all scored tokens exist at once.
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

    @property
    def width(self) -> int:
        """Bytes of a number that is computed with."""
        return 4 if self.precision == "fp32" else 2


@dataclass(frozen=True)
class MemoryUse:
    """Bytes, part by part. loading: held for a moment while the weights are read."""

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
        """Held from the first step to the last."""
        return self.process + self.weights + self.adapter + self.gradients + self.optimizer + self.kernels

    @property
    def peak(self) -> float:
        return max(self.resident + self.activations + self.logits, self.process + self.weights + self.loading)

    def scaled(self, factor: float) -> MemoryUse:
        """With everything beyond the process itself times `factor`: what this machine's runs have shown."""
        names = ("weights", "adapter", "gradients", "optimizer", "activations", "logits", "loading", "kernels")
        return replace(self, **{name: getattr(self, name) * factor for name in names})


def forecast_memory(shape: ModelShape, adapter: AdapterSize, load: BatchWorkload) -> MemoryUse:
    """The memory of one process that trains `adapter` on batches like `load`."""
    weights = weight_bytes(shape, load)
    states = _OPTIMIZER_STATES.get(load.optimizer.removeprefix("paged_").partition("_")[0], 2.0)
    each = states * (1 if "8bit" in load.optimizer else 4)
    trained = adapter.parameters
    loading = 0.0 if load.gpu else _loading_bytes(shape, load)
    return MemoryUse(
        process=GPU_PROCESS_BYTES if load.gpu else PROCESS_BYTES + RUNTIME_BYTES,
        weights=weights,
        adapter=4 * trained,
        gradients=4 * trained,
        optimizer=each * trained,
        activations=_activation_bytes(shape, adapter, load),
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
    """What one batch holds from its forward to its backward: activations and logits."""
    return _activation_bytes(shape, adapter, load) + ALLOCATOR_OVERHEAD * _logit_bytes(shape, load)


def weight_bytes(shape: ModelShape, load: BatchWorkload) -> float:
    """The base model's weights as they lie in memory."""
    if not load.quantized:
        return shape.parameters * load.width
    inside = shape.linear_parameters - shape.layers * shape.experts
    return inside * _QUANTIZED_BYTES[load.quantized] + (shape.parameters - inside) * load.width


def _loading_bytes(shape: ModelShape, load: BatchWorkload) -> float:
    """The file is mapped while it is read; where weights become others, its pages count beside those."""
    as_stored = not load.quantized and load.width == load.file_bytes
    return 0.0 if as_stored else shape.parameters * load.file_bytes


def _activation_bytes(shape: ModelShape, adapter: AdapterSize, load: BatchWorkload) -> float:
    layer = _layer_activation_bytes(shape, adapter, load) * load.tokens
    widest = max(shape.feed, shape.queries, shape.hidden)
    passing = float((4 * widest + 3 * shape.hidden) * load.width * load.tokens)
    # one layer's scores before and after the mask, and as much again for their gradients
    around = (4 + 2 * load.width) * shape.hidden * load.tokens + 2 * _attention_weight_bytes(shape, load) * load.tokens
    passing += _dequantized_bytes(shape, load)
    wasted, soon_wasted = _allocator_overhead(load.gpu or widest * load.width * load.tokens >= LARGE_BLOCK_BYTES)
    if load.checkpointing:
        kept = shape.layers * shape.hidden * load.width * load.tokens + layer
        return wasted * kept + soon_wasted * (2 * passing + around)
    return wasted * shape.layers * layer + soon_wasted * (passing + around)


def _allocator_overhead(large: bool) -> tuple[float, float]:
    return (LARGE_BLOCK_OVERHEAD, LARGE_BLOCK_OVERHEAD) if large else (ALLOCATOR_OVERHEAD, TRANSIENT_OVERHEAD)


def _dequantized_bytes(shape: ModelShape, load: BatchWorkload) -> float:
    """Quantized weights are written out in full for each product: on a CPU small ones leave their pieces behind."""
    if not load.quantized:
        return 0.0
    each = [linear.parameters * load.width for linear in shape.linears]
    small = 0 if load.gpu else 2 * sum(size for size in each if size < LARGE_BLOCK_BYTES)
    return float(max(small, 2 * max(each)))


def _layer_activation_bytes(shape: ModelShape, adapter: AdapterSize, load: BatchWorkload) -> float:
    """Bytes for each token: what autograd holds of one layer from its forward to its backward."""
    width = load.width
    hidden, feed = 4 * width, (2 + shape.steps_kept) * width
    if load.dropout or load.quantized:  # the feed-forward is not one step then
        feed = 4 * width
    pairs = _attention_weight_bytes(shape, load)
    attention = 2 * width * (shape.queries + shape.keys) + (pairs or 4 * shape.heads)
    if shape.drops:  # weights before and after, and which ones were dropped
        attention += (2 * width + 1) * shape.heads * load.longest
    narrow = width * adapter.narrow
    copies = 0.0
    if load.dropout:  # each pair drops inputs of its own, and keeps which ones
        copies = (width + 4) * adapter.inputs
    elif load.quantized and load.precision != "fp32":  # under autocast peft copies the input once a pair
        copies = width * adapter.inputs
    return hidden * shape.hidden + feed * shape.feed + NORM_BYTES_PER_TOKEN + attention + narrow + copies


def _attention_weight_bytes(shape: ModelShape, load: BatchWorkload) -> float:
    """Bytes for each token: its attention weights, where they are kept for every pair."""
    pairs = not load.gpu and load.longest <= MAX_STORED_ATTENTION_TOKENS.get(load.precision, 0)
    return float(load.width * shape.heads * load.longest) if pairs else 0.0


def _logit_bytes(shape: ModelShape, load: BatchWorkload) -> float:
    """A chunk of logits with their exponentials, and the hidden states of all scored tokens with their gradients."""
    if load.gpu:
        return min(load.tokens, 4096) * min(shape.vocabulary, 8192) * 12.0
    every = load.scored * shape.vocabulary
    if load.whole_logits and every <= MAX_MATERIALISED_LOGITS:  # those, in fp32, and their gradients
        return every * (load.width + 12.0)
    near = max(LOSS_CHUNK_CACHED_LOGITS, LOSS_CHUNK_ROWS * shape.vocabulary)
    at_once = min(every, max(min(LOSS_CHUNK_MAX_LOGITS, near), shape.vocabulary))
    return at_once * (8 if load.precision == "fp32" else 10) + 3 * load.scored * shape.hidden * load.width
