"""The value that an empty setting gets on a given device, and the reason.

The worker, the forecast and the form all use these functions, so that they agree. A value that the user chose is never
changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from toolkit.config import Config
from toolkit.system.printable import format_plural

Precision = Literal["fp32", "bf16", "fp16"]

AMPERE_CAPABILITY = (8, 0)
"""Minimum compute capability of GPUs with tf32 and for flash-attn's kernels."""
FUSED_ADAMW = "adamw_torch_fused"
FLASH_ATTENTION, SDPA = "flash_attention_2", "sdpa"

LIBRARY_MAX_LENGTH = 1024
"""Tokens; the default of trl's SFTConfig. Copied because importing trl takes seconds; a test compares the two."""


@dataclass(frozen=True)
class ComputeDevice:
    """The device of a run.

    capability: the GPU's compute capability. bf16_gpu: whether the GPU computes bf16. processes: training processes of
    the run. flash, liger: whether flash-attn and liger-kernel are installed. gpus: GPUs that the process sees.
    """

    cuda: bool = False
    capability: tuple[int, int] = (0, 0)
    bf16_gpu: bool = False
    processes: int = 1
    flash: bool = False
    liger: bool = False
    gpus: int = 1


def resolve_max_length(config: Config) -> int:
    """Return the max sequence length in tokens."""
    chosen = config.training.sft_args.max_seq_length
    return chosen if chosen is not None else LIBRARY_MAX_LENGTH


def resolve_precision(config: Config, place: ComputeDevice) -> Precision:
    """Return the number format of training. On a CPU the library ignores fp16 silently, hence fp32 there."""
    args = config.training.training_args
    if args.fp16:
        return "fp16" if place.cuda else "fp32"
    if args.bf16 is None:  # not the library's default, which is bf16 and fails on GPUs without it
        return "bf16" if place.cuda and place.bf16_gpu else "fp32"
    return "bf16" if args.bf16 else "fp32"


def resolve_tf32(config: Config, place: ComputeDevice) -> bool | None:
    """Return whether fp32 products are rounded to tf32; None where the device has no such switch."""
    if not place.cuda or place.capability < AMPERE_CAPABILITY:
        return None
    chosen = config.training.training_args.tf32
    return True if chosen is None else chosen


def resolve_optimizer(config: Config) -> str:
    """Return the optimizer: fused AdamW unless another one was chosen."""
    return config.training.training_args.optim or FUSED_ADAMW


def resolve_attention(config: Config, place: ComputeDevice) -> str:
    """Return transformers' name of the attention: flash-attn where it is installed and supports the device."""
    supported = (
        place.cuda
        and place.flash
        and place.capability >= AMPERE_CAPABILITY
        and resolve_precision(config, place) != "fp32"
    )
    # flash-attn joins the examples of a batch into one row, and NEFTune divides its noise by the length of a row
    return FLASH_ATTENTION if supported and not config.training.sft_args.neftune_noise_alpha else SDPA


def uses_packing(config: Config) -> bool:
    """Return whether several examples are packed into one row. Never by default: it changes the examples per step."""
    return config.training.sft_args.packing == "packed"


def computes_padding(config: Config, place: ComputeDevice) -> bool:
    """Return whether padding is computed: needed where attention cannot separate several examples in one row."""
    if config.training.sft_args.neftune_noise_alpha:  # the noise is divided by the length of a row
        return True
    return place.cuda and resolve_attention(config, place) != FLASH_ATTENTION


def uses_liger_kernels(config: Config, place: ComputeDevice) -> bool:
    """Return whether Liger kernels compute norms, feed-forward layers and rotary positions."""
    return place.cuda and place.liger and not config.model.quantize


class ExplainedDefault(NamedTuple):
    """The value of an empty setting on this device, and why. path: "" if no setting controls it."""

    path: str
    what: str
    why: str


CHECKPOINTING_PATH = "training.training_args.gradient_checkpointing"
BF16_PATH = "training.training_args.bf16"
SHARDING_PATH = "shard_model"


def uses_gradient_checkpointing(config: Config) -> bool:
    """Return whether layers are computed again in the backward pass.

    `forecast/decisions.py` fills an empty setting before Start; empty means off.
    """
    return bool(config.training.training_args.gradient_checkpointing)


def explain_defaults(
    config: Config, place: ComputeDevice, threads: int, decided: tuple[ExplainedDefault, ...] = ()
) -> tuple[ExplainedDefault, ...]:
    """Explain every value that was chosen for this device; settings that the user chose are left out.

    threads: of the training process. decided: what the forecast has decided.
    """
    args, sft = config.training.training_args, config.training.sft_args
    undecided = args.bf16 is None and not args.fp16 and BF16_PATH not in {line.path for line in decided}
    found = [
        _explain_precision(config, place) if undecided else None,
        explain_tf32(place) if args.tf32 is None and place.cuda else None,
        ExplainedDefault(_ARGS + "optim", "Fused AdamW", "faster than plain AdamW, same result up to rounding")
        if args.optim is None
        else None,
        *decided,
        _explain_packing(config, place) if sft.packing is None else None,
        _explain_attention(config, place),
        _explain_kernels(config, place),
        None if place.cuda else ExplainedDefault("", f"{format_plural(threads, 'CPU thread')}", _THREADS_REASON),
    ]
    return tuple(line for line in found if line is not None)


_ARGS = "training.training_args."
_THREADS_REASON = "all free cores; with more than three, one is reserved for the app"


def _explain_precision(config: Config, place: ComputeDevice) -> ExplainedDefault:
    path = BF16_PATH
    if resolve_precision(config, place) == "bf16":
        return ExplainedDefault(path, "bf16", "this GPU runs bf16 at full speed, with half the memory of fp32")
    if place.cuda:
        return ExplainedDefault(path, "fp32", "this GPU does not support bf16")
    return ExplainedDefault(path, "fp32", "works on any CPU; bf16 is faster for larger models on CPUs that support it")


def explain_tf32(place: ComputeDevice) -> ExplainedDefault:
    """Explain what an empty `tf32` means on this device."""
    path = _ARGS + "tf32"
    if place.capability >= AMPERE_CAPABILITY:
        return ExplainedDefault(path, "tf32 on", "fp32 matrix products run on this GPU's tensor cores")
    return ExplainedDefault(path, "tf32 off", "it needs an Ampere GPU or newer")


def _explain_packing(config: Config, place: ComputeDevice) -> ExplainedDefault:
    path = "training.sft_args.packing"
    if computes_padding(config, place):
        return ExplainedDefault(path, "Group by length", "batches need little padding")
    return ExplainedDefault(path, "Group by length", "batches have no padding")


def _explain_attention(config: Config, place: ComputeDevice) -> ExplainedDefault:
    if resolve_attention(config, place) == FLASH_ATTENTION:
        return ExplainedDefault("", "flash-attn", "it is installed and supports this GPU")
    if place.cuda:
        return ExplainedDefault(
            "", "SDPA attention", "PyTorch's kernels; flash-attn is not installed or cannot be used here"
        )
    return ExplainedDefault(
        "",
        "SDPA attention",
        "computed per example; short examples use plain matrix products, which are faster for them",
    )


def _explain_kernels(config: Config, place: ComputeDevice) -> ExplainedDefault | None:
    if uses_liger_kernels(config, place):
        return ExplainedDefault("", "Liger kernels", "the package liger-kernel is installed")
    if place.cuda:
        return None
    return ExplainedDefault("", "Fused layers, loss at trained tokens only", "faster; same result up to rounding")
