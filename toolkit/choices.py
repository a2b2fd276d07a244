"""What an empty setting becomes on the device at hand, and why: precision, length. Pure; no library is asked.

The worker trains by these answers, the forecast counts by them and the form tells them: one place decides. A value that
the user chose always wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toolkit.config import Config

Precision = Literal["fp32", "bf16", "fp16"]

LIBRARY_MAX_LENGTH = 1024
"""SFTConfig's own default, which a test compares: importing trl would cost seconds."""


@dataclass(frozen=True)
class Place:
    """Where a run computes: whether on a GPU, what that GPU can do, and how many processes share the run."""

    cuda: bool = False
    capability: tuple[int, int] = (0, 0)
    bf16_gpu: bool = False
    processes: int = 1


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
