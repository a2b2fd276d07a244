"""Head and loss in one step: the cross-entropy of labelled positions, with a few rows of logits at a time.

A frozen head's gradient is known as soon as its logits are: the forward leaves the gradient of the hidden states behind
and no logits, so that memory grows with the width of the model and not with its vocabulary. Knows no trainer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from toolkit.worker.compute.padding_free import pad_row_count, rows_per_product
from toolkit.worker.models.trial_pass import temporary_eval_mode

MAX_LOGITS_AT_ONCE = 2**22
"""Logits that exist at once, at most: 16 MB in fp32."""
MIN_PRODUCT_ROWS, MAX_CACHED_LOGITS = 256, 2**21
"""Rows that a product is worth computing for, and logits that stay near a core: of more, each costs more
(512 rows of 8,192 in bf16: 56 ms in one, 40 ms in two)."""
MIN_PROBABILITY = 1e-30
"""A chance below it has lost digits, or all."""
HEAD_CHECK_TOKENS = 8
"""The first tokens of the vocabulary, on which a model is looked at; one alone may be padding, which is all zeros."""


def has_plain_head(model: PreTrainedModel) -> bool:
    """Whether the model's logits are its frozen linear head's output nothing done to them; it reads a few tokens.

    Models that scale or cap their logits, and heads that are trained, keep the usual way.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or head.weight.requires_grad or head.bias is not None:
        return False
    seen: list[Tensor] = []
    handle = head.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        with temporary_eval_mode(model):
            ids = torch.arange(HEAD_CHECK_TOKENS, device=head.weight.device)[None] % head.weight.shape[0]
            logits = model(input_ids=ids, use_cache=False).logits
    finally:
        handle.remove()
    same = len(seen) == 1 and seen[0].shape == logits.shape and bool(torch.equal(seen[0], logits))
    return same and bool(logits.any())  # zeros show nothing: what is done to them leaves them as they are


@contextmanager
def capture_hidden_states(head: nn.Module, scored: Tensor) -> Iterator[list[Tensor]]:
    """Inside, `head` computes nothing: the list gets the hidden states [n, width] before the positions in `scored`."""
    found: list[Tensor] = []

    def catch(hidden: Tensor) -> Tensor:
        found.append(hidden[:, :-1][scored])
        return hidden.new_empty(1, 0, 1)

    head.forward = catch
    try:
        yield found
    finally:
        del head.forward


def head_loss(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Sum of the cross-entropies of `labels` [n] under hidden [n, width] @ weight.T [width, vocabulary], in fp32."""
    return _HeadLoss.apply(hidden.to(weight.dtype), weight, labels)


def _label_losses(logits: Tensor, chances: Tensor, own: Tensor) -> Tensor:
    """What each label costs: -log of its chance, and from the logits where a chance is too small to be told from 0."""
    found = chances[: len(own)].gather(1, own)
    nats, lost = -found.log(), (found < MIN_PROBABILITY).flatten()
    if lost.any():
        few = logits[: len(own)][lost].float()
        nats[lost] = torch.logsumexp(few, dim=1, keepdim=True) - few.gather(1, own[lost])
    return nats


class _HeadLoss(torch.autograd.Function):
    """Differentiable in the hidden states; their gradient is worked out beside the loss."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        wanted, scored = ctx.needs_input_grad[0], len(hidden)
        total = torch.zeros((), device=hidden.device)
        hidden = pad_row_count(hidden)
        back = torch.empty_like(hidden) if wanted else None
        vocabulary = weight.shape[0]
        rows = rows_per_product(
            hidden, min(MAX_LOGITS_AT_ONCE // vocabulary, max(MIN_PRODUCT_ROWS, MAX_CACHED_LOGITS // vocabulary))
        )
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), rows):
                part = slice(start, start + rows)
                own = labels[part, None]
                logits = hidden[part] @ weight.T
                chances = torch.softmax(logits, dim=1, dtype=torch.float32)
                total += _label_losses(logits, chances, own).sum()
                if back is not None:
                    chances[: len(own)].scatter_add_(1, own, torch.full_like(own, -1.0, dtype=torch.float32))
                    torch.mm(chances.to(weight.dtype), weight, out=back[part])
        if back is not None:
            ctx.save_for_backward(back[:scored])
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (back,) = ctx.saved_tensors
        return back * gradients[0].to(back.dtype), None, None
