"""The smallest change of settings that makes a run fit into memory. Each change is checked with a forecast."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolkit.config import Config
from toolkit.forecast.forecast import Forecast, forecast_run
from toolkit.settings.device_defaults import BF16_PATH, CHECKPOINTING_PATH
from toolkit.settings.validation import parse_draft

_ARGS = "training.training_args."
BATCH_SIZE_PATH, ACCUMULATION_PATH = _ARGS + "per_device_train_batch_size", _ARGS + "gradient_accumulation_steps"
FP16_PATH = _ARGS + "fp16"
MAX_LENGTH_PATH, QUANTIZE_PATH = "training.sft_args.max_seq_length", "model.quantize"
MIN_UNTRUNCATED_SHARE = 0.97
"""Share of the rows that a shorter max sequence length must leave complete."""
MIN_LENGTH_REDUCTION = 0.9
"""A shorter limit is offered only below this share of the present one: otherwise it saves too little."""
LENGTH_MULTIPLE = 8
"""Suggested lengths are multiples of this, which GPUs compute faster; also the smallest length of the schema."""


@dataclass(frozen=True)
class MemoryAdvice:
    """changes: path -> new value. after: the forecast with the changes. enough: whether the run then fits."""

    changes: dict[str, Any]
    after: Forecast
    enough: bool


def find_memory_advice(found: Forecast) -> MemoryAdvice | None:
    """Return the fewest changes that make the run fit, and among those the fastest.

    If no combination is enough, return the one with the least memory. None if the run fits, or if no change is left.
    """
    if found.fit != "too large":
        return None
    options = [changes for changes in _possible_changes(found.config, found) if changes]
    best: MemoryAdvice | None = None
    for number in range(1, len(options) + 1):
        tried = [_try_changes(found, combination) for combination in itertools.combinations(options, number)]
        fitting = [advice for advice in tried if advice.enough]
        if fitting:
            return min(fitting, key=lambda advice: advice.after.seconds)
        best = min([*tried, *([best] if best else [])], key=lambda advice: advice.after.memory.peak)
    return best


def _try_changes(found: Forecast, options: tuple[dict[str, Any], ...]) -> MemoryAdvice:
    changes = {path: value for option in options for path, value in option.items()}
    after = forecast_run(apply_setting_changes(found.config, changes), found.scene, found.correction)
    return MemoryAdvice(changes, after, after.fit != "too large")


def apply_setting_changes(config: Config, changes: dict[str, Any]) -> Config:
    """Return the config with these settings replaced. Raises ConfigError if the result is invalid."""
    draft = config.model_dump(mode="json")
    for path, value in changes.items():
        *parents, name = path.split(".")
        section = draft
        for parent in parents:
            section = section[parent]
        section[name] = value
    return parse_draft(draft)


def _possible_changes(config: Config, found: Forecast) -> Iterator[dict[str, Any]]:
    """Yield each change that saves memory; {} where a change does not apply."""
    args = config.training.training_args
    yield _smaller_batch(args.per_device_train_batch_size or 8, args.gradient_accumulation_steps or 1, found)
    if not args.gradient_checkpointing:
        yield {CHECKPOINTING_PATH: True}
    if found.load.precision == "fp32" and (not found.scene.place.cuda or found.scene.place.bf16_gpu):
        yield {BF16_PATH: True, **({FP16_PATH: False} if args.fp16 else {})}
    yield _shorter_limit(found)
    if not config.model.quantize:
        yield {QUANTIZE_PATH: True}


def _smaller_batch(size: int, accumulation: int, found: Forecast) -> dict[str, Any]:
    """Halve the batch until the run fits or one example is left; accumulate more, for the same examples per step."""
    for smaller in (size // 2**power for power in range(1, size.bit_length())):
        change = {BATCH_SIZE_PATH: smaller, ACCUMULATION_PATH: accumulation * math.ceil(size / smaller)}
        if smaller == 1 or _try_changes(found, (change,)).enough:
            return change
    return {}


def _shorter_limit(found: Forecast) -> dict[str, Any]:
    rows = found.scene.lengths.row_tokens(found.load.longest)
    length = math.ceil(float(np.quantile(rows, MIN_UNTRUNCATED_SHARE)) / LENGTH_MULTIPLE) * LENGTH_MULTIPLE
    useful = LENGTH_MULTIPLE <= length < MIN_LENGTH_REDUCTION * found.load.longest
    return {MAX_LENGTH_PATH: length} if useful else {}
