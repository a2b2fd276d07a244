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

from toolkit.worker.compute.fused_layers import FeedForwardStep
from toolkit.worker.compute.fused_lora import TokenwiseStep
from toolkit.worker.models.trial_pass import temporary_eval_mode

LAST_LAYER_CHECK_TOKENS = 8
"""Tokens on which a model is tried."""
TOKENWISE_PROJECTIONS = ("q_proj", "o_proj")
"""A feed-forward's neighbours that work token by token and whose results nobody else reads."""


def find_skippable_steps(model: PreTrainedModel) -> tuple[TokenwiseStep, ...]:
    """The fused steps that may leave tokens out, after `fuse` and `fuse_layers`; none for a model of another build."""
    steps: list[tuple[str, TokenwiseStep]] = [
        (name.rpartition(".")[2], found)
        for name, module in model.named_modules()
        if isinstance(found := vars(module).get("forward"), TokenwiseStep)
    ]
    feeds = [step for _, step in steps if isinstance(step, FeedForwardStep)]
    if not feeds:
        return ()
    beside = [[step for name, step in steps if name == wanted][-1:] for wanted in TOKENWISE_PROJECTIONS]
    whole = (feeds[-1], *(step for found in beside for step in found))
    return next((tried for tried in (whole, whole[:1]) if _can_skip_tokens(model, tried)), ())


@contextmanager
def compute_only_tokens(steps: Sequence[TokenwiseStep], tokens: Tensor) -> Iterator[None]:
    """Inside, the steps compute the tokens at these places of a row [1, all tokens] and no others."""
    for step in steps:
        step.only = tokens
    try:
        yield
    finally:
        for step in steps:
            step.only = None


def _can_skip_tokens(model: PreTrainedModel, steps: Sequence[TokenwiseStep]) -> bool:
    """Whether the logits of some tokens stay the same when what these steps make of the others is 0; those lose theirs.

    The products have the same shapes both times, so that nothing is rounded otherwise, in bf16 either; shapes change
    only where experts share the tokens out.
    """
    device = model.get_input_embeddings().weight.device
    ids = torch.arange(1, LAST_LAYER_CHECK_TOKENS + 1, device=device)[None] % model.config.get_text_config().vocab_size
    odd = torch.arange(LAST_LAYER_CHECK_TOKENS, device=device) % 2 == 1
    with temporary_eval_mode(model):
        own = model(input_ids=ids, use_cache=False).logits[0].float()
        with _zero_outputs(model, steps, odd):
            found = model(input_ids=ids, use_cache=False).logits[0].float()
    off = (found - own).abs().amax(dim=1)
    tolerance = 1e-5 if next(model.parameters()).dtype == torch.float32 else 0.0
    return bool(off[odd].max() <= tolerance * own.abs().max()) and bool(off[~odd].min() > 0)


@contextmanager
def _zero_outputs(model: nn.Module, steps: Sequence[TokenwiseStep], kept: Tensor) -> Iterator[None]:
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
