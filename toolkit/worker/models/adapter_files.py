"""What an adapter's files may hold, and a checkpoint's weights as an adapter.

An adapter is data: its config is read by a model of our own, known keys only, and its weights are safetensors. A
checkpoint of training holds the same weights under the names of the trained model; what they are wrapped around follows
from those names, the rest from the run's settings. Knows no model and no run directory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError

from toolkit.config import Config
from toolkit.errors import EngineError
from toolkit.worker.models import library_arguments

ADAPTER_WEIGHTS_FILE, ADAPTER_CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
MAX_ADAPTER_CONFIG_BYTES = 1_000_000
PEFT_PREFIX = "base_model.model."
RETRAIN_HINT = "Train it again, or choose another run."
PEFT_ADAPTER_NAME = "default"
"""peft's name for the one adapter of a training."""

AdapterWeights = dict[str, torch.Tensor]
ModuleNames = Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=10_000)]


class AdapterFile(BaseModel):
    """What is taken from adapter_config.json. The base model and everything else come from the run's own config."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    peft_type: Annotated[str, Field(pattern="^LORA$")]
    r: Annotated[int, Field(ge=1, le=65536)]
    lora_alpha: Annotated[int | float, Field(ge=0, le=1e6)]
    target_modules: ModuleNames
    bias: Annotated[str, Field(pattern="^(none|all|lora_only)$")] = "none"
    fan_in_fan_out: bool = False
    use_rslora: bool = False
    modules_to_save: ModuleNames | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: Annotated[str, Field(max_length=200)] | ModuleNames | None = None
    ensure_weight_tying: bool = False


# say where an adapter came from or how its training began: no effect on what it answers, never handed on
IGNORED_CONFIG_KEYS = {
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "lora_dropout", "init_lora_weights", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
    "megatron_config", "megatron_core", "qalora_group_size", "runtime_config",
}  # fmt: skip


def read_adapter_config(folder: Path) -> AdapterFile:
    """The checked adapter_config.json of `folder`; raises EngineError for anything but a plain LoRA adapter."""
    path = folder / ADAPTER_CONFIG_FILE
    try:
        if path.stat().st_size > MAX_ADAPTER_CONFIG_BYTES:
            raise EngineError(f"{ADAPTER_CONFIG_FILE} of the adapter is larger than 1 MB.", RETRAIN_HINT)
        given = json.loads(path.read_bytes())
        if not isinstance(given, dict):
            raise ValueError("it holds no settings by name")
        chosen = {name: value for name, value in given.items() if name not in IGNORED_CONFIG_KEYS}
        for name in set(chosen) - set(AdapterFile.model_fields):
            if chosen.pop(name):
                raise EngineError(
                    f"{ADAPTER_CONFIG_FILE} of the adapter sets '{name}', which is not supported here.", RETRAIN_HINT
                )
        return AdapterFile.model_validate(chosen)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise EngineError(
            f"{ADAPTER_CONFIG_FILE} of the adapter has a wrong '{name}': {first['msg']}.", RETRAIN_HINT
        ) from error
    except (OSError, ValueError) as error:
        raise EngineError(f"{ADAPTER_CONFIG_FILE} of the adapter can't be read: {error}.", RETRAIN_HINT) from error


def read_adapter(folder: Path) -> tuple[AdapterFile, AdapterWeights]:
    """The adapter that lies in `folder`. Raises EngineError."""
    return read_adapter_config(folder), read_adapter_weights(folder / ADAPTER_WEIGHTS_FILE)


def read_adapter_weights(path: Path) -> AdapterWeights:
    """Tensors by name, on the CPU; raises EngineError. Other formats than safetensors are never opened."""
    try:
        return safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise EngineError(f"{path.name} of the adapter can't be read: {error}.", RETRAIN_HINT) from error


def describe_misfit(error: Exception) -> str:
    """What does not fit, in one line: of longer ones the first weight that they name."""
    lines = [line.strip() for line in (str(error).strip() or repr(error)).splitlines()]
    return next((line for line in lines if line.startswith("size mismatch")), lines[0])[:300].rstrip(".:")


def pop_base_biases(weights: AdapterWeights, chosen: AdapterFile) -> AdapterWeights:
    """Remove the base's own biases from `weights` and return them by the base's parameter names."""
    saved_whole = tuple(f".{module}.bias" for module in chosen.modules_to_save or ())
    names = [
        key for key in weights
        if key.endswith(".bias") and ".lora_" not in key and not (saved_whole and key.endswith(saved_whole))
    ]  # fmt: skip
    return {name.removeprefix(PEFT_PREFIX).replace(".base_layer.bias", ".bias"): weights.pop(name) for name in names}


def adapter_from_training(config: Config, trained: Mapping[str, torch.Tensor]) -> tuple[AdapterFile, AdapterWeights]:
    """(settings, weights under an adapter's own names) of what a training has as `trained`. Raises EngineError."""
    plain = {_saved_name(name): weight for name, weight in trained.items()}
    given = {
        name: value for name, value in library_arguments.lora_args(config).items() if name in AdapterFile.model_fields
    }
    given.update(
        peft_type="LORA", target_modules=_modules_marked(trained, r"\.lora_(?:A|embedding_A)\."),
        modules_to_save=_modules_marked(trained, r"\.modules_to_save\.") or None, layers_to_transform=None, layers_pattern=None,
    )  # fmt: skip
    try:
        return AdapterFile.model_validate(given), plain
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise EngineError(f"The checkpoint is not one of a plain LoRA adapter: {reason}.", RETRAIN_HINT) from error


def _saved_name(name: str) -> str:
    name = name.replace(f".modules_to_save.{PEFT_ADAPTER_NAME}.", ".")
    return re.sub(rf"(\.lora_(?:embedding_)?[AB])\.{PEFT_ADAPTER_NAME}(?=\.|$)", r"\1", name)


def _modules_marked(names: Mapping[str, Any], mark: str) -> list[str]:
    """The modules, by their full names in the base, whose weights bear this mark."""
    parts = (re.split(mark, name.removeprefix(PEFT_PREFIX), maxsplit=1) for name in names)
    return sorted({found[0] for found in parts if len(found) == 2})
