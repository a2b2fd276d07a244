"""One base model and any number of its adapters: attach, and switch between them.

Asked without an adapter, the base answers bit for bit as if none had ever been attached. Full-precision adapters are
merged into the weights while selected (unmerged ones cost 26-56 % a token), and copies of the originals undo that
exactly; half-precision and quantized bases stay unmerged, where merging would round. What an adapter's files may hold
is `adapter_file.py`'s. Knows no run, no prompt and no HTTP.
"""

from __future__ import annotations

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
    RETRAIN_HINT,
    AdapterFile,
    AdapterWeights,
    describe_misfit,
    pop_base_biases,
    read_adapter_config,
)

COPY_SHARE = 0.5  # of the free memory: what copies of merged weights may take


def load_trained_adapter(base: PreTrainedModel, folder: Path) -> PeftModel:
    """`base` with the adapter in `folder`, as training left it: PEFT's own layers, ready to answer or to be merged.

    Raises EngineError. `base` is edited in place.
    """
    config = _peft_config(read_adapter_config(folder))
    if not (folder / ADAPTER_WEIGHTS_FILE).is_file():  # PEFT would look for a pickle instead
        raise EngineError(f"The adapter has no {ADAPTER_WEIGHTS_FILE}.", RETRAIN_HINT)
    return PeftModel.from_pretrained(base, str(folder), config=config, local_files_only=True).eval()


def _peft_config(chosen: AdapterFile, **other: Any) -> LoraConfig:
    values = {**chosen.model_dump(exclude={"peft_type"}), **other}
    return LoraConfig(task_type="CAUSAL_LM", **values)


class AdapterSwitch:
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

    def attach(self, name: str, chosen: AdapterFile, weights: AdapterWeights) -> None:
        """Add an adapter, in place of one of that name; raises EngineError and leaves the others."""
        biases = pop_base_biases(weights, chosen)
        # biases of the base are set by `select`: PEFT allows them to one adapter only, and does not put them back
        config = _peft_config(chosen, bias="none", inference_mode=True)
        self._restore_base()
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
            raise EngineError(
                f"The adapter does not fit this base model: {describe_misfit(error)}.", RETRAIN_HINT
            ) from error
        self.names.append(name)

    def _insert(self, name: str, config: LoraConfig, weights: AdapterWeights) -> None:
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
        self._restore_base()
        if self._peft is not None and name == BASE:
            self._peft.base_model.disable_adapter_layers()
            self._unwrap()
        elif self._peft is not None:
            self._peft.base_model.enable_adapter_layers()
            self._peft.set_adapter(name)
            for key, value in self._biases[name].items():
                self._writable_data(self.model.get_parameter(_parameter_path(self.model, key))).copy_(value)
            self.merged = self._merge(name)
        self.selected = name

    def _restore_base(self) -> None:
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

    def _writable_data(self, parameter: torch.nn.Parameter) -> torch.Tensor:
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
            if weight.dtype != torch.float32 or weight.device.type == "meta" or weight is shared:
                return False
        fresh = [w for w in (layer.base_layer.weight for layer in layers) if w not in self._kept]
        return sum(w.nbytes for w in fresh) <= COPY_SHARE * _free_memory(self.model.device)


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_memory_bytes()


def _parameter_path(model: PreTrainedModel, name: str) -> str:
    """The present name of a parameter: a wrapper may stand around its module."""
    module, _, leaf = name.rpartition(".")
    return f"{module}.base_layer.{leaf}" if isinstance(model.get_submodule(module), LoraLayer) else name
