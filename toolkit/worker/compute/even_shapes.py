"""Batches of few different shapes: widths and token counts are rounded up where each new one costs memory for good.

On a CPU oneDNN compiles kernels for every shape of a bf16 product and keeps them: 15 to 20 MB a new width, measured on
models of four and six layers, some 900 MB after 60 to 80 steps of mixed lengths, and no end. Rounded up, a few dozen
shapes are all there are. What is filled up comes last, is masked and never learned. Knows no trainer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.worker.tokens.labels import IGNORED_LABEL

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
