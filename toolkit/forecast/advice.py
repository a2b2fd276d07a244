"""The smallest change of settings that makes a run fit into memory. Pure: each change is forecast, none is guessed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolkit.config import Config
from toolkit.forecast.forecast import Forecast, forecast_run
from toolkit.settings.validation import parse_draft

_ARGS = "training.training_args."
BATCH_SIZE_PATH, ACCUMULATION_PATH = _ARGS + "per_device_train_batch_size", _ARGS + "gradient_accumulation_steps"
GRADIENT_CHECKPOINTING_PATH, BF16_ARG_PATH, FP16_ARG_PATH = (
    _ARGS + "gradient_checkpointing",
    _ARGS + "bf16",
    _ARGS + "fp16",
)
MAX_LENGTH_PATH, QUANTIZE_PATH = "training.sft_args.max_seq_length", "model.quantize"
MIN_UNCUT_SHARE = 0.97
"""A shorter limit is offered where it leaves so many of the rows whole."""


@dataclass(frozen=True)
class MemoryAdvice:
    """changes: path -> value. after: the forecast with them. enough: whether it fits then."""

    changes: dict[str, Any]
    after: Forecast
    enough: bool


def find_memory_advice(found: Forecast) -> MemoryAdvice | None:
    """The fewest changes after which the run fits, the quickest of them; the most helpful ones when none is enough.

    None when it fits as it is, or when no change is left.
    """
    if found.fit != "too large":
        return None
    moves = [move for move in _possible_changes(found.config, found) if move]
    best: MemoryAdvice | None = None
    for number in range(1, len(moves) + 1):
        tried = [_try_changes(found, choice) for choice in itertools.combinations(moves, number)]
        fitting = [one for one in tried if one.enough]
        if fitting:
            return min(fitting, key=lambda one: one.after.seconds)
        best = min([*tried, *([best] if best else [])], key=lambda one: one.after.memory.peak)
    return best


def _try_changes(found: Forecast, moves: tuple[dict[str, Any], ...]) -> MemoryAdvice:
    changes = {path: value for move in moves for path, value in move.items()}
    after = forecast_run(apply_setting_changes(found.config, changes), found.scene, found.correction)
    return MemoryAdvice(changes, after, after.fit != "too large")


def apply_setting_changes(config: Config, changes: dict[str, Any]) -> Config:
    """`config` with these settings."""
    draft = config.model_dump(mode="json")
    for path, value in changes.items():
        *parents, name = path.split(".")
        section = draft
        for parent in parents:
            section = section[parent]
        section[name] = value
    return parse_draft(draft)


def _possible_changes(config: Config, found: Forecast) -> Iterator[dict[str, Any]]:
    args = config.training.training_args
    yield _smaller_batch(args.per_device_train_batch_size or 8, args.gradient_accumulation_steps or 1, found)
    if not args.gradient_checkpointing:
        yield {GRADIENT_CHECKPOINTING_PATH: True}
    if found.load.precision == "fp32" and (not found.scene.place.cuda or found.scene.place.bf16_gpu):
        yield {BF16_ARG_PATH: True, **({FP16_ARG_PATH: False} if args.fp16 else {})}
    yield _shorter_limit(found)
    if not config.model.quantize:
        yield {QUANTIZE_PATH: True}


def _smaller_batch(size: int, accumulation: int, found: Forecast) -> dict[str, Any]:
    """Less at once and the same examples a step: halved until it fits, or until one is left."""
    for smaller in (size // 2**power for power in range(1, size.bit_length())):
        change = {BATCH_SIZE_PATH: smaller, ACCUMULATION_PATH: accumulation * math.ceil(size / smaller)}
        if smaller == 1 or _try_changes(found, (change,)).enough:
            return change
    return {}


def _shorter_limit(found: Forecast) -> dict[str, Any]:
    rows = found.scene.lengths.row_tokens(found.load.longest)
    enough = math.ceil(float(np.quantile(rows, MIN_UNCUT_SHARE)) / 8) * 8
    return {MAX_LENGTH_PATH: enough} if 8 <= enough < 0.9 * found.load.longest else {}
