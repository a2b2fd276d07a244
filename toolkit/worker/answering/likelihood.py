"""How surprised a model is at given answers: summed negative log-likelihood of the labelled tokens, in batches.

Only labelled positions go through the model's head. Knows no trainer, no run and no file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from toolkit.worker.tokens.labels import IGNORED_LABEL

MAX_SCORED_LOGITS = 2**26
MAX_SCORED_TOKENS = 2**14


@contextmanager
def limit_head_to_positions(head: nn.Module, scored: Tensor) -> Iterator[None]:
    """Inside, `head` gets the hidden states before the positions in `scored` alone: [1, their number, width]."""

    def select(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *others = inputs
        return (hidden[:, :-1][scored.to(hidden.device)].unsqueeze(0), *others)

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


LabelledTokens = tuple[Sequence[int], Sequence[int]]
"""(input ids, labels of the same length; IGNORED where nothing is scored)"""


def compute_row_losses(model: PreTrainedModel, rows: Sequence[LabelledTokens]) -> list[tuple[float, int]]:
    """(nats, tokens) of each row's labelled tokens, in the given order; the first token has nothing before it."""
    found: list[tuple[float, int]] = [(0.0, 0)] * len(rows)
    vocabulary = model.config.get_text_config().vocab_size
    for batch in _plan_batches(rows, vocabulary):
        for at, value in zip(batch, _compute_batch_losses(model, [rows[at] for at in batch]), strict=True):
            found[at] = value
    return found


def _plan_batches(rows: Sequence[LabelledTokens], vocabulary: int) -> Iterator[list[int]]:
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


def _compute_batch_losses(model: PreTrainedModel, rows: Sequence[LabelledTokens]) -> list[tuple[float, int]]:
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
