"""The last layer, computed only for tokens whose logits are scored: nobody reads what it makes of the others.

Keys and values are made of every token; queries, what follows the attention, and the feed-forward of the scored ones
alone. Which modules that are is found by their names and held by a try. Knows no trainer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from toolkit.worker.compute.fused_layers import FeedStep
from toolkit.worker.compute.fused_lora import TokenStep
from toolkit.worker.models.trial_pass import on_trial

TOKENS = 8
"""Tokens on which a model is tried."""
BESIDE = ("q_proj", "o_proj")
"""A feed-forward's neighbours that work token by token and whose results nobody else reads."""


def last_steps(model: PreTrainedModel) -> tuple[TokenStep, ...]:
    """The fused steps that may leave tokens out, after `fuse` and `fuse_layers`; none for a model of another build."""
    steps: list[tuple[str, TokenStep]] = [
        (name.rpartition(".")[2], found)
        for name, module in model.named_modules()
        if isinstance(found := vars(module).get("forward"), TokenStep)
    ]
    feeds = [step for _, step in steps if isinstance(step, FeedStep)]
    if not feeds:
        return ()
    beside = [[step for name, step in steps if name == wanted][-1:] for wanted in BESIDE]
    whole = (feeds[-1], *(step for found in beside for step in found))
    return next((tried for tried in (whole, whole[:1]) if _unread(model, tried)), ())


@contextmanager
def alone(steps: Sequence[TokenStep], tokens: Tensor) -> Iterator[None]:
    """Inside, the steps compute the tokens at these places of a row [1, all tokens] and no others."""
    for step in steps:
        step.only = tokens
    try:
        yield
    finally:
        for step in steps:
            step.only = None


def _unread(model: PreTrainedModel, steps: Sequence[TokenStep]) -> bool:
    """Whether the logits of some tokens stay the same when what these steps make of the others is 0; those lose theirs.

    The products have the same shapes both times, so that nothing is rounded otherwise, in bf16 either; shapes change
    only where experts share the tokens out.
    """
    device = model.get_input_embeddings().weight.device
    ids = torch.arange(1, TOKENS + 1, device=device)[None] % model.config.get_text_config().vocab_size
    odd = torch.arange(TOKENS, device=device) % 2 == 1
    with on_trial(model):
        own = model(input_ids=ids, use_cache=False).logits[0].float()
        with _zeroed(model, steps, odd):
            found = model(input_ids=ids, use_cache=False).logits[0].float()
    off = (found - own).abs().amax(dim=1)
    tolerance = 1e-5 if next(model.parameters()).dtype == torch.float32 else 0.0
    return bool(off[odd].max() <= tolerance * own.abs().max()) and bool(off[~odd].min() > 0)


@contextmanager
def _zeroed(model: nn.Module, steps: Sequence[TokenStep], kept: Tensor) -> Iterator[None]:
    """Inside, the steps compute all tokens, and those not in `kept` [tokens] become 0 afterwards."""

    def zero(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return output * kept[:, None] if output.shape[-2] == len(kept) else output

    handles = [
        module.register_forward_hook(zero)
        for module in model.modules()
        if any(vars(module).get("forward") is step for step in steps)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
