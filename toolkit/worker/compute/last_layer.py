"""Compute the last layer only for tokens whose logits are scored: its output for the others is not read.

Keys and values are computed for every token; queries, the output projection and the feed-forward only for the scored
ones. The modules are found by their names, and a trial run confirms that the others do not depend on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from toolkit.worker.compute.fused_layers import FeedForwardStep
from toolkit.worker.compute.fused_lora import TokenwiseStep
from toolkit.worker.compute.trial_pass import temporary_eval_mode

LAST_LAYER_CHECK_TOKENS = 8
"""Tokens on which a model is tried."""
FP32_CHANGE_TOLERANCE = 1e-5
"""Largest change of a logit by rounding in fp32, relative to the largest logit."""
TOKENWISE_PROJECTIONS = ("q_proj", "o_proj")
"""Projections of the attention that handle each token by itself and whose output for one token no other token reads."""


def find_skippable_steps(model: PreTrainedModel) -> tuple[TokenwiseStep, ...]:
    """Return the fused steps that may skip tokens, or () for a model of another structure.

    Call it after fuse_lora_layers and fuse_layers.
    """
    steps: list[tuple[str, TokenwiseStep]] = [
        (name.rpartition(".")[2], found)
        for name, module in model.named_modules()
        if isinstance(found := vars(module).get("forward"), TokenwiseStep)
    ]
    feeds = [step for _, step in steps if isinstance(step, FeedForwardStep)]
    if not feeds:
        return ()
    # the last projections of these names belong to the last layer
    projections = [[step for name, step in steps if name == wanted][-1:] for wanted in TOKENWISE_PROJECTIONS]
    candidates = (feeds[-1], *(step for matches in projections for step in matches))
    # the feed-forward alone may still be skippable where the attention is built differently
    return next((tried for tried in (candidates, candidates[:1]) if _can_skip_tokens(model, tried)), ())


@contextmanager
def compute_only_tokens(steps: Sequence[TokenwiseStep], tokens: Tensor) -> Iterator[None]:
    """Let the steps compute only the tokens at these positions [n] of a row [1, all tokens] inside the block."""
    for step in steps:
        step.selected_tokens = tokens
    try:
        yield
    finally:
        for step in steps:
            step.selected_tokens = None


def _can_skip_tokens(model: PreTrainedModel, steps: Sequence[TokenwiseStep]) -> bool:
    """Return whether each token's logits depend on what these steps compute for that token alone.

    The steps' output is set to zero for every second token. The logits of the others must stay the same, and those of
    the zeroed ones must change, or else the steps are not part of the computation.
    """
    device = model.get_input_embeddings().weight.device
    ids = torch.arange(1, LAST_LAYER_CHECK_TOKENS + 1, device=device)[None] % model.config.get_text_config().vocab_size
    odd = torch.arange(LAST_LAYER_CHECK_TOKENS, device=device) % 2 == 1
    with temporary_eval_mode(model):
        own = model(input_ids=ids, use_cache=False).logits[0].float()
        with _zero_outputs(model, steps, odd):
            zeroed = model(input_ids=ids, use_cache=False).logits[0].float()
    change = (zeroed - own).abs().amax(dim=1)
    # both runs have products of the same shapes, so half precision rounds alike and must be equal; in fp32, shapes (and
    # rounding) differ where experts distribute the tokens
    tolerance = FP32_CHANGE_TOLERANCE if next(model.parameters()).dtype == torch.float32 else 0.0
    return bool(change[odd].max() <= tolerance * own.abs().max()) and bool(change[~odd].min() > 0)


@contextmanager
def _zero_outputs(model: nn.Module, steps: Sequence[TokenwiseStep], kept_tokens: Tensor) -> Iterator[None]:
    """Set the output of the steps to zero inside the block, except for tokens in the mask `kept_tokens` [tokens]."""

    def zero(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return output * kept_tokens[:, None] if output.shape[-2] == len(kept_tokens) else output

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
