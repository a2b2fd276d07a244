"""Load a base model and its tokenizer from a folder that `resolve_model_folder` has checked.

Only safetensors weights are loaded, and no code of the model is executed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from peft import PeftModel
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import is_flash_attn_2_available
from transformers.utils.import_utils import is_liger_kernel_available

from toolkit.config import Config
from toolkit.errors import ToolkitError
from toolkit.settings.device_defaults import ComputeDevice
from toolkit.system.printable import format_plural
from toolkit.worker.models import library_arguments
from toolkit.worker.models.architecture import BAD_MODEL
from toolkit.worker.models.folder import first_error_line, read_model_settings, resolve_model_folder
from toolkit.worker.models.older_readers import TOKENIZER_CONFIG_FILE
from toolkit.worker.models.tokenizer_files import read_tokenizer

_LOAD_ERRORS = (
    OSError,
    ValueError,
    LookupError,
    ImportError,
    AttributeError,
    TypeError,
    SafetensorError,
    RecursionError,
    StrictDataclassError,
)
"""Errors that transformers raises for a broken or unsupported model. Memory errors are not among them."""
_VOCABULARY_SIZES: WeakKeyDictionary[PreTrainedTokenizerBase, int | None] = WeakKeyDictionary()
_SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
MAX_TOKEN_ID = 2**31
_OTHER_SIZES = "ignore_mismatched_sizes"
"""Name of an argument that transformers suggests in a RuntimeError, when a weight has another size than expected."""


def detect_compute_device(config: Config, processes: int = 1) -> ComputeDevice:
    """Return where this process computes: on the first visible GPU, unless the device map says cpu."""
    if not torch.cuda.is_available() or config.model.device_map == "cpu":
        return ComputeDevice(processes=processes)
    capability = torch.cuda.get_device_capability()
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)  # GPUs that only emulate bf16 are very slow
    flash, liger = is_flash_attn_2_available(), is_liger_kernel_available()
    return ComputeDevice(True, capability, bf16, processes, flash, liger, torch.cuda.device_count())


def load_tokenizer(config: Config, folder: Path | None = None) -> PreTrainedTokenizerBase:
    """Return the tokenizer of `folder` (default: the config's base model), with a pad token.

    The pad token may be the EOS token: labels and attention are masked by length, never by token. Raises ToolkitError.
    """
    source = folder or resolve_model_folder(config)
    with explain_load_errors(config.model.hf_model_ckpt):
        tokenizer = read_tokenizer(source, config.model.hf_model_ckpt)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        message = (
            f"The tokenizer of '{config.model.hf_model_ckpt}' is a {type(tokenizer).__name__}, which is none alone."
        )
        raise ToolkitError(message, "Choose a causal language model with a tokenizer of its own.", BAD_MODEL)
    is_model = (source / "config.json").is_file()  # an adapter's folder has none
    if is_model:
        _take_tokens_of_model(tokenizer, source)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if is_model:
        _VOCABULARY_SIZES[tokenizer] = read_vocabulary_size(source)
    return tokenizer


def _take_tokens_of_model(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Set the missing EOS token to the model's; without a tokenizer_config.json also its BOS. Words are not taken."""
    settings = read_model_settings(folder)
    for name in ("eos_token",) if (folder / TOKENIZER_CONFIG_FILE).is_file() else ("eos_token", "bos_token"):
        ids = settings.get(f"{name}_id")
        first = ids[0] if isinstance(ids, list) and ids else ids
        found = tokenizer.added_tokens_decoder.get(first) if type(first) is int else None
        if getattr(tokenizer, name) is None and found is not None and found.special:
            setattr(tokenizer, name, found.content)


def vocabulary_size_of(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the number of ids that the model of a loaded tokenizer has embeddings for, or None if it is not known."""
    return _VOCABULARY_SIZES.get(tokenizer)


def load_base_model(
    config: Config, device: ComputeDevice | None = None, folder: Path | None = None, *, dtype: str = ""
) -> PreTrainedModel:
    """Return the base model, quantized if the config says so, in the precision that bf16 and fp16 select (else fp32).

    device and folder: found by the config if they are None. dtype: "auto" keeps the precision of the files instead.
    Raises ToolkitError with a message for the user if the model is wrong or broken.
    """
    device = device or detect_compute_device(config)
    arguments = library_arguments.model_load_args(config, device)
    arguments["dtype"] = dtype or getattr(torch, arguments["dtype"])
    quantization = library_arguments.quantization_args(config)
    if quantization is not None:
        # it logs a line for each matrix product
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        arguments["quantization_config"] = transformers.BitsAndBytesConfig(**quantization)
    source = str(folder or resolve_model_folder(config))
    with explain_load_errors(config.model.hf_model_ckpt):
        model, loading_info = AutoModelForCausalLM.from_pretrained(
            source, local_files_only=True, output_loading_info=True, **arguments
        )
    if missing := sorted(loading_info["missing_keys"]):
        # the library would fill them with random numbers
        name = config.model.hf_model_ckpt
        count = format_plural(len(missing), "weight")
        message = f"The weights of '{name}' are incomplete: {count} missing, for example {missing[0]}."
        raise ToolkitError(message, "Download the model again, or choose one for text generation.", BAD_MODEL)
    if quantization is not None:
        _copy_mapped_weights(model)
    disable_router_logits(model)
    _keep_special_tokens_only(model, config.model.hf_model_ckpt)
    return disable_weight_repacking(model)


def disable_router_logits(model: PreTrainedModel) -> None:
    """Keep a mixture of experts from computing the loss of its router by itself: it fails while an answer is generated.

    Training asks for that loss in each of its own calls.
    """
    settings = model.config.get_text_config()
    if getattr(settings, "output_router_logits", False):
        settings.output_router_logits = False


def prepare_experts_for_training(base: PreTrainedModel) -> None:
    """Undo what the trainer's library sets on a mixture of experts, and name its experts as the library's loss asks."""
    disable_router_logits(base)
    settings = base.config.get_text_config()
    if not hasattr(settings, "num_experts") and hasattr(settings, "num_local_experts"):
        settings.num_experts = settings.num_local_experts


def _keep_special_tokens_only(model: PreTrainedModel, name: str | None) -> None:
    """Replace the model's generation config: `generate` would add its penalties, limits and modes to the settings."""
    found = {key: getattr(model.generation_config, key, None) for key in _SPECIAL_TOKENS}
    for key, value in found.items():
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if not all(type(one) is int and 0 <= one < MAX_TOKEN_ID for one in ids):
            message = f"The generation config of '{name}' sets {key} to {str(value)[:80]}, which is not a token id."
            raise ToolkitError(message, "Correct it in generation_config.json, or choose another model.", BAD_MODEL)
    model.generation_config = transformers.GenerationConfig(**found)


def _copy_mapped_weights(model: PreTrainedModel) -> None:
    """Copy unquantized weights out of the memory-mapped file, which would keep all of its pages in memory."""
    for parameter in model.parameters():
        if parameter.device.type == "cpu" and parameter.is_floating_point():
            parameter.data = parameter.data.clone()


def disable_weight_repacking(model: PreTrainedModel) -> PreTrainedModel:
    """Disable the CPU repacking of 4-bit weights, and return the model.

    On CPUs with AVX512-BF16, bitsandbytes 0.50 repacks them at the first forward pass in eval mode. After that,
    training computes wrong gradients through them and adapters loaded later answer wrongly, both without an error.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def is_quantized(model: PreTrainedModel) -> bool:
    """Return whether any layer has 4-bit or 8-bit weights: with offloading on a CPU none has, without an error."""
    return any(type(part).__name__ in ("Linear4bit", "Linear8bitLt") for part in model.modules())


@contextmanager
def explain_load_errors(name: str | None) -> Iterator[None]:
    """Raise a ToolkitError with a message for the user for what transformers raises inside on a bad model.

    name: of the model. Memory errors pass through: `explain_exception` has their message.
    """
    try:
        yield
    except BaseException as error:
        if _OTHER_SIZES in str(error):
            message = f"The weights of '{name}' have other sizes than its config.json says."
            raise ToolkitError(
                message, "They belong to different models. Download the model again.", BAD_MODEL
            ) from error
        # tokenizers raises a plain Exception, and a panic that is no Exception
        if not (
            isinstance(error, _LOAD_ERRORS) or type(error) is Exception or type(error).__name__ == "PanicException"
        ):
            raise
        reason = " ".join(str(error).split()) if isinstance(error, StrictDataclassError) else first_error_line(error)
        message = f"The model '{name}' can't be loaded: {reason}."
        hint = "Check that it is a complete causal language model that the installed transformers version supports."
        raise ToolkitError(message, hint, BAD_MODEL) from error


def read_context_length(folder: Path) -> int | None:
    """Return the model's context length in tokens, or None if its config does not contain it."""
    return _read_size(folder, "max_position_embeddings")


def read_vocabulary_size(folder: Path) -> int | None:
    """Return the number of rows of the model's embedding matrix, or None if its config does not contain it."""
    return _read_size(folder, "vocab_size")


def _read_size(folder: Path, name: str) -> int | None:
    with explain_load_errors(folder.name):
        model_config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    value = getattr(model_config.get_text_config(), name, None)
    return int(value) if isinstance(value, int) else None


def quiet_libraries() -> None:
    """Switch off progress bars and advice of the libraries, so that the log has errors and the run's own lines."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def stop_token_ids(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return all tokens that end an answer: the tokenizer's EOS, and those in the model's generation config."""
    eos = model.generation_config.eos_token_id
    configured = [eos] if isinstance(eos, int) else list(eos or [])
    return sorted({*configured, tokenizer.eos_token_id} - {None})
