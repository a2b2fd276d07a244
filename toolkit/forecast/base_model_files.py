"""Where the chosen base model's config.json and tokenizer.json are, without loading or downloading any weights.

A bundled model and a folder have them; a hub model's come from the local hub cache, or are asked for in a thread, once
a model, while the page goes on without them. Knows nothing of what they say.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from toolkit.config import Config
from toolkit.errors import ToolkitError
from toolkit.settings.model_source import bundled_folder, model_kind

FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
PATIENCE_S = 5.0
_LOG = logging.getLogger(__name__)
_asked: dict[str, threading.Thread] = {}
_guard = threading.Lock()


@dataclass(frozen=True)
class Base:
    """A base model's files. tokenizer: None where the model has no tokenizer.json. weights: bytes of its safetensors
    files on this disk, 0 while they are not here. halves: whether they are stored in 16 bits. chat: whether the
    tokenizer has a chat template."""

    config: Mapping[str, Any]
    tokenizer: Path | None
    weights: int
    halves: bool
    chat: bool


def find_base(config: Config) -> Base | Literal["asking", "unknown"]:
    """The base model of `config`; "asking" while its files are being fetched, "unknown" where they can't be had.

    Raises ToolkitError when its config.json can't be read.
    """
    kind, name = model_kind(config), str(config.model.hf_model_ckpt or "")
    if kind == "none":
        return "unknown"
    if kind == "hub":
        return _from_hub(name)
    folder = bundled_folder(name) if kind == "bundled" else Path(name).expanduser()
    return _read(folder / FILES[0]) if folder is not None and (folder / FILES[0]).is_file() else "unknown"


def _from_hub(name: str) -> Base | Literal["asking", "unknown"]:
    from huggingface_hub import try_to_load_from_cache  # a seventh of a second that most visits don't need

    found = try_to_load_from_cache(name, FILES[0])
    if isinstance(found, str):
        return _read(Path(found))
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return "unknown"
    with _guard:
        if name not in _asked:
            _asked[name] = threading.Thread(target=_fetch, args=(name,), name=f"config of {name}", daemon=True)
            _asked[name].start()
        return "asking" if _asked[name].is_alive() else "unknown"


def _fetch(name: str) -> None:
    from huggingface_hub import hf_hub_download

    try:
        for file in FILES:
            hf_hub_download(name, file, etag_timeout=PATIENCE_S)
    except Exception as error:  # noqa: BLE001 - a forecast without the hub is none, whatever the reason
        _LOG.info("config of %s: %s", name, error)


def _read(path: Path) -> Base:
    return _read_at(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=32)
def _read_at(path: Path, stamp: int) -> Base:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ToolkitError(f"The model's config.json can't be read: {error}.", "Get the model again.") from error
    if not isinstance(config, dict):
        raise ToolkitError("The model's config.json is no JSON object.", "Get the model again.")
    tokenizer = path.with_name(FILES[1])
    weights = sum(file.stat().st_size for file in path.parent.glob("*.safetensors"))
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "")
    return Base(config, tokenizer if tokenizer.is_file() else None, weights, "16" in dtype, _has_template(path.parent))


def _has_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    settings = folder / "tokenizer_config.json"
    return settings.is_file() and '"chat_template"' in settings.read_text(encoding="utf-8", errors="replace")
