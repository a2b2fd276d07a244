"""What an empty setting becomes on the device at hand, and why. Pure; no library is asked.

The worker trains by these answers, the forecast counts by them and the form tells them: one place decides. A value that
the user chose always wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from toolkit.config import Config

Precision = Literal["fp32", "bf16", "fp16"]

AMPERE = (8, 0)
"""The compute capability from which GPUs have tf32 and flash-attn's kernels."""
FUSED_ADAMW = "adamw_torch_fused"
FLASH, SDPA = "flash_attention_2", "sdpa"

LIBRARY_MAX_LENGTH = 1024
"""SFTConfig's own default, which a test compares: importing trl would cost seconds."""


@dataclass(frozen=True)
class Place:
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


def max_length(config: Config) -> int:
    """Tokens kept of an example; an empty setting means the library's default."""
    chosen = config.training.sft_args.max_seq_length
    return chosen if chosen is not None else LIBRARY_MAX_LENGTH


def precision(config: Config, place: Place) -> Precision:
    """ "bf16", "fp16" or "fp32". On a CPU fp16 would be a silent no-op of the library, hence fp32 there."""
    args = config.training.training_args
    if args.fp16:
        return "fp16" if place.cuda else "fp32"
    if args.bf16 is None:  # the library's default is bf16, which fails where the GPU lacks it
        return "bf16" if place.cuda and place.bf16_gpu else "fp32"
    return "bf16" if args.bf16 else "fp32"


def tf32(config: Config, place: Place) -> bool | None:
    """Whether fp32 products are rounded to tf32; None where the GPU takes the switch in neither position."""
    if not place.cuda or place.capability < AMPERE:
        return None
    chosen = config.training.training_args.tf32
    return True if chosen is None else chosen


def optimizer(config: Config) -> str:
    """AdamW in one kernel, unless another one was chosen."""
    return config.training.training_args.optim or FUSED_ADAMW


def attention(config: Config, place: Place) -> str:
    """transformers' name of the attention: flash-attn's kernels where they are installed and can compute."""
    able = place.cuda and place.flash and place.capability >= AMPERE and precision(config, place) != "fp32"
    # its examples stand in one row, and NEFTune's noise shrinks with the length of a row
    return FLASH if able and not config.training.sft_args.neftune_noise_alpha else SDPA


def packs(config: Config) -> bool:
    """Whether a row of a batch holds several examples. Only if asked: a step would learn from more of them."""
    return config.training.sft_args.packing == "packed"


def pads(config: Config, place: Place) -> bool:
    """Whether a batch's padding is computed: where attention knows no borders inside a row of several examples."""
    if config.training.sft_args.neftune_noise_alpha:  # its noise is divided by a row's length
        return True
    return place.cuda and attention(config, place) != FLASH


def liger(config: Config, place: Place) -> bool:
    """Whether Liger's kernels compute norms, feed-forwards and rotary positions."""
    return place.cuda and place.liger and not config.model.quantize


class Told(NamedTuple):
    """What a setting is on this device, and why. path: of the setting, "" where there is none to change it."""

    path: str
    what: str
    why: str


CHECKPOINTING = "training.training_args.gradient_checkpointing"
BF16 = "training.training_args.bf16"


def checkpointing(config: Config) -> bool:
    """Whether layers are computed again on the way back. Empty is decided before Start, by `forecast/decisions.py`; what
    nobody has decided is off."""
    return bool(config.training.training_args.gradient_checkpointing)


def told(config: Config, place: Place, threads: int, settled: tuple[Told, ...] = ()) -> tuple[Told, ...]:
    """Everything that was chosen for this device, in sentences; what the user chose is not in it.

    settled: what a forecast has decided.
    """
    args, sft = config.training.training_args, config.training.sft_args
    open_still = args.bf16 is None and not args.fp16 and BF16 not in {line.path for line in settled}
    found = [
        _precision_told(config, place) if open_still else None,
        _tf32_told(place) if args.tf32 is None and place.cuda else None,
        Told(_ARGS + "optim", "AdamW in one kernel", "the same numbers to rounding") if args.optim is None else None,
        *settled,
        _packing_told(config, place) if sft.packing is None else None,
        _attention_told(config, place),
        _kernels_told(config, place),
        None if place.cuda else Told("", f"{threads} thread{'s' if threads > 1 else ''}", _THREADS_WHY),
    ]
    return tuple(one for one in found if one is not None)


_ARGS = "training.training_args."
_THREADS_WHY = "the free cores, one left for the app where there are more than three; they wait without spinning"


def _precision_told(config: Config, place: Place) -> Told:
    path = BF16
    if precision(config, place) == "bf16":
        return Told(path, "bf16", "this GPU computes it at full speed, in half the memory")
    if place.cuda:
        return Told(path, "fp32", "this GPU has no bf16")
    return Told(path, "fp32", "exact on any CPU; bf16 is faster for larger models where a CPU computes it")


def _tf32_told(place: Place) -> Told:
    path = _ARGS + "tf32"
    if place.capability >= AMPERE:
        return Told(path, "tf32 on", "products that stay in fp32 take the fast units of this GPU")
    return Told(path, "tf32 off", "only GPUs from Ampere on have it")


def _packing_told(config: Config, place: Place) -> Told:
    path = "training.sft_args.packing"
    if pads(config, place):
        return Told(path, "Like lengths together", "little padding is left")
    return Told(
        path, "Like lengths together", "without padding: a step computes its examples' own tokens and no others"
    )


def _attention_told(config: Config, place: Place) -> Told:
    if attention(config, place) == FLASH:
        return Told("", "flash-attn", "it is installed, and this GPU can compute it")
    if place.cuda:
        return Told("", "SDPA attention", "PyTorch's own kernels; flash-attn is not installed, or can't be used here")
    return Told("", "SDPA attention", "each example by itself; short ones take plain products, which are faster")


def _kernels_told(config: Config, place: Place) -> Told | None:
    if liger(config, place):
        return Told("", "Liger kernels", "they are installed")
    if place.cuda:
        return None
    return Told(
        "", "Loss at trained tokens alone", "norms, feed-forward and adapters in one step each, equal to rounding"
    )
