"""What an empty setting becomes on the device at hand, and why. Pure; no library is asked.

The worker trains by these answers, the forecast counts by them and the form tells them: one place decides. A value that
the user chose always wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from toolkit.config import Config

Precision = Literal["fp32", "bf16", "fp16"]

AMPERE_CAPABILITY = (8, 0)
"""The compute capability from which GPUs have tf32 and flash-attn's kernels."""
FUSED_ADAMW = "adamw_torch_fused"
FLASH_ATTENTION, SDPA = "flash_attention_2", "sdpa"

LIBRARY_MAX_LENGTH = 1024
"""SFTConfig's own default, which a test compares: importing trl would cost seconds."""


@dataclass(frozen=True)
class ComputeDevice:
    """Where a run computes: whether on a GPU, what that GPU can do, and how many processes share the run.

    flash, liger: whether the packages flash-attn and liger-kernel are installed. gpus: how many the process sees.
    """

    cuda: bool = False
    capability: tuple[int, int] = (0, 0)
    bf16_gpu: bool = False
    processes: int = 1
    flash: bool = False
    liger: bool = False
    gpus: int = 1


def resolve_max_length(config: Config) -> int:
    """Tokens kept of an example; an empty setting means the library's default."""
    chosen = config.training.sft_args.max_seq_length
    return chosen if chosen is not None else LIBRARY_MAX_LENGTH


def resolve_precision(config: Config, place: ComputeDevice) -> Precision:
    """ "bf16", "fp16" or "fp32". On a CPU fp16 would be a silent no-op of the library, hence fp32 there."""
    args = config.training.training_args
    if args.fp16:
        return "fp16" if place.cuda else "fp32"
    if args.bf16 is None:  # the library's default is bf16, which fails where the GPU lacks it
        return "bf16" if place.cuda and place.bf16_gpu else "fp32"
    return "bf16" if args.bf16 else "fp32"


def resolve_tf32(config: Config, place: ComputeDevice) -> bool | None:
    """Whether fp32 products are rounded to tf32; None where the GPU takes the switch in neither position."""
    if not place.cuda or place.capability < AMPERE_CAPABILITY:
        return None
    chosen = config.training.training_args.tf32
    return True if chosen is None else chosen


def resolve_optimizer(config: Config) -> str:
    """AdamW in one kernel, unless another one was chosen."""
    return config.training.training_args.optim or FUSED_ADAMW


def resolve_attention(config: Config, place: ComputeDevice) -> str:
    """transformers' name of the attention: flash-attn's kernels where they are installed and can compute."""
    able = (
        place.cuda
        and place.flash
        and place.capability >= AMPERE_CAPABILITY
        and resolve_precision(config, place) != "fp32"
    )
    # its examples stand in one row, and NEFTune's noise shrinks with the length of a row
    return FLASH_ATTENTION if able and not config.training.sft_args.neftune_noise_alpha else SDPA


def uses_packing(config: Config) -> bool:
    """Whether a row of a batch holds several examples. Only if asked: a step would learn from more of them."""
    return config.training.sft_args.packing == "packed"


def computes_padding(config: Config, place: ComputeDevice) -> bool:
    """Whether a batch's padding is computed: where attention knows no borders inside a row of several examples."""
    if config.training.sft_args.neftune_noise_alpha:  # its noise is divided by a row's length
        return True
    return place.cuda and resolve_attention(config, place) != FLASH_ATTENTION


def uses_liger_kernels(config: Config, place: ComputeDevice) -> bool:
    """Whether Liger's kernels compute norms, feed-forwards and rotary positions."""
    return place.cuda and place.liger and not config.model.quantize


class ExplainedDefault(NamedTuple):
    """What a setting is on this device, and why. path: of the setting, "" where there is none to change it."""

    path: str
    what: str
    why: str


CHECKPOINTING_PATH = "training.training_args.gradient_checkpointing"
BF16_PATH = "training.training_args.bf16"


def uses_gradient_checkpointing(config: Config) -> bool:
    """Whether layers are computed again on the way back. Empty is decided before Start, by `forecast/decisions.py`; what
    nobody has decided is off."""
    return bool(config.training.training_args.gradient_checkpointing)


def explain_defaults(
    config: Config, place: ComputeDevice, threads: int, settled: tuple[ExplainedDefault, ...] = ()
) -> tuple[ExplainedDefault, ...]:
    """Everything that was chosen for this device, in sentences; what the user chose is not in it.

    settled: what a forecast has decided.
    """
    args, sft = config.training.training_args, config.training.sft_args
    open_still = args.bf16 is None and not args.fp16 and BF16_PATH not in {line.path for line in settled}
    found = [
        _explain_precision(config, place) if open_still else None,
        _explain_tf32(place) if args.tf32 is None and place.cuda else None,
        ExplainedDefault(_ARGS + "optim", "AdamW in one kernel", "the same numbers to rounding")
        if args.optim is None
        else None,
        *settled,
        _explain_packing(config, place) if sft.packing is None else None,
        _explain_attention(config, place),
        _explain_kernels(config, place),
        None if place.cuda else ExplainedDefault("", f"{threads} thread{'s' if threads > 1 else ''}", _THREADS_REASON),
    ]
    return tuple(one for one in found if one is not None)


_ARGS = "training.training_args."
_THREADS_REASON = "the free cores, one left for the app where there are more than three; they wait without spinning"


def _explain_precision(config: Config, place: ComputeDevice) -> ExplainedDefault:
    path = BF16_PATH
    if resolve_precision(config, place) == "bf16":
        return ExplainedDefault(path, "bf16", "this GPU computes it at full speed, in half the memory")
    if place.cuda:
        return ExplainedDefault(path, "fp32", "this GPU has no bf16")
    return ExplainedDefault(path, "fp32", "exact on any CPU; bf16 is faster for larger models where a CPU computes it")


def _explain_tf32(place: ComputeDevice) -> ExplainedDefault:
    path = _ARGS + "tf32"
    if place.capability >= AMPERE_CAPABILITY:
        return ExplainedDefault(path, "tf32 on", "products that stay in fp32 take the fast units of this GPU")
    return ExplainedDefault(path, "tf32 off", "only GPUs from Ampere on have it")


def _explain_packing(config: Config, place: ComputeDevice) -> ExplainedDefault:
    path = "training.sft_args.packing"
    if computes_padding(config, place):
        return ExplainedDefault(path, "Group by length", "little padding is left")
    return ExplainedDefault(
        path, "Group by length", "without padding: a step computes its examples' own tokens and no others"
    )


def _explain_attention(config: Config, place: ComputeDevice) -> ExplainedDefault:
    if resolve_attention(config, place) == FLASH_ATTENTION:
        return ExplainedDefault("", "flash-attn", "it is installed, and this GPU can compute it")
    if place.cuda:
        return ExplainedDefault(
            "", "SDPA attention", "PyTorch's own kernels; flash-attn is not installed, or can't be used here"
        )
    return ExplainedDefault(
        "", "SDPA attention", "each example by itself; short ones take plain products, which are faster"
    )


def _explain_kernels(config: Config, place: ComputeDevice) -> ExplainedDefault | None:
    if uses_liger_kernels(config, place):
        return ExplainedDefault("", "Liger kernels", "they are installed")
    if place.cuda:
        return None
    return ExplainedDefault(
        "", "Loss at trained tokens alone", "norms, feed-forward and adapters in one step each, equal to rounding"
    )
