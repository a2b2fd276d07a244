"""Loading a base model and its tokenizer from a folder that `model_folder.py` has found and not refused.

Safetensors weights only, no remote code. Knows no dataset and no run directory.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import is_flash_attn_2_available
from transformers.utils.import_utils import is_liger_kernel_available

from toolkit.config import Config
from toolkit.errors import ToolkitError
from toolkit.settings.device_defaults import ComputeDevice
from toolkit.worker.models import library_arguments
from toolkit.worker.models.folder import (
    BAD_MODEL,
    first_error_line,
    resolve_model_folder,
)

_LOAD_ERRORS = (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError, SafetensorError)


def detect_compute_device(config: Config, processes: int = 1) -> ComputeDevice:
    """Where this process computes: the first visible GPU unless the device map says cpu."""
    if not torch.cuda.is_available() or config.model.device_map == "cpu":
        return ComputeDevice(processes=processes)
    capability = torch.cuda.get_device_capability()
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)  # older GPUs take the numbers, and crawl
    flash, liger = is_flash_attn_2_available(), is_liger_kernel_available()
    return ComputeDevice(True, capability, bf16, processes, flash, liger, torch.cuda.device_count())


def load_tokenizer(config: Config, folder: Path | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of `folder` (default: the config's base model), with a pad token.

    Padding may share EOS: labels and attention are masked by length, never by token (a test holds it).
    """
    where = folder or resolve_model_folder(config)
    with explain_load_errors(config.model.hf_model_ckpt):
        tokenizer = AutoTokenizer.from_pretrained(str(where), trust_remote_code=False, local_files_only=True)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base_model(
    config: Config, where: ComputeDevice | None = None, folder: Path | None = None, *, dtype: str = ""
) -> PreTrainedModel:
    """The base model, quantized if the config says so, in the precision that bf16 / fp16 ask for (fp32 otherwise).

    dtype: "auto" keeps the precision of the files instead. Raises ToolkitError in the user's words for everything that
    a wrong or broken model can cause.
    """
    where = where or detect_compute_device(config)
    arguments = library_arguments.model_load_args(config, where)
    arguments["dtype"] = dtype or getattr(torch, arguments["dtype"])
    quantization = library_arguments.quantization_args(config)
    if quantization is not None:
        # one line a matrix product otherwise
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        arguments["quantization_config"] = transformers.BitsAndBytesConfig(**quantization)
    source = str(folder or resolve_model_folder(config))
    with explain_load_errors(config.model.hf_model_ckpt):
        model, found = AutoModelForCausalLM.from_pretrained(
            source, local_files_only=True, output_loading_info=True, **arguments
        )
    if missing := sorted(found["missing_keys"]):
        # the library fills them with random numbers and goes on
        message = f"The weights of '{config.model.hf_model_ckpt}' lack {len(missing)} parts, {missing[0]} for one."
        raise ToolkitError(message, "Get the model again, or choose one made for text generation.", BAD_MODEL)
    if quantization is not None:
        _copy_mapped_weights(model)
    return disable_weight_repacking(model)


def _copy_mapped_weights(model: PreTrainedModel) -> None:
    """What was not quantized may still lie in the mapped file, and keeps all of its pages in memory: copy it."""
    for parameter in model.parameters():
        if parameter.device.type == "cpu" and parameter.is_floating_point():
            parameter.data = parameter.data.clone()


def disable_weight_repacking(model: PreTrainedModel) -> PreTrainedModel:
    """Switch off the CPU repacking of 4-bit weights.

    On CPUs with AVX512-BF16 bitsandbytes 0.50 repacks them at the first forward in eval mode; from then on training
    gets wrong gradients through them, and adapters loaded later answer wrongly, both without an error.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def is_quantized(model: PreTrainedModel) -> bool:
    """Whether any layer really holds 4-bit or 8-bit weights: with offloading on a CPU none does, without an error."""
    return any(type(part).__name__ in ("Linear4bit", "Linear8bitLt") for part in model.modules())


class explain_load_errors:
    """Turns what transformers raises on a bad model into a ToolkitError; memory errors pass, explain.py knows them."""

    def __init__(self, name: str | None) -> None:
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, _LOAD_ERRORS):
            hint = "Check that it is a complete causal language model which the installed transformers supports."
            raise ToolkitError(
                f"The model '{self.name}' can't be loaded: {first_error_line(error)}.", hint, BAD_MODEL
            ) from error


def read_context_length(folder: Path) -> int | None:
    """Tokens that the model's positions allow, or None when its config does not say."""
    found = AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    value = getattr(found.get_text_config(), "max_position_embeddings", None)
    return int(value) if isinstance(value, int) else None


def quiet_libraries() -> None:
    """Fewer lines in the log, none of them errors: progress bars and advice for other users."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def stop_token_ids(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends an answer: the tokenizer's, and those that the model's generation config names."""
    own = model.generation_config.eos_token_id
    named = [own] if isinstance(own, int) else list(own or [])
    return sorted({*named, tokenizer.eos_token_id} - {None})
