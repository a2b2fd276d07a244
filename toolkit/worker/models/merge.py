"""Merge an adapter into its base model: each weight is summed in float32 and rounded once to the requested precision.

A quantized base is first dequantized to the numbers that training computed with, because the adapter was trained on
those and not on the original ones. An unquantized base is merged on the CPU, since a GPU may be busy training.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.utils.integrations import dequantize_module_weight
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from toolkit.config import Config
from toolkit.errors import ToolkitError
from toolkit.runs.run_dir import RunDir
from toolkit.settings.device_defaults import ComputeDevice
from toolkit.system.foreign_files import find_weight_files
from toolkit.system.machine import free_memory_bytes
from toolkit.system.printable import format_bytes
from toolkit.worker.models import load
from toolkit.worker.models.adapter_switch import load_adapter_as_trained, load_trained_adapter
from toolkit.worker.models.folder import is_prequantized

MERGE_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
MERGE_MEMORY_FACTOR = 1.25
"""Free memory that a merge needs, as a multiple of the weights: the loaded model and its largest layer in float32."""
PREQUANTIZED_GROWTH = 4
"""How many times larger weights in 4 bits are in 16 bits; those in 8 bits grow less."""


def load_merged_model(run: RunDir, config: Config, folder: Path, dtype: str) -> PreTrainedModel:
    """Return the run's model with the adapter merged into its weights.

    folder: of the base model. dtype: a key of MERGE_DTYPES. Raises ToolkitError if memory is short or the weights can't
    be merged.
    """
    _refuse_without_memory(folder, dtype)
    base = load_base_as_trained(config, folder)
    peft = load_trained_adapter(base, run.adapter_dir)
    _refuse_shared(peft, config)
    return merge_adapter(peft, MERGE_DTYPES[dtype])


def load_base_as_trained(config: Config, folder: Path) -> PreTrainedModel:
    """Return the base model as in training if it is quantized, else in the precision of its files, on the CPU."""
    if config.model.quantize or is_prequantized(folder):
        return load.load_base_model(config, folder=folder).eval()
    on_cpu = config.model_copy(update={"model": config.model.model_copy(update={"device_map": "cpu"})})
    return load.load_base_model(on_cpu, ComputeDevice(), folder, dtype="auto").eval()


def load_unmerged_model(run: RunDir, config: Config, folder: Path) -> PeftModel | None:
    """Return base and adapter next to each other, the base dequantized and in float32; None if memory is short.

    That is the exact form of what a merge rounds. The adapter keeps the precision in which it was trained.
    """
    if _needed_memory(folder, "float32") > free_memory_bytes():
        return None
    if config.model.quantize or is_prequantized(folder):
        base = load.load_base_model(config, folder=folder).eval()
        _dequantize_layers(base, torch.float32)
        base = base.to(torch.float32)
    else:
        base = load.load_base_model(config, folder=folder, dtype="float32").eval()
    return load_adapter_as_trained(base, run.adapter_dir)


def convert_base_weights(peft: PeftModel, dtype: torch.dtype) -> None:
    """Convert all weights but the adapter's, in place. Buffers stay, as when a model is loaded so."""
    for name, parameter in peft.named_parameters():
        if parameter.is_floating_point() and ".lora_" not in name:
            parameter.data = parameter.data.to(dtype)


def round_matrices(peft: PeftModel, round_weights: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
    """Round the base model's matrices in place, by a function of a weight's name in the base model and its values.

    In blocks a weight is rounded as coarsely as its largest neighbor, to which an adapter adds. So a layer with an
    adapter gets the error that rounding makes of their sum, and the adapter stays next to it.
    """
    name, done = str(peft.active_adapter), set()
    with torch.no_grad():
        for path, layer in list(peft.named_modules()):
            if not isinstance(layer, LoraLayer) or isinstance(layer, ParamWrapper):
                continue
            if name in layer.lora_A or name in layer.lora_embedding_A:
                merged = _merge_layer(layer, name)
                weight = layer.get_base_layer().weight
                weight.data = weight.data + round_weights(_name_in_base(f"{path}.weight"), merged) - merged
                done.add(id(weight))
        for path, tokens in _list_token_layers(peft):
            weight, rows = _merge_token_rows(tokens, name, torch.float32), tokens.trainable_tokens_delta[name]
            weight.data = round_weights(_name_in_base(f"{path}.weight"), weight.data)
            rows.data = weight.data[tokens.token_indices[name]]
            done |= {id(weight), id(rows)}
        for path, parameter in peft.named_parameters():
            if parameter.dim() == 2 and ".lora_" not in path and id(parameter) not in done:
                parameter.data = round_weights(_name_in_base(path), parameter.data)


def _name_in_base(path: str) -> str:
    return path.removeprefix("base_model.model.").replace(".token_adapter.", ".").replace(".base_layer.", ".")


def merge_adapter(peft: PeftModel, dtype: torch.dtype) -> PreTrainedModel:
    """Merge the adapter into the weights and convert all of them to `dtype`. Raises ToolkitError for an overflow."""
    with torch.no_grad():
        return _merge_weights(peft, dtype)


def _merge_weights(peft: PeftModel, dtype: torch.dtype) -> PreTrainedModel:
    name = str(peft.active_adapter)
    for _, tokens in _list_token_layers(peft):
        _merge_token_rows(tokens, name, dtype)
    for layer in [part for part in peft.modules() if isinstance(part, LoraLayer)]:
        if name not in layer.lora_A and name not in layer.lora_embedding_A:
            continue
        if isinstance(layer, ParamWrapper):
            _merge_parameter(layer, name, dtype)
            continue
        merged = _merge_layer(layer, name)
        layer.base_layer = _replace_weight(layer.get_base_layer(), merged.to(dtype))
    model = peft.base_model.unload()
    _dequantize_layers(model, dtype)  # those without an adapter
    model = model.to(dtype)
    for weight_name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            message = f"{weight_name} has values that are too large for {str(dtype).removeprefix('torch.')}."
            raise ToolkitError(message, "Export it as bf16.")
    return model


def _list_token_layers(peft: PeftModel) -> list[tuple[str, TrainableTokensLayer]]:
    """Return the embeddings of which an adapter trains some rows; an output layer that shares the weight follows."""
    named = [(path, part) for path, part in peft.named_modules() if isinstance(part, TrainableTokensLayer)]
    return [(path, part) for path, part in named if part.tied_adapter is None]


def _merge_token_rows(layer: TrainableTokensLayer, name: str, dtype: torch.dtype) -> nn.Parameter:
    """Write the trained rows into the weight, in place: an output layer may share it. Return the weight."""
    weight: nn.Parameter = layer.get_base_layer().weight
    weight.data = weight.data.to(dtype, copy=True)
    weight.data[layer.token_indices[name]] = layer.trainable_tokens_delta[name].to(dtype)
    return weight


def _merge_layer(layer: LoraLayer, name: str) -> torch.Tensor:
    """Return the merged weight of a layer in float32."""
    plain = layer.get_base_layer()
    weight = dequantize_module_weight(plain).float()
    variant = layer.lora_variant.get(name)
    if variant is None:
        return weight + layer.get_delta_weight(name).float()
    layer.base_layer = _replace_weight(plain, weight)  # DoRA needs the norm of the base's weight
    merged: torch.Tensor = variant.merge_safe(layer, name, weight).float()
    return merged


def _merge_parameter(layer: ParamWrapper, name: str, dtype: torch.dtype) -> None:
    """Merge the adapter of one parameter, such as the tensor of all experts, in place."""
    owner = layer.get_base_layer()
    weight = getattr(owner, layer.parameter_name).float()
    setattr(owner, layer.parameter_name, nn.Parameter(weight, requires_grad=False))  # the sum is made in its precision
    merged = (weight + layer.get_delta_weight(name)).to(dtype)
    setattr(owner, layer.parameter_name, nn.Parameter(merged, requires_grad=False))


def _dequantize_layers(model: PreTrainedModel, dtype: torch.dtype) -> None:
    with torch.no_grad():
        for path, part in list(model.named_modules()):
            if _is_quantized(part):
                model.set_submodule(path, _replace_weight(part, dequantize_module_weight(part).to(dtype)))
    _remove_quantization_marks(model)


def _replace_weight(plain: nn.Module, weight: torch.Tensor) -> nn.Module:
    """Return the layer with another weight; a quantized layer becomes the layer that it was before."""
    if not _is_quantized(plain):
        plain.weight = nn.Parameter(weight, requires_grad=False)
        return plain
    with torch.device("meta"):
        # GPT-2's Conv1D has its weight transposed, and bitsandbytes' layers do not: [in, out] and [out, in]
        transposed = issubclass(getattr(plain, "source_cls", nn.Linear), Conv1D)
        outputs, inputs = weight.shape
        fresh = Conv1D(outputs, inputs) if transposed else nn.Linear(inputs, outputs, bias=plain.bias is not None)
    fresh.weight = nn.Parameter(weight.T.contiguous() if transposed else weight, requires_grad=False)
    if plain.bias is not None:
        fresh.bias = plain.bias
    return fresh


def _is_quantized(part: nn.Module) -> bool:
    return type(part).__name__ in ("Linear4bit", "Linear8bitLt")


def _remove_quantization_marks(model: PreTrainedModel) -> None:
    """Remove the marks of quantization, as transformers' own `dequantize` does: with them, saving and casting fail."""
    # these loaded quantized weights and can't be reversed; those of the architecture itself stay
    conversions = getattr(model, "_weight_conversions", None)
    if conversions:
        model._weight_conversions = [entry for entry in conversions if not _loads_quantized_weights(entry)]
    marks = [(model.config, "quantization_config"), (model, "hf_quantizer"), (model, "quantization_method")]
    for owner, name in marks:
        if hasattr(owner, name):
            delattr(owner, name)
    for name in ("is_quantized", "is_loaded_in_4bit", "is_loaded_in_8bit"):
        if getattr(model, name, False):
            setattr(model, name, False)


def _loads_quantized_weights(conversion: Any) -> bool:
    operations = getattr(conversion, "operations", None) or []
    return any(type(operation).__module__.endswith(".bitsandbytes") for operation in operations)


def _refuse_shared(peft: PeftModel, config: Config) -> None:
    shared = peft.get_base_model().get_input_embeddings()
    tied = bool(getattr(peft.config, "tie_word_embeddings", False)) if hasattr(peft, "config") else False
    if tied and isinstance(shared, LoraLayer):
        name = config.model.hf_model_ckpt
        message = f"In '{name}' embeddings and output share one weight, but this adapter changes the embeddings only."
        raise ToolkitError(message, "A merge would change both. Export the adapter instead.")


def _refuse_without_memory(folder: Path, dtype: str) -> None:
    needed, free = _needed_memory(folder, dtype), free_memory_bytes()
    if needed > free:
        message = f"Merging needs about {format_bytes(needed)} of memory, but only {format_bytes(free)} are free."
        raise ToolkitError(message, "Close other programs, or export the adapter alone.")


def _needed_memory(folder: Path, dtype: str) -> float:
    on_disk = sum(path.stat().st_size for path in find_weight_files(folder))
    growth = PREQUANTIZED_GROWTH if is_prequantized(folder) else 1
    return on_disk * MERGE_MEMORY_FACTOR * growth * (2 if dtype == "float32" else 1)
