"""Head and loss in one step: the cross-entropy of labeled positions, with a few rows of logits at a time.

The gradient of a frozen head is known as soon as its logits are. The forward keeps the gradient of the hidden states
and no logits, so memory grows with the width of the model and not with its vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from toolkit.worker.compute.padding_free import pad_row_count, rows_per_product
from toolkit.worker.compute.trial_pass import temporary_eval_mode

MAX_LOGITS_AT_ONCE = 2**22
"""Most logits that exist at once: 16 MiB in fp32."""
MIN_PRODUCT_ROWS = 256
"""Fewer rows make a matrix product inefficient, even if the logits then exceed MAX_CACHED_LOGITS."""
MAX_CACHED_LOGITS = 2**21
"""Logits that fit a core's cache; above it each logit takes longer. Measured for 512 rows of 8,192 logits in bf16:
56 ms in one product, 40 ms in two."""
MIN_PROBABILITY = 1e-30
"""Below this, an fp32 probability has lost digits or is 0: its logarithm is computed from the logits instead."""
HEAD_CHECK_TOKENS = 8
"""Tokens on which a model is tried, the first of its vocabulary. One alone may be padding, whose states are zero."""


def has_plain_head(model: PreTrainedModel) -> bool:
    """Return whether the logits are exactly the output of a frozen linear head, without scaling or capping.

    Runs the model on a few tokens.
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
    # logits of zero prove nothing: scaling or capping leaves them unchanged
    return same and bool(logits.any())


@contextmanager
def capture_hidden_states(head: nn.Module, scored: Tensor) -> Iterator[list[Tensor]]:
    """Let `head` compute nothing inside the block, and collect its input at scored positions.

    scored: [batch, tokens - 1], True where the prediction of the next token counts. The list receives one tensor
    [n, width].
    """
    captured: list[Tensor] = []

    def catch(hidden: Tensor) -> Tensor:
        captured.append(hidden[:, :-1][scored])
        return hidden.new_empty(1, 0, 1)  # the model returns it as its logits, which are not read

    head.forward = catch
    try:
        yield captured
    finally:
        del head.forward


def head_loss(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of the cross-entropies of `labels`, in nats and fp32.

    hidden [n, width], weight [vocabulary, width], labels [n].
    """
    return _HeadLoss.apply(hidden.to(weight.dtype), weight, labels)


def _label_losses(logits: Tensor, probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return -log of the probability of each label [n, 1]. logits and probabilities may have more rows than labels."""
    of_labels = probabilities[: len(labels)].gather(1, labels)
    nats, lost = -of_labels.log(), (of_labels < MIN_PROBABILITY).flatten()
    # the stable formula needs another pass over the logits: only for the rows that need it
    if lost.any():
        few = logits[: len(labels)][lost].float()
        nats[lost] = torch.logsumexp(few, dim=1, keepdim=True) - few.gather(1, labels[lost])
    return nats


class _HeadLoss(torch.autograd.Function):
    """The loss of a frozen head, differentiable in the hidden states; the forward computes their gradient as well."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        needs_gradient, scored = ctx.needs_input_grad[0], len(hidden)
        total = torch.zeros((), device=hidden.device)
        hidden = pad_row_count(hidden)
        for_hidden = torch.empty_like(hidden) if needs_gradient else None
        vocabulary = weight.shape[0]
        cached_rows = max(MIN_PRODUCT_ROWS, MAX_CACHED_LOGITS // vocabulary)
        rows = rows_per_product(hidden, min(MAX_LOGITS_AT_ONCE // vocabulary, cached_rows))
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), rows):
                part = slice(start, start + rows)
                part_labels = labels[part, None]
                logits = hidden[part] @ weight.T
                # in fp32 whatever the precision of the model: bf16 has too few digits for a sum over a vocabulary
                probabilities = torch.softmax(logits, dim=1, dtype=torch.float32)
                total += _label_losses(logits, probabilities, part_labels).sum()
                if for_hidden is not None:
                    # the gradient of a cross-entropy in its logits: the probabilities, minus 1 at the label
                    minus_one = torch.full_like(part_labels, -1.0, dtype=torch.float32)
                    probabilities[: len(part_labels)].scatter_add_(1, part_labels, minus_one)
                    torch.mm(probabilities.to(weight.dtype), weight, out=for_hidden[part])
        if for_hidden is not None:
            ctx.save_for_backward(for_hidden[:scored])
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (for_hidden,) = ctx.saved_tensors
        return for_hidden * gradients[0].to(for_hidden.dtype), None, None
