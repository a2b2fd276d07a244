"""Let a model in training answer like the base model that it was loaded as.

PEFT's `disable_adapter` leaves out the adapter's layers only. With bias "all" or "lora_only", biases of the base itself
are trained: a copy of each is kept, and put back for as long as the base is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

_KEPT_BIASES: WeakKeyDictionary[nn.Module, list[tuple[nn.Parameter, torch.Tensor]]] = WeakKeyDictionary()


def keep_biases(base: PreTrainedModel) -> None:
    """Copy the biases of a base model that is about to be trained; they are a thousandth of its weights."""
    named = base.named_parameters()
    _KEPT_BIASES[base] = [(bias, bias.detach().clone()) for name, bias in named if name.split(".")[-1] == "bias"]


@contextmanager
def untouched_base(model: PeftModel) -> Iterator[None]:
    """Make the model compute what the base computed before training. Afterwards its own weights are back."""
    kept = _KEPT_BIASES.get(model.get_base_model(), [])
    trained = [bias.detach().clone() for bias, _ in kept]
    try:
        _set_values((bias, value) for bias, value in kept)
        with model.disable_adapter():
            yield
    finally:
        _set_values(zip((bias for bias, _ in kept), trained, strict=True))


def _set_values(pairs: Iterator[tuple[nn.Parameter, torch.Tensor]]) -> None:
    with torch.no_grad():
        for bias, value in pairs:
            bias.copy_(value)
