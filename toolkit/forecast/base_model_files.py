"""The base model's config.json and tokenizer.json, without loading or downloading weights.

Those of a Hub model come from the local cache; missing ones are downloaded in a thread, once per model, so that the
page does not wait.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from toolkit.config import Config
from toolkit.errors import ToolkitError
from toolkit.settings.model_source import bundled_model_folder, find_suggested_model, model_kind
from toolkit.system.foreign_files import find_weight_files, read_foreign_json

BASE_MODEL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
HUB_TIMEOUT_S = 5.0  # for the Hub's first answer; a forecast is not worth a longer wait
logger = logging.getLogger(__name__)
_downloads: dict[str, threading.Thread] = {}
_downloads_lock = threading.Lock()


@dataclass(frozen=True)
class BaseModelFiles:
    """A base model's files.

    config: the content of config.json. tokenizer: path of tokenizer.json, or None. weights: bytes of the safetensors
    files on this disk, 0 if there are none. halves: whether the weights are stored in 16 bits. chat: whether the
    tokenizer has a chat template.
    """

    config: Mapping[str, Any]
    tokenizer: Path | None
    weights: int
    halves: bool
    chat: bool


def find_base_model(config: Config) -> BaseModelFiles | Literal["asking", "unknown"]:
    """Return the files of the config's base model; "asking" during a download, "unknown" if there are none.

    Raises ToolkitError if config.json cannot be read.
    """
    kind, name = model_kind(config), str(config.model.hf_model_ckpt or "")
    if kind == "none":
        return "unknown"
    if kind == "hub":
        return _find_in_hub_cache(name)
    folder = bundled_model_folder(name) if kind == "bundled" else Path(name).expanduser()
    if folder is None or not (folder / BASE_MODEL_FILES[0]).is_file():
        return "unknown"
    return _read_base_model(folder / BASE_MODEL_FILES[0])


def find_chat_template(config: Config) -> bool | None:
    """Return whether the base model's tokenizer has a chat template; None while its files are not on this machine."""
    try:
        found = find_base_model(config)
    except ToolkitError:
        return None  # the forecast shows the error
    return None if isinstance(found, str) else found.chat


def read_cached_model(name: str) -> BaseModelFiles | None:
    """Return the files of a Hub model that are in the local cache; None if there are none. Raises: find_base_model."""
    from huggingface_hub import try_to_load_from_cache  # imported late: it takes 0.15 s, and only Hub models need it

    found = try_to_load_from_cache(name, BASE_MODEL_FILES[0])
    return _read_base_model(Path(found)) if isinstance(found, str) else None


def _find_in_hub_cache(name: str) -> BaseModelFiles | Literal["asking", "unknown"]:
    cached = read_cached_model(name)
    if cached is not None:
        return cached
    suggested = find_suggested_model(name)
    state = "unknown" if os.environ.get("HF_HUB_OFFLINE") == "1" else _start_download(name)
    return BaseModelFiles(suggested.sizes, None, 0, halves=True, chat=True) if suggested else state


def _start_download(name: str) -> Literal["asking", "unknown"]:
    with _downloads_lock:
        if name not in _downloads:
            _downloads[name] = threading.Thread(
                target=_download_files, args=(name,), name=f"config of {name}", daemon=True
            )
            _downloads[name].start()
        return "asking" if _downloads[name].is_alive() else "unknown"


def _download_files(name: str) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        for file in BASE_MODEL_FILES:
            with suppress(EntryNotFoundError):  # models have their chat template in one of two files, or none
                hf_hub_download(name, file, etag_timeout=HUB_TIMEOUT_S)
    except Exception as error:  # noqa: BLE001 - without the Hub there is no forecast, whatever the reason
        logger.info("config of %s: %s", name, error)


def _read_base_model(path: Path) -> BaseModelFiles:
    return _read_base_model_cached(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=32)
def _read_base_model_cached(path: Path, stamp: int) -> BaseModelFiles:
    """stamp: time of the last change, part of the cache key."""
    try:
        config = read_foreign_json(path)
    except (OSError, ValueError) as error:
        raise ToolkitError(f"The model's config.json can't be read: {error}.", "Download the model again.") from error
    if not isinstance(config, dict):
        raise ToolkitError("The model's config.json is not a JSON object.", "Download the model again.")
    tokenizer = path.with_name(BASE_MODEL_FILES[1])
    weights = sum(file.stat().st_size for file in find_weight_files(path.parent))
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "")
    return BaseModelFiles(
        config, tokenizer if tokenizer.is_file() else None, weights, "16" in dtype, _has_template(path.parent)
    )


def _has_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file() or any(folder.glob("additional_chat_templates/*.jinja")):
        return True
    try:
        settings = read_foreign_json(folder / "tokenizer_config.json")
    except (OSError, ValueError):  # the tokenizer's own reader explains it
        return False
    return isinstance(settings, dict) and bool(settings.get("chat_template"))
