"""Packed rows: several examples in one row, separated by position ids that restart at 0, and a check that they are.

Packed rows have no attention mask: one of ones would let an example attend to the one before it. A padding token at the
end of a row counts as an example of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from toolkit.worker.compute.trial_pass import temporary_eval_mode
from toolkit.worker.tokens.labels import IGNORED_LABEL

PACKING_TOLERANCE = 1e-3
"""Largest change of a logit by rounding, relative to the largest logit. A leak between examples changes logits as much
as another text does, far more than this."""
FIRST_EXAMPLE_TOKENS, SECOND_EXAMPLE_TOKENS = 6, 5
"""Lengths in tokens of the two examples on which a model is tried."""


@dataclass(frozen=True)
class PackingCollator:
    """Pack examples in their order into rows of at most `capacity` tokens: input_ids, labels and position_ids."""

    pad_token_id: int
    capacity: int

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        rows = list(_pack_rows(examples, self.capacity))
        width = max(sum(len(example["input_ids"]) for example in row) for row in rows)
        ids, labels, positions = [], [], []
        for row in rows:
            ids.append(_pad_values((token for one in row for token in one["input_ids"]), self.pad_token_id, width))
            # masked, or the last token of the example before it would be trained to predict it
            trained = (label for one in row for label in (IGNORED_LABEL, *one["labels"][1:]))
            labels.append(_pad_values(trained, IGNORED_LABEL, width))
            positions.append(_pad_values((at for one in row for at in range(len(one["input_ids"]))), 0, width))
        columns = {"input_ids": ids, "labels": labels, "position_ids": positions}
        return {name: torch.tensor(value) for name, value in columns.items()}


def count_real_tokens(positions: Tensor) -> int:
    """Return the number of tokens in packed rows that are not padding.

    Padding and the first token of an example both have position 0, but only an example goes on to position 1.
    """
    return int((positions > 0).sum() + (positions == 1).sum())


def keeps_examples_apart(model: PreTrainedModel) -> bool:
    """Return whether an example's logits are independent of the example packed before it.

    Runs the model twice on eleven tokens.
    """
    device = model.get_input_embeddings().weight.device
    vocabulary = model.config.get_text_config().vocab_size
    positions = torch.tensor([[*range(FIRST_EXAMPLE_TOKENS), *range(SECOND_EXAMPLE_TOKENS)]], device=device)
    ids = torch.arange(1, FIRST_EXAMPLE_TOKENS + SECOND_EXAMPLE_TOKENS + 1, device=device)[None] % vocabulary
    other = ids.clone()
    # any other tokens will do; these do not occur in the row
    other_tokens = torch.arange(3 * FIRST_EXAMPLE_TOKENS, 4 * FIRST_EXAMPLE_TOKENS, device=device)
    other[0, :FIRST_EXAMPLE_TOKENS] = other_tokens % vocabulary
    with temporary_eval_mode(model):
        own, changed = (_second_example_logits(model, row, positions) for row in (ids, other))
    return bool((own - changed).abs().max() <= PACKING_TOLERANCE * own.abs().max())


def _second_example_logits(model: PreTrainedModel, ids: Tensor, positions: Tensor) -> Tensor:
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
    row = list(values)
    return row + [filler] * (width - len(row))
