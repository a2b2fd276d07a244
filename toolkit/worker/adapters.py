"""One base model and any number of its adapters: attach, and switch between them.

An adapter is data: its config is read by a model of our own, known keys only, and its weights are safetensors. Asked
without an adapter, the base answers bit for bit as if none had ever been attached. Full-precision adapters are merged
into the weights while selected (unmerged ones cost 26-56 % a token), and copies of the originals undo that exactly;
half-precision and quantized bases stay unmerged, where merging would round. Knows no run, no prompt and no HTTP.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import psutil
import safetensors.torch
import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora.layer import LoraLayer
from peft.utils.save_and_load import set_peft_model_state_dict
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from transformers import PreTrainedModel

from toolkit.errors import EngineError
from toolkit.worker.payload import BASE

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
MAX_CONFIG_BYTES = 1_000_000
COPY_SHARE = 0.5  # of the free memory: what copies of merged weights may take
PREFIX = "base_model.model."
RETRAIN = "Train it again, or choose another run."

Names = Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=10_000)]


class AdapterFile(BaseModel):
    """What is taken from adapter_config.json. The base model and everything else come from the run's own config."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    peft_type: Annotated[str, Field(pattern="^LORA$")]
    r: Annotated[int, Field(ge=1, le=65536)]
    lora_alpha: Annotated[int | float, Field(ge=0, le=1e6)]
    target_modules: Names
    bias: Annotated[str, Field(pattern="^(none|all|lora_only)$")] = "none"
    fan_in_fan_out: bool = False
    use_rslora: bool = False
    modules_to_save: Names | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: Annotated[str, Field(max_length=200)] | Names | None = None
    ensure_weight_tying: bool = False


# say where an adapter came from or how its training began: no effect on what it answers, never handed on
UNREAD = {
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "lora_dropout", "init_lora_weights", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
    "megatron_config", "megatron_core", "qalora_group_size", "runtime_config",
}  # fmt: skip


def read_config(folder: Path) -> AdapterFile:
    """The checked adapter_config.json of `folder`; raises EngineError for anything but a plain LoRA adapter."""
    path = folder / CONFIG
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise EngineError(f"{CONFIG} of the adapter is larger than 1 MB.", RETRAIN)
        given = json.loads(path.read_bytes())
        chosen = {name: value for name, value in given.items() if name not in UNREAD}
        for name in set(chosen) - set(AdapterFile.model_fields):
            if chosen.pop(name):
                raise EngineError(f"{CONFIG} of the adapter sets '{name}', which is not supported here.", RETRAIN)
        return AdapterFile.model_validate(chosen)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise EngineError(f"{CONFIG} of the adapter has a wrong '{name}': {first['msg']}.", RETRAIN) from error
    except (OSError, ValueError, AttributeError) as error:
        raise EngineError(f"{CONFIG} of the adapter can't be read: {error}.", RETRAIN) from error


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Tensors by name, on the CPU; raises EngineError. Other formats than safetensors are never opened."""
    try:
        return safetensors.torch.load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise EngineError(f"{WEIGHTS} of the adapter can't be read: {error}.", RETRAIN) from error


def trained(base: PreTrainedModel, folder: Path) -> PeftModel:
    """`base` with the adapter in `folder`, as training left it: PEFT's own layers, ready to answer or to be merged.

    Raises EngineError. `base` is edited in place.
    """
    config = _peft_config(read_config(folder))
    if not (folder / WEIGHTS).is_file():  # PEFT would look for a pickle instead
        raise EngineError(f"The adapter has no {WEIGHTS}.", RETRAIN)
    return PeftModel.from_pretrained(base, str(folder), config=config, local_files_only=True).eval()


def _peft_config(chosen: AdapterFile, **other: Any) -> LoraConfig:
    values = {**chosen.model_dump(exclude={"peft_type"}), **other}
    return LoraConfig(task_type="CAUSAL_LM", **values)


class Adapters:
    """The adapters of `model`, by name; `select` makes one of them, or BASE, what `model` computes."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.names: list[str] = []
        self.selected: str | None = BASE
        self.merged = False
        self._peft: PeftModel | None = None
        self._biases: dict[str, dict[str, torch.Tensor]] = {}
        self._wrapped: list[tuple[torch.nn.Module, str, LoraLayer]] = []
        self._kept: dict[torch.nn.Parameter, torch.Tensor] = {}
        self._changed: list[torch.nn.Parameter] = []

    def attach(self, name: str, folder: Path) -> None:
        """Add the adapter in `folder`, in place of one of that name; raises EngineError and leaves the others."""
        chosen = read_config(folder)
        weights = read_weights(folder)
        biases = _take_biases(weights, chosen)
        # biases of the base are set by `select`: PEFT allows them to one adapter only, and does not put them back
        config = _peft_config(chosen, bias="none", inference_mode=True)
        self._as_trained()
        self.selected = None
        if name in self.names:
            self._remove(name)
        try:
            for key, value in biases.items():
                if self.model.get_parameter(key).shape != value.shape:
                    raise ValueError(f"{key} has another shape")
            self._insert(name, config, weights)
            self._biases[name] = biases
        except (ValueError, RuntimeError, KeyError, AttributeError) as error:
            self._remove(name)
            reason = str(error).strip().splitlines()[0][:300]
            raise EngineError(f"The adapter does not fit this base model: {reason}", RETRAIN) from error
        self.names.append(name)

    def _insert(self, name: str, config: LoraConfig, weights: dict[str, torch.Tensor]) -> None:
        if self._peft is None:
            self._peft = PeftModel(self.model, config, adapter_name=name)
        else:
            self._peft.add_adapter(name, config)
        result = set_peft_model_state_dict(self._peft, weights, adapter_name=name)
        missing = [key for key in result.missing_keys if f".{name}." in key or key.endswith(f".{name}")]
        wrong = [*result.unexpected_keys, *missing]
        if wrong:
            raise ValueError(f"{len(wrong)} weights are missing or have no place, e.g. {wrong[0]}")
        self._peft.eval()
        self._wrapped = [
            (parent, child_name, child)
            for parent in self.model.modules()
            for child_name, child in parent.named_children()
            if isinstance(child, LoraLayer)
        ]

    def _remove(self, name: str) -> None:
        self.names = [other for other in self.names if other != name]
        self._biases.pop(name, None)
        if self._peft is not None and name in self._peft.peft_config:
            self._peft.delete_adapter(name)

    @torch.no_grad()
    def select(self, name: str) -> None:
        """Make `name` answer. Costs nothing when it already does; else milliseconds."""
        if name == self.selected:
            return
        self.selected, self.merged = None, False
        self._as_trained()
        if self._peft is not None and name == BASE:
            self._peft.base_model.disable_adapter_layers()
            self._unwrap()
        elif self._peft is not None:
            self._peft.base_model.enable_adapter_layers()
            self._peft.set_adapter(name)
            for key, value in self._biases[name].items():
                self._change(self.model.get_parameter(_where(self.model, key))).copy_(value)
            self.merged = self._merge(name)
        self.selected = name

    def _as_trained(self) -> None:
        """Wrappers in their places, nothing merged, the base's own values: bit for bit, from the copies."""
        for parent, child_name, layer in self._wrapped:
            setattr(parent, child_name, layer)
            layer.merged_adapters.clear()
        for parameter in self._changed:
            parameter.data.copy_(self._kept[parameter])
        self._changed.clear()

    def _unwrap(self) -> None:
        for parent, child_name, layer in self._wrapped:
            setattr(parent, child_name, layer.base_layer)

    def _change(self, parameter: torch.nn.Parameter) -> torch.Tensor:
        if parameter not in self._kept:
            self._kept[parameter] = parameter.detach().clone()
        self._changed.append(parameter)
        return parameter.data

    def _merge(self, name: str) -> bool:
        layers = [layer for _, _, layer in self._wrapped if name in layer.lora_A or name in layer.lora_embedding_A]
        if not self._mergeable(layers):
            return False
        for layer in layers:
            self._change(layer.base_layer.weight)
            layer.merge(adapter_names=[name])
        self._unwrap()
        return True

    def _mergeable(self, layers: list[LoraLayer]) -> bool:
        shared = self.model.get_input_embeddings().weight
        for layer in layers:
            if type(layer) is not LoraLinear:  # its subclasses are quantized layers
                return False
            weight = layer.base_layer.weight
            if weight.dtype != torch.float32 or weight.device.type == "meta" or weight is shared:
                return False
        fresh = [w for w in (layer.base_layer.weight for layer in layers) if w not in self._kept]
        return sum(w.nbytes for w in fresh) <= COPY_SHARE * _free_memory(self.model.device)


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _take_biases(weights: dict[str, torch.Tensor], chosen: AdapterFile) -> dict[str, torch.Tensor]:
    """Remove the base's own biases from `weights` and return them by the base's parameter names."""
    saved_whole = tuple(f".{module}.bias" for module in chosen.modules_to_save or ())
    names = [
        key for key in weights
        if key.endswith(".bias") and ".lora_" not in key and not (saved_whole and key.endswith(saved_whole))
    ]  # fmt: skip
    return {name.removeprefix(PREFIX).replace(".base_layer.bias", ".bias"): weights.pop(name) for name in names}


def _where(model: PreTrainedModel, name: str) -> str:
    """The present name of a parameter: a wrapper may stand around its module."""
    module, _, leaf = name.rpartition(".")
    return f"{module}.base_layer.{leaf}" if isinstance(model.get_submodule(module), LoraLayer) else name
