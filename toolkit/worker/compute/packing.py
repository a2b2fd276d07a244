"""Several examples in one row, kept apart by position ids that start again; and the proof that they are.

No attention mask goes with such rows: one of ones would let an example see the one before it. A padding token at a
row's end is an example of its own. Which rows share a row is `data/examples/batches.py`'s. Knows no trainer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from toolkit.worker.models.trial_pass import temporary_eval_mode
from toolkit.worker.tokens.labels import IGNORED_LABEL

PACKING_TOLERANCE = 1e-3
"""Of the largest logit: what rounding may change. A leak changes logits as much as another text does."""
FIRST_EXAMPLE_TOKENS, SECOND_EXAMPLE_TOKENS = 6, 5
"""Tokens of the two examples by which a model is tried."""


@dataclass(frozen=True)
class PackingCollator:
    """Examples in their order, row after row of at most `capacity` tokens: input_ids, labels, position_ids."""

    pad_token_id: int
    capacity: int

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        rows = list(_pack_rows(examples, self.capacity))
        width = max(sum(len(example["input_ids"]) for example in row) for row in rows)
        ids, labels, positions = [], [], []
        for row in rows:
            ids.append(_pad_values((token for one in row for token in one["input_ids"]), self.pad_token_id, width))
            # nothing of its own stands before an example's first token: it is never counted
            learned = (label for one in row for label in (IGNORED_LABEL, *one["labels"][1:]))
            labels.append(_pad_values(learned, IGNORED_LABEL, width))
            positions.append(_pad_values((at for one in row for at in range(len(one["input_ids"]))), 0, width))
        made = {"input_ids": ids, "labels": labels, "position_ids": positions}
        return {name: torch.tensor(value) for name, value in made.items()}


def count_real_tokens(positions: Tensor) -> int:
    """Tokens of packed rows that are no padding: an example's first one is followed by position 1."""
    return int((positions > 0).sum() + (positions == 1).sum())


def keeps_examples_apart(model: PreTrainedModel) -> bool:
    """Whether an example's logits stay the same when the one packed before it is another. Reads eleven tokens."""
    device = model.get_input_embeddings().weight.device
    vocabulary = model.config.get_text_config().vocab_size
    positions = torch.tensor([[*range(FIRST_EXAMPLE_TOKENS), *range(SECOND_EXAMPLE_TOKENS)]], device=device)
    ids = torch.arange(1, FIRST_EXAMPLE_TOKENS + SECOND_EXAMPLE_TOKENS + 1, device=device)[None] % vocabulary
    other = ids.clone()
    other[0, :FIRST_EXAMPLE_TOKENS] = (
        torch.arange(3 * FIRST_EXAMPLE_TOKENS, 4 * FIRST_EXAMPLE_TOKENS, device=device) % vocabulary
    )
    with temporary_eval_mode(model):
        own, moved = (_logits(model, given, positions) for given in (ids, other))
    return bool((own - moved).abs().max() <= PACKING_TOLERANCE * own.abs().max())


def _logits(model: PreTrainedModel, ids: Tensor, positions: Tensor) -> Tensor:
    return model(input_ids=ids, position_ids=positions, use_cache=False).logits[0, FIRST_EXAMPLE_TOKENS:].float()


def _pack_rows(examples: Iterable[Mapping[str, Any]], capacity: int) -> Iterator[list[Mapping[str, Any]]]:
    row: list[Mapping[str, Any]] = []
    filled = 0
    for example in examples:
        length = len(example["input_ids"])
        if row and filled + length > capacity:
            yield row
            row, filled = [], 0
        row.append(example)
        filled += length
    if row:
        yield row


def _pad_values(values: Iterable[int], filler: int, width: int) -> list[int]:
    found = list(values)
    return found + [filler] * (width - len(found))
