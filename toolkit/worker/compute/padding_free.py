"""A batch without its padding: all its examples one behind the other in one row, told apart by their borders.

What a batch's linear maps, norms and head compute is then real tokens alone, whatever their lengths. Where the borders
are is said twice: position ids that start again, and `cu_seq_lens_q`, which `attention.py` reads. Knows no trainer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

from toolkit.worker.compute import attention
from toolkit.worker.models.trial_pass import temporary_eval_mode
from toolkit.worker.tokens.labels import IGNORED_LABEL

PADDING_FREE_TOLERANCE = 1e-3
"""Of the largest logit: what rounding may change in fp32. A leak changes logits as much as another text does."""
HALF_PRECISION_TOLERANCE, HALF_PRECISION_LEAK = 0.15, 1e-2
"""The same in half precision: between an example in a row and by itself, where products have other shapes, many layers
round that much; between rows of one shape nothing is rounded otherwise, but where experts share the tokens out."""
CHECK_EXAMPLE_LENGTHS = (5, 3, 6)
"""Tokens of the examples by which a model is tried."""
MODEL_REFUSALS = (TypeError, ValueError, RuntimeError, IndexError, AttributeError)
"""What models raise at arguments or shapes that they have no place for."""
logger = logging.getLogger(__name__)


def remove_padding(batch: Mapping[str, Any], multiple: int = 1) -> dict[str, Tensor]:
    """input_ids and labels [rows, width] -> the same [1, real tokens], position_ids, and where examples begin and end.

    The batch says what is real by its attention_mask [rows, width], an example a row, or by the position_ids of packed
    rows. No example's first token is learned: what stands before it is another example's. Up to a `multiple` of tokens
    the row is filled up with an example of which nothing is learned.
    """
    ids = batch["input_ids"]
    if "position_ids" in batch:
        given = batch["position_ids"]
        real = (given > 0) | pad(given[:, 1:] == 1, (0, 1))
    else:
        given = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        real = batch["attention_mask"].bool()
    positions, more = given[real], -int(real.sum()) % multiple
    positions = torch.cat([positions, torch.arange(more, device=ids.device)])
    first = positions == 0
    borders = torch.cat([first.nonzero().flatten(), positions.new_tensor([len(positions)])]).int()
    labels = pad(batch["labels"][real], (0, more), value=IGNORED_LABEL)
    return {
        "input_ids": pad(ids[real], (0, more))[None],
        "labels": labels.masked_fill(first, IGNORED_LABEL)[None],
        "position_ids": positions[None],
        "cu_seq_lens_q": borders,
        # a mask that is there already is handed through as it is: none of all pairs is made, and nobody reads this one
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=ids.device),
    }


def flash_attention_row(row: Mapping[str, Tensor]) -> dict[str, Any]:
    """The same row as flash-attn's kernels want it: the borders of queries and keys, the longest example, no mask."""
    borders = row["cu_seq_lens_q"]
    longest = int(borders.diff().max())
    kept = {name: row[name] for name in ("input_ids", "labels", "position_ids") if name in row}
    return {
        **kept,
        "cu_seq_lens_q": borders,
        "cu_seq_lens_k": borders,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def respects_borders(model: PreTrainedModel, row: Callable[[Mapping[str, Tensor]], dict[str, Any]] = dict) -> bool:
    """Whether the model's logits without padding are those of its examples, each by itself, and stay the same when
    another example in the row is another one. Reads fourteen tokens three times.

    row: what the model is given of a row without padding. A model that refuses such a row does not read it; one that
    can't compute at all raises its own error. Windows are longer than what is read here: they have to be told.
    """
    device = model.get_input_embeddings().weight.device
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.arange(1, sum(CHECK_EXAMPLE_LENGTHS) + 1, device=device) % vocabulary
    parts = [part[None] for part in ids.split(list(CHECK_EXAMPLE_LENGTHS))]
    width = max(CHECK_EXAMPLE_LENGTHS)
    padded = torch.stack([pad(part[0], (0, width - part.shape[1])) for part in parts])
    mask = torch.stack([torch.arange(width, device=device) < size for size in CHECK_EXAMPLE_LENGTHS])
    joined = remove_padding({"input_ids": padded, "labels": padded, "attention_mask": mask})
    del joined["labels"]
    other = joined["input_ids"].clone()
    other[:, : CHECK_EXAMPLE_LENGTHS[0]] = (
        other[:, : CHECK_EXAMPLE_LENGTHS[0]] + sum(CHECK_EXAMPLE_LENGTHS)
    ) % vocabulary
    attention.REQUESTED_WINDOWS.clear()
    attention.APPLIED_WINDOWS.clear()
    with temporary_eval_mode(model):
        alone = torch.cat([model(input_ids=part, use_cache=False).logits[0].float() for part in parts])
        found = _read_logits(model, row(joined))
        moved = _read_logits(model, row({**joined, "input_ids": other}))
    if found is None or moved is None or attention.REQUESTED_WINDOWS - {None} != attention.APPLIED_WINDOWS - {None}:
        return False
    coarse, largest = next(model.parameters()).dtype != torch.float32, alone.abs().max()
    same = (found - alone).abs().max() <= (HALF_PRECISION_TOLERANCE if coarse else PADDING_FREE_TOLERANCE) * largest
    apart = (found - moved)[CHECK_EXAMPLE_LENGTHS[0] :].abs().max() <= (
        HALF_PRECISION_LEAK if coarse else PADDING_FREE_TOLERANCE
    ) * largest
    return bool(same and apart)


def _read_logits(model: PreTrainedModel, given: Mapping[str, Any]) -> Tensor | None:
    """Logits [tokens, vocabulary] of a row, or None where the model refuses it."""
    try:
        return model(**given, use_cache=False).logits[0].float()
    except MODEL_REFUSALS as error:
        logger.info("%s takes no rows without padding: %s", type(model).__name__, error)
        return None


BATCH_WIDTH_MULTIPLE = 16
"""Tokens that a batch's width is a multiple of."""


ROW_COUNT_MULTIPLE = 32
"""Rows that the head's products are a multiple of, and all of a batch without padding."""


_PADDING_VALUES = {"input_ids": 0, "labels": IGNORED_LABEL, "attention_mask": 0, "position_ids": 0}


def pad_batch_width(inputs: Mapping[str, Any], positions: int | None) -> dict[str, Any]:
    """The batch [rows, width] as wide as the next multiple of WIDTH, as far as the model has positions."""
    width = inputs["input_ids"].shape[1]
    wanted = -(-width // BATCH_WIDTH_MULTIPLE) * BATCH_WIDTH_MULTIPLE
    more = (wanted if positions is None else max(width, min(wanted, positions))) - width
    if not more:
        return dict(inputs)
    return {
        name: nn.functional.pad(value, (0, more), value=_PADDING_VALUES[name]) if name in _PADDING_VALUES else value
        for name, value in inputs.items()
    }


def pad_row_count(hidden: Tensor) -> Tensor:
    """[n, width] with zero rows up to the next multiple of ROWS, where that pays."""
    more = -len(hidden) % ROW_COUNT_MULTIPLE if _caches_shapes(hidden) else 0
    return nn.functional.pad(hidden, (0, 0, 0, more)) if more else hidden


def rows_per_product(hidden: Tensor, most: int) -> int:
    """At most so many rows of `hidden` in one product, one whole multiple of ROWS at least where shapes are kept."""
    return (
        max(ROW_COUNT_MULTIPLE, most // ROW_COUNT_MULTIPLE * ROW_COUNT_MULTIPLE)
        if _caches_shapes(hidden)
        else max(1, most)
    )


def _caches_shapes(hidden: Tensor) -> bool:
    return hidden.device.type == "cpu" and hidden.dtype == torch.bfloat16
