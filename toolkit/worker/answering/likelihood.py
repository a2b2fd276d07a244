"""Summed negative log-likelihood of labeled tokens, in batches.

Only the hidden states before labeled tokens go through the model's head, which saves most of the memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from toolkit.worker.tokens.labels import IGNORED_LABEL

MAX_SCORED_LOGITS = 2**26
"""Logits of a batch: 256 MiB as float32."""
MAX_SCORED_TOKENS = 2**14
"""Tokens of a batch, including padding."""


@contextmanager
def limit_head_to_positions(head: nn.Module, scored: Tensor) -> Iterator[None]:
    """Give `head` only the hidden states that predict the tokens in `scored`, while inside the block.

    scored: bool, (batch, length - 1). The head gets (1, number of scored tokens, hidden size).
    """

    def select(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *others = inputs
        return (hidden[:, :-1][scored.to(hidden.device)].unsqueeze(0), *others)

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


LabeledTokens = tuple[Sequence[int], Sequence[int]]
"""(input ids, labels of the same length, with IGNORED_LABEL where a token is not scored)"""


def compute_row_losses(model: PreTrainedModel, rows: Sequence[LabeledTokens]) -> list[tuple[float, int]]:
    """Return (nats, number of tokens) of the labeled tokens of each row, in the given order.

    The first token of a row is never scored: no token before it predicts it.
    """
    losses: list[tuple[float, int]] = [(0.0, 0)] * len(rows)
    vocabulary = model.config.get_text_config().vocab_size
    for batch in _plan_batches(rows, vocabulary):
        for at, value in zip(batch, _compute_batch_losses(model, [rows[at] for at in batch]), strict=True):
            losses[at] = value
    return losses


def _plan_batches(rows: Sequence[LabeledTokens], vocabulary: int) -> Iterator[list[int]]:
    batch: list[int] = []
    logits = 0
    for at in sorted(range(len(rows)), key=lambda i: len(rows[i][0])):
        cost = vocabulary * sum(label != IGNORED_LABEL for label in rows[at][1])
        if batch and (logits + cost > MAX_SCORED_LOGITS or (len(batch) + 1) * len(rows[at][0]) > MAX_SCORED_TOKENS):
            yield batch
            batch, logits = [], 0
        batch.append(at)
        logits += cost
    if batch:
        yield batch


def _compute_batch_losses(model: PreTrainedModel, rows: Sequence[LabeledTokens]) -> list[tuple[float, int]]:
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids, _ in rows], device=model.device)
    mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows], device=model.device)
    labels = torch.tensor(
        [[*labels, *[IGNORED_LABEL] * (width - len(labels))] for _, labels in rows], device=model.device
    )
    wanted = labels[:, 1:]
    scored = wanted != IGNORED_LABEL
    counts = scored.sum(dim=1)
    if not int(counts.sum()):
        return [(0.0, 0)] * len(rows)
    with torch.no_grad(), limit_head_to_positions(model.get_output_embeddings(), scored):
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    losses = nn.functional.cross_entropy(logits[0].float(), wanted[scored], reduction="none").double()
    parts = torch.split(losses, counts.tolist())
    return [(float(part.sum()), int(count)) for part, count in zip(parts, counts, strict=True)]
