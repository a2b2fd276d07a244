"""Read and check the files of an adapter, and turn a checkpoint's weights into an adapter.

An adapter is data only: its config is validated, with known keys only, and its weights are safetensors. A training
checkpoint holds the same weights under the names of the trained model; the target modules follow from those names, the
rest from the run's settings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import ValidationError
from safetensors import SafetensorError

from toolkit.config import Config
from toolkit.errors import EngineError
from toolkit.system.foreign_files import read_foreign_json
from toolkit.worker.models import library_arguments
from toolkit.worker.models.adapter_settings import (
    ADAPTER_CONFIG_FILE,
    PEFT_PREFIX,
    RETRAIN_HINT,
    ROWS_MARK,
    AdapterFile,
    AdapterWeights,
    check_adapter_keys,
    owns_parameter,
)

ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"
MAX_ADAPTER_CONFIG_BYTES = 1_000_000
"""Largest adapter_config.json that is read, in bytes; real ones have a few kilobytes."""
PEFT_ADAPTER_NAME = "default"
"""peft's name for the one adapter of a training."""

FILE_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
"""torch's floating-point types by their names in a safetensors header."""

# these say where an adapter came from or how its training began: they do not change its answers, and are dropped
IGNORED_CONFIG_KEYS = {
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "lora_dropout", "init_lora_weights", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
    "megatron_config", "megatron_core", "qalora_group_size", "runtime_config",
}  # fmt: skip


def read_adapter_config(folder: Path) -> AdapterFile:
    """Return the validated adapter_config.json of `folder`. Raises EngineError unless it is a plain LoRA adapter."""
    path = folder / ADAPTER_CONFIG_FILE
    try:
        if path.stat().st_size > MAX_ADAPTER_CONFIG_BYTES:
            raise EngineError(f"{ADAPTER_CONFIG_FILE} of the adapter is larger than 1 MB.", RETRAIN_HINT)
        content = read_foreign_json(path)
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
        chosen = {name: value for name, value in content.items() if name not in IGNORED_CONFIG_KEYS}
        for name in set(chosen) - set(AdapterFile.model_fields):
            # peft writes the keys of other features with empty values: only one that is set changes the model
            if chosen.pop(name):
                raise EngineError(
                    f"{ADAPTER_CONFIG_FILE} of the adapter sets '{name}', which is not supported here.", RETRAIN_HINT
                )
        return AdapterFile.model_validate(chosen)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise EngineError(
            f"{ADAPTER_CONFIG_FILE} of the adapter has an invalid '{name}': {first['msg']}.", RETRAIN_HINT
        ) from error
    except (OSError, ValueError) as error:
        raise EngineError(f"{ADAPTER_CONFIG_FILE} of the adapter can't be read: {error}.", RETRAIN_HINT) from error


def read_adapter(folder: Path) -> tuple[AdapterFile, AdapterWeights]:
    """Return the settings and weights of the adapter in `folder`. Raises EngineError."""
    chosen = read_checked_config(folder)
    return chosen, read_adapter_weights(folder / ADAPTER_WEIGHTS_FILE)


def read_checked_config(folder: Path) -> AdapterFile:
    """Return the settings of the adapter in `folder` after checking the names of its weights.

    Raises EngineError, also without a safetensors file: PEFT would load a pickle file instead.
    """
    chosen, path = read_adapter_config(folder), folder / ADAPTER_WEIGHTS_FILE
    if not path.is_file():
        raise EngineError(f"The adapter has no {ADAPTER_WEIGHTS_FILE}.", RETRAIN_HINT)
    with _open_weights(path) as opened:
        check_adapter_keys(chosen, opened.keys())
    return chosen


def read_adapter_weights(path: Path) -> AdapterWeights:
    """Return the tensors by name, on the CPU. Only safetensors files are opened. Raises EngineError."""
    try:
        weights: AdapterWeights = safetensors.torch.load_file(path)
        return weights
    except (OSError, SafetensorError) as error:
        raise EngineError(f"{path.name} of the adapter can't be read: {error}.", RETRAIN_HINT) from error


def read_adapter_dtypes(path: Path) -> dict[str, torch.dtype]:
    """Return the precision of each tensor in the file, by its name; the tensors are not read. Raises EngineError."""
    with _open_weights(path) as opened:
        names = {name: opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118 - not a dict
    return {name: FILE_DTYPES[dtype] for name, dtype in names.items() if dtype in FILE_DTYPES}


@contextmanager
def _open_weights(path: Path) -> Iterator[Any]:
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            yield opened
    except (OSError, SafetensorError) as error:
        raise EngineError(f"{path.name} of the adapter can't be read: {error}.", RETRAIN_HINT) from error


def adapter_from_training(
    config: Config, trained_weights: Mapping[str, torch.Tensor]
) -> tuple[AdapterFile, AdapterWeights]:
    """Return the settings and weights of the adapter that a checkpoint holds.

    trained_weights: by the names that they have in training. Raises EngineError if it is not a plain LoRA adapter.
    """
    marked = _modules_marked(trained_weights, r"\.lora_(?:A|embedding_A)\.")
    parameters = config.lora.target_parameters or ()
    plain = [name for name in marked if not owns_parameter(re.sub(r"(\.base_layer)+$", "", name), parameters)]
    if any(name.endswith((".base_layer", ".experts")) for name in plain):
        message = "This checkpoint holds adapters of experts that all-linear chose, and can't be asked on its own."
        raise EngineError(message, "Ask the run's adapter, once it is saved.")
    weights = {saved_weight_name(name): weight for name, weight in trained_weights.items()}
    lora = library_arguments.lora_args(config)
    settings = {name: value for name, value in lora.items() if name in AdapterFile.model_fields}
    # full module names instead of the settings' short ones, layers and patterns: the names say what was trained
    settings |= {
        "peft_type": "LORA",
        "target_modules": plain,
        "modules_to_save": _modules_marked(trained_weights, r"\.modules_to_save\.") or None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "exclude_modules": None,
    }
    try:
        return AdapterFile.model_validate(settings), weights
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise EngineError(f"The checkpoint does not hold a plain LoRA adapter: {reason}.", RETRAIN_HINT) from error


def saved_weight_name(name: str) -> str:
    """Return a weight's name in an adapter's files: without the adapter's name, as peft saves it."""
    name = name.replace(f".modules_to_save.{PEFT_ADAPTER_NAME}.", ".")
    name = name.replace(f".lora_magnitude_vector.{PEFT_ADAPTER_NAME}.weight", ".lora_magnitude_vector")  # of DoRA
    return re.sub(rf"(\.lora_(?:embedding_)?[AB]|{re.escape(ROWS_MARK)})\.{PEFT_ADAPTER_NAME}(?=\.|$)", r"\1", name)


def _modules_marked(names: Mapping[str, Any], mark: str) -> list[str]:
    """Return the full names, in the base model, of the modules whose weights match the pattern `mark`."""
    parts = (re.split(mark, name.removeprefix(PEFT_PREFIX), maxsplit=1) for name in names)
    return sorted({part[0] for part in parts if len(part) == 2})
