"""Find the folder of a base model (bundled, on this machine or on the hub) and check it before it is read.

Nothing that comes with a model is ever executed: only safetensors weights are loaded, and a folder that contains code
or refers to code is refused.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import safetensors
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

from toolkit.config import BUNDLED, Config
from toolkit.errors import ToolkitError
from toolkit.system.foreign_files import MAX_LARGE_JSON_PARTS, find_weight_files, read_foreign_json
from toolkit.system.paths import ASSETS
from toolkit.worker.models.architecture import (
    BAD_MODEL,
    refuse_missing_head,
    refuse_other_architectures,
    refuse_other_quantizations,
    refuse_too_many_layers,
)

HUB_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.txt", "*.model", "LICENSE*")
"""Patterns of the files that are downloaded: no pickles and no code."""
SECOND_WEIGHTS = ("*consolidated*.safetensors", "original/*")
"""Patterns of the same weights in their maker's own format, which is not loaded."""
CODE_KEYS = ("auto_map", "custom_pipelines", "custom_generate")
"""Keys of a model's JSON files that name Python code."""
INTERNAL_KEYS = ("_attn_implementation", "_experts_implementation")
"""Keys with which a config could choose a kernel of the hub, whose code would be downloaded and run."""
KERNEL_KEYS = ("kernel_config", "use_kernels", "use_pretrained_backbone")
"""Keys that, when set, fetch kernels or weights from elsewhere."""
IMPLEMENTATIONS = frozenset({None, "eager", "sdpa", "flex_attention", "batched_mm", "grouped_mm"})
"""Values of `attn_implementation` and `experts_implementation` that are part of transformers; others name a kernel."""
_WEIGHTS_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.safetensors")
_WEIGHTS_NAME = re.compile(rf"{_WEIGHTS_FILE.pattern}(?:\.index\.json)?")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
MODEL_NOT_FOUND = "model_not_found"
_OFFLINE_HINT = "Connect this machine, or put the model into a folder and enter the folder's path."


def resolve_model_folder(config: Config) -> Path:
    """Return the folder of the base model, checked, and downloaded if it is a hub id.

    Raises ToolkitError if it is not found, gated, offline, without safetensors weights, or contains code.
    """
    folder = local_model_folder(config) or download_model(str(config.model.hf_model_ckpt))
    check_model_folder(folder)
    return folder


def local_model_folder(config: Config) -> Path | None:
    """Return the folder of the base model, or None if it is a hub id. Raises ToolkitError."""
    name = str(config.model.hf_model_ckpt or "")
    if not name:
        raise ToolkitError(
            "No base model is chosen.", "Enter a folder, a Hub ID or bundled:demo-model.", MODEL_NOT_FOUND
        )
    if name.startswith(BUNDLED):
        plain = name.removeprefix(BUNDLED)
        folder = ASSETS / plain
        if not re.fullmatch(r"[a-z0-9-]+", plain) or not folder.is_dir():
            raise ToolkitError(f"No bundled model is called '{name}'.", "Choose bundled:demo-model.", MODEL_NOT_FOUND)
        return folder
    return _existing_folder(name)


def _existing_folder(name: str) -> Path | None:
    """Return the resolved folder `name`, or None if it can only be a hub id. Raises ToolkitError.

    A symbolic link is followed once, here: what is checked and what is loaded is its target, wherever it points later.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path.resolve()
    if path.is_symlink():
        message = f"The model folder '{name}' is a symbolic link to '{path.readlink()}', which is not a folder."
        raise ToolkitError(message, "Correct the link, or enter another folder.", MODEL_NOT_FOUND)
    if path.exists():
        raise ToolkitError(
            f"'{name}' is a file.", "Enter the folder that contains config.json and the weights.", MODEL_NOT_FOUND
        )
    if name.startswith(("/", ".", "~")) or "\\" in name or name.count("/") > 1:
        raise ToolkitError(
            f"The model folder '{name}' does not exist.", "Check the path, or enter a Hub ID.", MODEL_NOT_FOUND
        )
    return None


def download_model(name: str, files: Sequence[str] = HUB_FILES) -> Path:
    """Download the files of a hub model that match the patterns and return their folder. Raises ToolkitError."""
    try:
        return Path(snapshot_download(name, allow_patterns=list(files), ignore_patterns=list(SECOND_WEIGHTS)))
    except HFValidationError as error:
        message = f"'{name}' is neither a folder on this machine nor a Hub ID."
        raise ToolkitError(message, "A Hub ID looks like owner/name.", MODEL_NOT_FOUND) from error
    except GatedRepoError as error:
        hint = f"Accept its terms at https://huggingface.co/{name}, then log in here with `hf auth login`."
        raise ToolkitError(f"The model '{name}' is gated.", hint, MODEL_NOT_FOUND) from error
    except RepositoryNotFoundError as error:
        hint = "Check the spelling; for a private model log in with `hf auth login`."
        raise ToolkitError(f"The Hub has no model '{name}' that you may read.", hint, MODEL_NOT_FOUND) from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        message = f"'{name}' is not a folder on this machine, and the Hub can't be reached to download it."
        raise ToolkitError(message, _OFFLINE_HINT, "no_network") from error
    except (HfHubHTTPError, OSError) as error:
        message = f"Downloading '{name}' failed: {first_error_line(error)}."
        reason = "disk_full" if _is_disk_full(error) else "no_network"
        raise ToolkitError(message, "Try again later.", reason) from error


def check_model_folder(folder: Path, *, weights: bool = True) -> None:
    """Check that the folder is a plain base model: safetensors weights, no code, no reference to code, no links.

    weights: whether they must be there; False for a folder from which only a tokenizer is read. Raises ToolkitError.
    """
    hint = "Models with their own code are not supported. Choose one that transformers supports without extra code."
    _refuse_links(folder)
    scripts = sorted(path.name for path in folder.rglob("*.py"))
    if scripts:
        raise ToolkitError(f"The model folder contains code ({scripts[0]}).", hint, BAD_MODEL)
    if (folder / "adapter_config.json").exists():
        message = f"'{folder.name}' is an adapter, not a base model."
        raise ToolkitError(message, "Enter the base model that it was trained on.", BAD_MODEL)
    if not (folder / "config.json").exists():
        raise ToolkitError(
            f"The folder '{folder.name}' has no config.json.", "Enter a folder that contains a model.", BAD_MODEL
        )
    for path in sorted(folder.glob("*.json")):
        for key, value in _walk_entries(_read_json(path)):
            if key in CODE_KEYS or key.startswith(INTERNAL_KEYS) or _names_kernel(key, value):
                raise ToolkitError(f"{path.name} of the model contains '{key}', which can load code.", hint, BAD_MODEL)
            if _names_foreign_file(folder, key, value):
                message = f"{path.name} of the model sets '{key}' to {str(value)[:80]!r}, which is not in its folder."
                raise ToolkitError(message, "Download the model again, or choose another one.", BAD_MODEL)
    for path in sorted(folder.glob("*.safetensors.index.json")):
        _check_weights_index(path, weights=weights)
    settings = read_model_settings(folder)
    refuse_too_many_layers(folder.name, settings)
    refuse_other_architectures(folder.name, settings)
    refuse_other_quantizations(folder.name, settings)
    if weights and not any(folder.glob("*.safetensors")):
        message = f"The model '{folder.name}' has no safetensors weights."
        raise ToolkitError(
            message, "Convert it to safetensors: other weight files can run code when opened.", BAD_MODEL
        )


def check_weights_are_found(folder: Path) -> None:
    """Raise ToolkitError if a checked folder lacks the output layer, or the files that transformers looks for."""
    named = ("model.safetensors", "model.safetensors.index.json")
    other = str(read_model_settings(folder).get("transformers_weights", ""))
    if not any((folder / name).is_file() for name in (*named, other)):
        found = ", ".join(sorted(path.name for path in folder.glob("*.safetensors"))[:3])
        message = f"The model '{folder.name}' has no model.safetensors and no index of its parts, but {found}."
        hint = "Enter a model in the format of transformers, or download it again with all its files."
        raise ToolkitError(message, hint, BAD_MODEL)
    refuse_missing_head(folder.name, read_model_settings(folder), _walk_weight_names(folder))


def _walk_weight_names(folder: Path) -> Iterator[str]:
    for path in find_weight_files(folder):
        try:
            with safetensors.safe_open(path, framework="np") as opened:
                yield from opened.keys()
        except (OSError, SafetensorError) as error:
            message = f"{path.name} of the model can't be read: {first_error_line(error)}."
            raise ToolkitError(message, "Download the model again.", BAD_MODEL) from error


def read_model_settings(folder: Path) -> dict[str, Any]:
    """Return the content of config.json. Raises ToolkitError."""
    settings = _read_json(folder / "config.json")
    return settings if isinstance(settings, dict) else {}


def is_prequantized(folder: Path) -> bool:
    """Return whether the weights in `folder` are quantized, for example a bitsandbytes checkpoint."""
    return bool(read_model_settings(folder).get("quantization_config"))


def _refuse_links(folder: Path) -> None:
    """Raise ToolkitError for a symbolic link that leads out of the folder, and for what is neither file nor folder."""
    # the hub's cache stores snapshots as links into the folder around them: those are allowed
    snapshot = folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--")
    own = (folder.parent.parent if snapshot else folder).resolve()
    for path in sorted(folder.rglob("*")):
        # realpath, because resolve raises for a link to itself
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(own):
            message = f"The model folder contains a symbolic link, {path}, that leads out of it to {path.readlink()}."
            raise ToolkitError(message, "Replace the link with the file itself.", BAD_MODEL)
        if not path.is_file() and not path.is_dir():
            raise ToolkitError(
                f"{path.name} in the model folder is not a regular file.", "Download the model again.", BAD_MODEL
            )


def _check_weights_index(path: Path, *, weights: bool) -> None:
    """Raise ToolkitError unless the index names safetensors files of its own folder only, which exist if `weights`."""
    content = _parse_json(path)
    files = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not files:
        message = f"{path.name} of the model has no weight_map."
        raise ToolkitError(message, "Download the model again.", BAD_MODEL)
    for name in sorted({str(file) for file in files.values()}):
        if not _WEIGHTS_FILE.fullmatch(name):
            message = f"{path.name} of the model names {name[:80]!r}, which is not a safetensors file of its folder."
            raise ToolkitError(message, "Choose a model whose weights are all safetensors files.", BAD_MODEL)
        if weights and not (path.parent / name).is_file():
            message = f"The weights of the model are incomplete: {name} is missing."
            raise ToolkitError(message, "Download the model again.", BAD_MODEL)


def _read_json(path: Path) -> Any:
    if path.stem in ("tokenizer", "vocab") or path.name.endswith(".index.json"):
        return None  # megabytes of vocabulary, from which no library reads settings
    return _parse_json(path)


def _parse_json(path: Path) -> Any:
    try:
        return read_foreign_json(path, parts=MAX_LARGE_JSON_PARTS)
    except (ValueError, OSError) as error:
        raise ToolkitError(
            f"{path.name} of the model can't be read: {first_error_line(error)}.", "Download it again.", BAD_MODEL
        ) from error


def _walk_entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every (key, value) of nested JSON at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _walk_entries(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk_entries(inner)


def _names_kernel(key: str, value: Any) -> bool:
    # an attention implementation like "owner/kernel" is downloaded from the hub and executed; a dict has one per part
    if key in KERNEL_KEYS:
        return bool(value)
    return key.endswith(("attn_implementation", "experts_implementation")) and not _is_built_in(value)


def _is_built_in(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_built_in, value.values()))
    if value == "flash_attention_2":  # without its package, transformers would fetch a kernel in its place
        return importlib.util.find_spec("flash_attn") is not None
    return (value is None or isinstance(value, str)) and value in IMPLEMENTATIONS


def _names_foreign_file(folder: Path, key: str, value: Any) -> bool:
    """Return whether a key that names a file to open, such as vocab_file, leads to one outside of the folder."""
    if key == "transformers_weights":
        return value is not None and not (isinstance(value, str) and _WEIGHTS_NAME.fullmatch(value))
    if not key.endswith("_file") or key == "special_tokens_map_file" or not isinstance(value, str) or not value:
        return False
    # many published models still hold the paths of their authors' machines, which exist nowhere else
    return not _PLAIN_NAME.fullmatch(value) and ("\0" in value or os.path.lexists(folder / value))


def first_error_line(error: BaseException) -> str:
    """Return the first line of an error's text, without its full stop and at most 300 characters long."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300].rstrip(".")


def _is_disk_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
