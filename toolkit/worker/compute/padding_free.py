"""Batches without padding: all examples one after the other in one row, separated by their borders.

Linear maps, norms and head then compute real tokens only, whatever the lengths. The borders are given twice: by
position ids that restart at 0, and by `cu_seq_lens_q` [examples + 1], where each example begins and the last one ends.
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
from toolkit.worker.compute.trial_pass import temporary_eval_mode
from toolkit.worker.tokens.labels import IGNORED_LABEL

PADDING_FREE_TOLERANCE = 1e-3
"""Largest change of a logit by rounding in fp32, relative to the largest logit. A leak between examples changes logits
as much as another text does, far more than this."""
HALF_PRECISION_TOLERANCE = 0.15
"""The same in half precision, between an example in a row and by itself: the products have other shapes, and rounding
adds up over many layers."""
HALF_PRECISION_LEAK = 1e-2
"""The same in half precision, between two rows of one shape: rounding differs only where experts distribute tokens."""
CHECK_EXAMPLE_LENGTHS = (5, 3, 6)
"""Lengths in tokens of the examples on which a model is tried."""
MODEL_REFUSALS = (TypeError, ValueError, RuntimeError, IndexError, AttributeError)
"""Errors that models raise for arguments or shapes that they do not support."""
BATCH_WIDTH_MULTIPLE = 16
"""A batch's width in tokens is a multiple of this in bf16 on a CPU: oneDNN compiles and keeps a kernel for each new
shape, so few shapes take less memory and time."""
ROW_COUNT_MULTIPLE = 32
"""Rows of the head's products, and tokens of a batch without padding, are a multiple of this for the same reason."""
_PADDING_VALUES = {"input_ids": 0, "labels": IGNORED_LABEL, "attention_mask": 0, "position_ids": 0}
logger = logging.getLogger(__name__)


def remove_padding(batch: Mapping[str, Any], multiple: int = 1) -> dict[str, Tensor]:
    """Return the real tokens of a batch as one row with borders.

    batch: input_ids and labels [rows, width], and either attention_mask [rows, width] (each row an example) or the
    position_ids of packed rows. The result has input_ids, labels and position_ids [1, tokens], cu_seq_lens_q and a mask
    of one value. Each example's first label is masked. The row is filled up to a multiple of `multiple` tokens with an
    example whose labels are all masked.
    """
    ids = batch["input_ids"]
    if "position_ids" in batch:
        given = batch["position_ids"]
        # padding has position 0 like the first token of an example, but only an example goes on to position 1
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
        # the last token of an example must not be trained to predict the first of the next
        "labels": labels.masked_fill(first, IGNORED_LABEL)[None],
        "position_ids": positions[None],
        "cu_seq_lens_q": borders,
        # the library passes a 4-D mask on unchanged; without one it would build a mask over all pairs
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=ids.device),
    }


def flash_attention_row(row: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the row with the arguments of flash-attn's kernels: borders, the longest example, and no mask."""
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
    """Return whether the model computes each example of a row as if it stood alone.

    The logits of a row without padding must equal those of its examples by themselves, and must not change when another
    example in the row is replaced. Runs the model on fourteen tokens three times. row: makes the model's arguments from
    a row without padding. A model that refuses such a row does not respect borders; a model that can't compute at all
    raises its own error.
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
    replaced = slice(0, CHECK_EXAMPLE_LENGTHS[0])
    other[:, replaced] = (other[:, replaced] + sum(CHECK_EXAMPLE_LENGTHS)) % vocabulary
    # real sliding windows are longer than these examples and change no logit here, so compare what was passed instead
    attention.REQUESTED_WINDOWS.clear()
    attention.APPLIED_WINDOWS.clear()
    with temporary_eval_mode(model):
        # first without borders: an error here is the model's own and not a refusal of the row
        alone = torch.cat([model(input_ids=part, use_cache=False).logits[0].float() for part in parts])
        together = _read_logits(model, row(joined))
        changed = _read_logits(model, row({**joined, "input_ids": other}))
    if together is None or changed is None:
        return False
    if attention.REQUESTED_WINDOWS - {None} != attention.APPLIED_WINDOWS - {None}:
        return False
    is_half, largest = next(model.parameters()).dtype != torch.float32, alone.abs().max()
    tolerance = HALF_PRECISION_TOLERANCE if is_half else PADDING_FREE_TOLERANCE
    leak = HALF_PRECISION_LEAK if is_half else PADDING_FREE_TOLERANCE
    same = (together - alone).abs().max() <= tolerance * largest
    apart = (together - changed)[CHECK_EXAMPLE_LENGTHS[0] :].abs().max() <= leak * largest
    return bool(same and apart)


def _read_logits(model: PreTrainedModel, arguments: Mapping[str, Any]) -> Tensor | None:
    """Return the logits [tokens, vocabulary] of a row, or None if the model refuses it."""
    try:
        return model(**arguments, use_cache=False).logits[0].float()
    except MODEL_REFUSALS as error:
        logger.info("%s does not support rows without padding: %s", type(model).__name__, error)
        return None


def pad_batch_width(inputs: Mapping[str, Any], max_positions: int | None) -> dict[str, Any]:
    """Return the batch [rows, width] padded to a multiple of BATCH_WIDTH_MULTIPLE.

    max_positions: tokens that the model has positions for; padding never exceeds them.
    """
    width = inputs["input_ids"].shape[1]
    wanted = -(-width // BATCH_WIDTH_MULTIPLE) * BATCH_WIDTH_MULTIPLE
    # a batch that is too wide as it is stays so: the model raises its own error
    more = (wanted if max_positions is None else max(width, min(wanted, max_positions))) - width
    if not more:
        return dict(inputs)
    return {
        name: nn.functional.pad(value, (0, more), value=_PADDING_VALUES[name]) if name in _PADDING_VALUES else value
        for name, value in inputs.items()
    }


def pad_row_count(hidden: Tensor) -> Tensor:
    """Return `hidden` [n, width] with zero rows up to a multiple of ROW_COUNT_MULTIPLE, where kernels are kept."""
    more = -len(hidden) % ROW_COUNT_MULTIPLE if _keeps_kernels(hidden) else 0
    return nn.functional.pad(hidden, (0, 0, 0, more)) if more else hidden


def rows_per_product(hidden: Tensor, max_rows: int) -> int:
    """Return how many rows of `hidden` to compute in one product: at most `max_rows`, but at least 1.

    Where kernels are kept, it is a multiple of ROW_COUNT_MULTIPLE.
    """
    if not _keeps_kernels(hidden):
        return max(1, max_rows)
    return max(ROW_COUNT_MULTIPLE, max_rows // ROW_COUNT_MULTIPLE * ROW_COUNT_MULTIPLE)


def _keeps_kernels(hidden: Tensor) -> bool:
    """Whether oneDNN compiles a kernel for each shape of these products and keeps it."""
    return hidden.device.type == "cpu" and bool(hidden.dtype == torch.bfloat16)
