"""One base model with any number of adapters: attach them and switch between them.

Without an adapter the base model answers bit for bit as if none had ever been attached. Adapters of an fp32 base are
merged into the weights while they are selected (unmerged, a token takes 26 to 56 % longer), and copies of the original
weights undo that exactly. Half-precision and quantized bases are not merged, because merging would round their weights.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora.layer import LoraLayer
from peft.utils.save_and_load import set_peft_model_state_dict
from transformers import PreTrainedModel

from toolkit.errors import EngineError
from toolkit.runs.model_names import BASE
from toolkit.system.machine import free_memory_bytes
from toolkit.worker.models.adapter_files import (
    ADAPTER_WEIGHTS_FILE,
    read_adapter_dtypes,
    read_checked_config,
    saved_weight_name,
)
from toolkit.worker.models.adapter_settings import (
    RETRAIN_HINT,
    AdapterFile,
    AdapterWeights,
    TokenRows,
    pop_base_values,
    pop_token_rows,
)

COPY_SHARE = 0.5
"""Share of the free memory that copies of merged weights may take: the rest is for the answers."""


def load_trained_adapter(base: PreTrainedModel, folder: Path) -> PeftModel:
    """Return `base` with the adapter in `folder` in PEFT's own layers, ready to answer or to be merged.

    `base` is changed in place. Raises EngineError.
    """
    config = _peft_config(read_checked_config(folder))
    try:
        with warnings.catch_warnings():
            # PEFT only warns, and would answer with the random numbers that it began with
            warnings.filterwarnings("error", message="Found missing adapter keys")
            return PeftModel.from_pretrained(base, str(folder), config=config, local_files_only=True).eval()
    except (ValueError, RuntimeError, KeyError, AttributeError, UserWarning) as error:
        raise _misfit(error) from error


def load_adapter_as_trained(base: PreTrainedModel, folder: Path) -> PeftModel:
    """Return `base` with the adapter in `folder`, which computes in the precision of its files: that of training.

    PEFT loads every adapter in float32, but TRL trains the adapter of a quantized base in bfloat16, and the answers of
    the two differ. `base` is changed in place. Raises EngineError.
    """
    peft = load_trained_adapter(base, folder)
    dtypes = read_adapter_dtypes(folder / ADAPTER_WEIGHTS_FILE)
    for name, parameter in peft.named_parameters():
        dtype = dtypes.get(saved_weight_name(name))
        if dtype is not None:
            parameter.data = parameter.data.to(dtype)
    return peft


def _misfit(error: Exception) -> EngineError:
    """Return the error to show for one of PEFT's: in one line, the first weight that it names."""
    lines = [line.strip() for line in (str(error).strip() or repr(error)).splitlines()]
    first = next((line for line in lines if line.startswith("size mismatch")), lines[0])[:300].rstrip(".:")
    return EngineError(f"The adapter does not fit this base model: {first}.", RETRAIN_HINT)


def _peft_config(chosen: AdapterFile, **other: Any) -> LoraConfig:
    values = {**chosen.model_dump(exclude={"peft_type"}), **other}
    return LoraConfig(task_type="CAUSAL_LM", **values)


class AdapterSwitch:
    """The adapters of `model` by name; `select` decides whether `model` computes one of them or BASE."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.names: list[str] = []
        self.selected: str | None = BASE
        self.merged = False
        self._peft: PeftModel | None = None
        self._values: dict[str, dict[str, torch.Tensor]] = {}
        self._rows: dict[str, TokenRows] = {}
        self._kept_rows: list[tuple[torch.nn.Parameter, list[int], torch.Tensor]] = []
        self._wrapped: list[tuple[torch.nn.Module, str, LoraLayer]] = []
        self._kept: dict[torch.nn.Parameter, torch.Tensor] = {}
        self._changed: list[torch.nn.Parameter] = []

    def attach(self, name: str, chosen: AdapterFile, weights: AdapterWeights) -> None:
        """Add an adapter, or replace the one of that name. Raises EngineError and keeps the others."""
        values, rows = pop_base_values(weights, chosen), pop_token_rows(weights, chosen)
        # `select` sets values of the base: PEFT allows biases for one adapter only, and restores nothing; of two
        # adapters that train the same token it takes neither
        config = _peft_config(chosen, bias="none", trainable_token_indices=None, inference_mode=True)
        self._restore_base()
        self.selected = None
        if name in self.names:
            self._remove(name)
        try:
            changed = self._changed_values(values)
            self._check_rows(rows, expected=chosen.trainable_token_indices is not None)
            self._insert(name, config, weights)
            self._values[name], self._rows[name] = changed, rows
        except (ValueError, RuntimeError, KeyError, AttributeError) as error:
            self._remove(name)
            raise _misfit(error) from error
        self.names.append(name)

    def _changed_values(self, values: AdapterWeights) -> AdapterWeights:
        """Return those that differ from the base's own: peft saves targeted embeddings even if they did not change."""
        changed = {}
        for key, value in values.items():
            own = self.model.get_parameter(_parameter_path(self.model, key))
            if own.shape != value.shape:
                raise ValueError(f"{key} has a different shape")
            if not torch.equal(own.detach().cpu(), value.to(own.dtype)):
                changed[key] = value
        return changed

    def _check_rows(self, rows: TokenRows, *, expected: bool) -> None:
        weights = [self.model.get_parameter(_parameter_path(self.model, key)) for key in rows]
        if (expected and not rows) or len({*map(id, weights)}) < len(weights):
            raise ValueError("the rows of its tokens are missing, or there are two for one weight")
        for weight, (ids, values) in zip(weights, rows.values(), strict=True):
            if values.shape != (len(ids), weight.shape[-1]) or max(ids) >= len(weight):
                raise ValueError("the rows of its tokens have a different shape")

    def _insert(self, name: str, config: LoraConfig, weights: AdapterWeights) -> None:
        if self._peft is None:
            self._peft = PeftModel(self.model, config, adapter_name=name)
        else:
            self._peft.add_adapter(name, config)
        # what is there already under the name of a file belongs to the base or to another adapter
        foreign = sorted(weights.keys() & self._peft.state_dict().keys())
        if foreign:
            raise ValueError(f"{len(foreign)} weights are not its own, for example {foreign[0]}")
        result = set_peft_model_state_dict(self._peft, weights, adapter_name=name)
        missing = [key for key in result.missing_keys if f".{name}." in key or key.endswith(f".{name}")]
        wrong = [*result.unexpected_keys, *missing]
        if wrong:
            raise ValueError(f"{len(wrong)} weights are missing or unknown, for example {wrong[0]}")
        self._peft.eval()
        self._wrapped = [
            (parent, child_name, child)
            for parent in self.model.modules()
            for child_name, child in parent.named_children()
            if isinstance(child, LoraLayer)
        ]

    def _remove(self, name: str) -> None:
        self.names = [other for other in self.names if other != name]
        self._values.pop(name, None)
        self._rows.pop(name, None)
        if self._peft is not None and name in self._peft.peft_config:
            self._peft.delete_adapter(name)

    def select(self, name: str) -> None:
        """Make `model` compute adapter `name` or BASE. Takes milliseconds, and nothing if it is selected already."""
        if name != self.selected:
            with torch.no_grad():
                self._switch_to(name)

    def _switch_to(self, name: str) -> None:
        # nothing is selected while the weights change: after an error half-way, the next call starts anew
        self.selected, self.merged = None, False
        self._restore_base()
        if self._peft is not None and name == BASE:
            self._peft.base_model.disable_adapter_layers()
            self._unwrap()
        elif self._peft is not None:
            self._peft.base_model.enable_adapter_layers()
            self._peft.set_adapter(name)
            for key, value in self._values[name].items():
                self._writable_data(self.model.get_parameter(_parameter_path(self.model, key))).copy_(value)
            for key, (ids, rows) in self._rows[name].items():
                weight = self.model.get_parameter(_parameter_path(self.model, key))
                self._kept_rows.append((weight, ids, weight.data[ids].clone()))
                weight.data[ids] = rows.to(weight)
            self.merged = self._merge(name)
        self.selected = name

    def _restore_base(self) -> None:
        """Put the wrappers back, unmerged, and restore the base's own weights bit for bit from the copies."""
        for parent, child_name, layer in self._wrapped:
            setattr(parent, child_name, layer)
            layer.merged_adapters.clear()
        for parameter, ids, rows in self._kept_rows:
            parameter.data[ids] = rows
        for parameter in self._changed:
            parameter.data.copy_(self._kept[parameter])
        self._kept_rows.clear()
        self._changed.clear()

    def _unwrap(self) -> None:
        for parent, child_name, layer in self._wrapped:
            setattr(parent, child_name, layer.get_base_layer())  # wrappers of experts are nested

    def _writable_data(self, parameter: torch.nn.Parameter) -> torch.Tensor:
        """Return the data of a parameter of the base after keeping a copy of its original values."""
        if parameter not in self._kept:
            self._kept[parameter] = parameter.detach().clone()
        self._changed.append(parameter)
        return parameter.data

    def _merge(self, name: str) -> bool:
        layers = [layer for _, _, layer in self._wrapped if name in layer.lora_A or name in layer.lora_embedding_A]
        if not self._mergeable(layers):
            return False
        for layer in layers:
            self._writable_data(layer.base_layer.weight)
            layer.merge(adapter_names=[name])
        self._unwrap()
        return True

    def _mergeable(self, layers: list[LoraLayer]) -> bool:
        shared = self.model.get_input_embeddings().weight
        for layer in layers:
            if type(layer) is not LoraLinear:  # its subclasses are quantized layers
                return False
            weight = layer.base_layer.weight
            # a merge into a weight that the input embeddings share would change those as well
            if weight.dtype != torch.float32 or weight.device.type == "meta" or weight is shared:
                return False
        uncopied = [w for w in (layer.base_layer.weight for layer in layers) if w not in self._kept]
        return bool(sum(w.nbytes for w in uncopied) <= COPY_SHARE * _free_memory(self.model.device))


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_memory_bytes()


def _parameter_path(model: PreTrainedModel, name: str) -> str:
    """Return the current name of a parameter: its module may be wrapped in a LoRA layer."""
    module, _, leaf = name.rpartition(".")
    return f"{module}.base_layer.{leaf}" if isinstance(model.get_submodule(module), LoraLayer) else name
