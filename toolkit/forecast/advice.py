"""The smallest change of settings that makes a run fit into memory. Pure: each change is forecast, none is guessed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolkit.config import Config
from toolkit.forecast.forecast import Forecast, forecast
from toolkit.settings.validation import parse

_ARGS = "training.training_args."
BATCH, ACCUMULATION = _ARGS + "per_device_train_batch_size", _ARGS + "gradient_accumulation_steps"
CHECKPOINTING, BF16, FP16 = _ARGS + "gradient_checkpointing", _ARGS + "bf16", _ARGS + "fp16"
LENGTH, QUANTIZE = "training.sft_args.max_seq_length", "model.quantize"
KEPT_WHOLE = 0.97
"""A shorter limit is offered where it leaves so many of the rows whole."""


@dataclass(frozen=True)
class Advice:
    """changes: path -> value. after: the forecast with them. enough: whether it fits then."""

    changes: dict[str, Any]
    after: Forecast
    enough: bool


def advise(found: Forecast) -> Advice | None:
    """The fewest changes after which the run fits, the quickest of them; the most helpful ones when none is enough.

    None when it fits as it is, or when no change is left.
    """
    if found.fit != "too large":
        return None
    moves = [move for move in _moves(found.config, found) if move]
    best: Advice | None = None
    for number in range(1, len(moves) + 1):
        tried = [_try(found, choice) for choice in itertools.combinations(moves, number)]
        fitting = [one for one in tried if one.enough]
        if fitting:
            return min(fitting, key=lambda one: one.after.seconds)
        best = min([*tried, *([best] if best else [])], key=lambda one: one.after.memory.peak)
    return best


def _try(found: Forecast, moves: tuple[dict[str, Any], ...]) -> Advice:
    changes = {path: value for move in moves for path, value in move.items()}
    after = forecast(changed(found.config, changes), found.scene, found.correction)
    return Advice(changes, after, after.fit != "too large")


def changed(config: Config, changes: dict[str, Any]) -> Config:
    """`config` with these settings."""
    draft = config.model_dump(mode="json")
    for path, value in changes.items():
        *parents, name = path.split(".")
        section = draft
        for parent in parents:
            section = section[parent]
        section[name] = value
    return parse(draft)


def _moves(config: Config, found: Forecast) -> Iterator[dict[str, Any]]:
    args = config.training.training_args
    yield _smaller_batch(args.per_device_train_batch_size or 8, args.gradient_accumulation_steps or 1, found)
    if not args.gradient_checkpointing:
        yield {CHECKPOINTING: True}
    if found.load.precision == "fp32" and (not found.scene.place.cuda or found.scene.place.bf16_gpu):
        yield {BF16: True, **({FP16: False} if args.fp16 else {})}
    yield _shorter(found)
    if not config.model.quantize:
        yield {QUANTIZE: True}


def _smaller_batch(size: int, accumulation: int, found: Forecast) -> dict[str, Any]:
    """Less at once and the same examples a step: halved until it fits, or until one is left."""
    for smaller in (size // 2**power for power in range(1, size.bit_length())):
        change = {BATCH: smaller, ACCUMULATION: accumulation * math.ceil(size / smaller)}
        if smaller == 1 or _try(found, (change,)).enough:
            return change
    return {}


def _shorter(found: Forecast) -> dict[str, Any]:
    rows = found.scene.lengths.of_all(found.load.longest)
    enough = math.ceil(float(np.quantile(rows, KEPT_WHOLE)) / 8) * 8
    return {LENGTH: enough} if 8 <= enough < 0.9 * found.load.longest else {}
