"""Finding and loading a base model and its tokenizer, from a folder, from what is bundled, or from the hub.

Nothing that comes with a model is ever executed: safetensors weights only, no remote code, and a folder that carries
code or asks for it is refused before any library reads it. Knows no dataset and no run directory.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import toolkit.assets
from toolkit.config import BUNDLED, Config
from toolkit.errors import ToolkitError
from toolkit.worker import build

HUB_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.txt", "*.model", "LICENSE*")
CODE_KEYS = ("auto_map", "custom_pipelines", "custom_generate")
INTERNAL_KEYS = ("_attn_implementation", "_experts_implementation")
GONE, BROKEN = "model_not_found", "bad_model"
_LOADING = (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError, SafetensorError)
_OFFLINE_HINT = "Connect this machine, or put the model into a folder and enter the folder's path."


def place(config: Config, processes: int = 1) -> build.Place:
    """Where this process computes: the first visible GPU unless the device map says cpu."""
    if not torch.cuda.is_available() or config.model.device_map == "cpu":
        return build.Place(processes=processes)
    capability = torch.cuda.get_device_capability()
    return build.Place(True, capability, torch.cuda.is_bf16_supported(), processes)


def resolve(config: Config) -> Path:
    """The folder of the base model, downloaded if it is a hub id, and checked.

    Raises ToolkitError: not found, gated, offline, without safetensors, or carrying code.
    """
    name = str(config.model.hf_model_ckpt or "")
    if not name:
        raise ToolkitError("No base model is chosen.", "Enter a folder, a hub id or bundled:demo-model.", GONE)
    if name.startswith(BUNDLED):
        folder = Path(toolkit.assets.__file__).parent / name.removeprefix(BUNDLED)
        if not re.fullmatch(r"[a-z0-9-]+", folder.name) or not folder.is_dir():
            raise ToolkitError(f"No bundled model is called '{name}'.", "Choose bundled:demo-model.", GONE)
    else:
        folder = _local(name) or _download(name)
    refuse_code(folder)
    return folder


def _local(name: str) -> Path | None:
    path = Path(name).expanduser()
    if path.is_dir():
        return path.resolve()
    if path.exists():
        raise ToolkitError(f"'{name}' is a file.", "Enter the folder that holds config.json and the weights.", GONE)
    if name.startswith(("/", ".", "~")) or "\\" in name or name.count("/") > 1:
        raise ToolkitError(f"The model folder '{name}' does not exist.", "Check the path, or enter a hub id.", GONE)
    return None


def _download(name: str) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=list(HUB_FILES)))
    except HFValidationError as error:
        message = f"'{name}' is neither a folder on this machine nor a hub id."
        raise ToolkitError(message, "A hub id looks like owner/name.", GONE) from error
    except GatedRepoError as error:
        hint = f"Accept its terms at https://huggingface.co/{name}, then log in here with `hf auth login`."
        raise ToolkitError(f"The model '{name}' is gated.", hint, GONE) from error
    except RepositoryNotFoundError as error:
        hint = "Check the spelling; for a private model log in with `hf auth login`."
        raise ToolkitError(f"The hub has no model '{name}' that you may read.", hint, GONE) from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        message = f"'{name}' is no folder on this machine, and the hub can't be reached to download it."
        raise ToolkitError(message, _OFFLINE_HINT, "no_network") from error
    except (HfHubHTTPError, OSError) as error:
        message = f"Downloading '{name}' failed: {_first_line(error)}."
        raise ToolkitError(message, "Try again later.", "disk_full" if _no_room(error) else "no_network") from error


def refuse_code(folder: Path) -> None:
    """Raise ToolkitError unless the folder is a plain base model: safetensors, no code, no hidden switches."""
    hint = "Models that bring their own code are never run here. Choose one that transformers supports by itself."
    scripts = sorted(path.name for path in folder.rglob("*.py"))
    if scripts:
        raise ToolkitError(f"The model folder contains code ({scripts[0]}).", hint, BROKEN)
    if (folder / "adapter_config.json").exists():
        message = f"'{folder.name}' is an adapter, not a base model."
        raise ToolkitError(message, "Enter the base model that it was trained on.", BROKEN)
    if not (folder / "config.json").exists():
        raise ToolkitError(
            f"The folder '{folder.name}' has no config.json.", "Enter a folder that holds a model.", BROKEN
        )
    for path in sorted(folder.glob("*.json")):
        for key, value in _entries(_read_json(path)):
            if key in CODE_KEYS or key.startswith(INTERNAL_KEYS) or _names_kernel(key, value):
                raise ToolkitError(f"{path.name} of the model contains '{key}', which can load code.", hint, BROKEN)
    if not any(folder.glob("*.safetensors")):
        message = f"The model '{folder.name}' has no safetensors weights."
        raise ToolkitError(message, "Convert it to safetensors: other weight files can run code when opened.", BROKEN)


def _read_json(path: Path) -> Any:
    if path.stem in ("tokenizer", "vocab") or path.name.endswith(".index.json"):
        return None  # megabytes of vocabulary: no library takes switches from there
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ToolkitError(
            f"{path.name} of the model can't be read: {_first_line(error)}.", "Get it again.", BROKEN
        ) from error


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Every (key, value) at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _entries(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _entries(inner)


def _names_kernel(key: str, value: Any) -> bool:
    # "owner/kernel" as an attention implementation is fetched from the hub and executed
    return "attn_implementation" in key and isinstance(value, str) and "/" in value


def load_tokenizer(config: Config, folder: Path | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of `folder` (default: the config's base model), with a pad token.

    Padding may share EOS: labels and attention are masked by length, never by token (a test holds it).
    """
    where = folder or resolve(config)
    with explained(config.model.hf_model_ckpt):
        tokenizer = AutoTokenizer.from_pretrained(str(where), trust_remote_code=False, local_files_only=True)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(
    config: Config, where: build.Place | None = None, folder: Path | None = None, *, dtype: str = ""
) -> PreTrainedModel:
    """The base model, quantized if the config says so, in the precision that bf16 / fp16 ask for (fp32 otherwise).

    dtype: "auto" keeps the precision of the files instead. Raises ToolkitError in the user's words for everything that
    a wrong or broken model can cause.
    """
    where = where or place(config)
    arguments = build.load_args(config, where)
    arguments["dtype"] = dtype or getattr(torch, arguments["dtype"])
    quantization = build.quantization_args(config)
    if quantization is not None:
        # one line a matrix product otherwise
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        arguments["quantization_config"] = transformers.BitsAndBytesConfig(**quantization)
    source = str(folder or resolve(config))
    with explained(config.model.hf_model_ckpt):
        model, found = AutoModelForCausalLM.from_pretrained(
            source, local_files_only=True, output_loading_info=True, **arguments
        )
    if missing := sorted(found["missing_keys"]):
        # the library fills them with random numbers and goes on
        message = f"The weights of '{config.model.hf_model_ckpt}' lack {len(missing)} parts, {missing[0]} for one."
        raise ToolkitError(message, "Get the model again, or choose one made for text generation.", BROKEN)
    return keep_gradients_right(model)


def keep_gradients_right(model: PreTrainedModel) -> PreTrainedModel:
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


class explained:
    """Turns what transformers raises on a bad model into a ToolkitError; memory errors pass, explain.py knows them."""

    def __init__(self, name: str | None) -> None:
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, _LOADING):
            hint = "Check that it is a complete causal language model which the installed transformers supports."
            raise ToolkitError(
                f"The model '{self.name}' can't be loaded: {_first_line(error)}.", hint, BROKEN
            ) from error


def _no_room(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300].rstrip(".")


def context_length(folder: Path) -> int | None:
    """Tokens that the model's positions allow, or None when its config does not say."""
    found = AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    value = getattr(found.get_text_config(), "max_position_embeddings", None)
    return int(value) if isinstance(value, int) else None


def quiet_libraries() -> None:
    """Fewer lines in the log, none of them errors: progress bars and advice for other users."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
