"""An adapter merged into its base: each weight is summed in float32 and rounded once, to the precision asked for.

A quantized base is first put back to the numbers that training computed with; the adapter was learned on those, not
on the original ones. Always on the CPU where the base is not quantized: a GPU may be busy training. Knows no export.
"""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora.layer import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from torch import nn
from transformers import PreTrainedModel

from toolkit.config import Config
from toolkit.errors import ToolkitError
from toolkit.runs.run_dir import RunDir
from toolkit.settings.device_defaults import ComputeDevice
from toolkit.system.machine import free_memory_bytes
from toolkit.worker.models import load
from toolkit.worker.models.adapter_switch import load_trained_adapter

MERGE_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
MERGE_MEMORY_FACTOR = 1.25
"""Free memory that a merge wants, in sizes of the weights: what is loaded, and the largest layer in float32."""


def load_merged_model(run: RunDir, config: Config, folder: Path, dtype: str) -> PreTrainedModel:
    """The run's model without an adapter. folder: of its base model. Raises ToolkitError with the reason to refuse."""
    _refuse_without_memory(folder, dtype)
    base = load_base_as_trained(config, folder)
    peft = load_trained_adapter(base, run.adapter_dir)
    _refuse_shared(peft, config)
    return merge_adapter(peft, MERGE_DTYPES[dtype])


def load_base_as_trained(config: Config, folder: Path) -> PreTrainedModel:
    """The base with its own numbers: quantized as in training, else as they lie on the disk, on the CPU."""
    if config.model.quantize:
        return load.load_base_model(config, folder=folder).eval()
    on_disk = config.model_copy(update={"model": config.model.model_copy(update={"device_map": "cpu"})})
    return load.load_base_model(on_disk, ComputeDevice(), folder, dtype="auto").eval()


@torch.no_grad()
def merge_adapter(peft: PeftModel, dtype: torch.dtype) -> PreTrainedModel:
    """Take the adapter into the weights, all of them in `dtype` afterwards. Raises ToolkitError for an overflow."""
    name = str(peft.active_adapter)
    for layer in [part for part in peft.modules() if isinstance(part, LoraLayer)]:
        if name not in layer.lora_A and name not in layer.lora_embedding_A:
            continue
        plain = layer.get_base_layer()
        whole = dequantize_module_weight(plain).float() + layer.get_delta_weight(name).float()
        layer.base_layer = _replace_weight(plain, whole.to(dtype))
    found = peft.base_model.unload()
    for path, part in list(found.named_modules()):
        if _is_quantized(part):  # the layers that the adapter left alone
            found.set_submodule(path, _replace_weight(part, dequantize_module_weight(part).to(dtype)))
    _remove_quantization_marks(found)
    found = found.to(dtype)
    for weight_name, weight in found.named_parameters():
        if not torch.isfinite(weight).all():
            message = f"{weight_name} has numbers that {str(dtype).removeprefix('torch.')} can't hold."
            raise ToolkitError(message, "Export it as bf16.")
    return found


def _replace_weight(plain: nn.Module, weight: torch.Tensor) -> nn.Module:
    """`plain` with another weight; a quantized layer becomes a plain one."""
    if not _is_quantized(plain):
        plain.weight = nn.Parameter(weight, requires_grad=False)
        return plain
    fresh = nn.Linear(weight.shape[1], weight.shape[0], bias=plain.bias is not None, device="meta")
    fresh.weight = nn.Parameter(weight, requires_grad=False)
    if plain.bias is not None:
        fresh.bias = plain.bias
    return fresh


def _is_quantized(part: nn.Module) -> bool:
    return type(part).__name__ in ("Linear4bit", "Linear8bitLt")


def _remove_quantization_marks(found: PreTrainedModel) -> None:
    """What transformers' own `dequantize` takes away at its end: else saving and casting are refused."""
    for owner, name in (
        (found.config, "quantization_config"), (found, "hf_quantizer"), (found, "quantization_method"),
    ):  # fmt: skip
        if hasattr(owner, name):
            delattr(owner, name)
    for name in ("is_quantized", "is_loaded_in_4bit", "is_loaded_in_8bit"):
        if getattr(found, name, False):
            setattr(found, name, False)


def _refuse_shared(peft: PeftModel, config: Config) -> None:
    shared = peft.get_base_model().get_input_embeddings()
    tied = bool(getattr(peft.config, "tie_word_embeddings", False)) if hasattr(peft, "config") else False
    if tied and isinstance(shared, LoraLayer):
        name = config.model.hf_model_ckpt
        message = f"In '{name}' embeddings and output share one weight, and this adapter changes the embeddings alone."
        raise ToolkitError(message, "A merge would change both: export the adapter instead.")


def _refuse_without_memory(folder: Path, dtype: str) -> None:
    on_disk = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    needed = on_disk * MERGE_MEMORY_FACTOR * (2 if dtype == "float32" else 1)
    free = free_memory_bytes()
    if needed > free:
        message = f"Merging needs about {needed / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are free."
        raise ToolkitError(message, "End other programs, or export the adapter alone.")
