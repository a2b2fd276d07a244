"""What a question about a dataset is about: the settings, the tokenizer, the table and how its rows become examples.

The same pieces that a training run is made of, found without weights: a hub model's tokenizer alone is fetched. Knows
no question.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import PreTrainedTokenizerBase

from toolkit.config import Config
from toolkit.data.examples.renderers import renderer_of
from toolkit.data.examples.templates import Renderer
from toolkit.data.table import Table, load_table
from toolkit.errors import ToolkitError
from toolkit.settings.device_defaults import resolve_max_length
from toolkit.settings.validation import parse_draft
from toolkit.worker.models import load
from toolkit.worker.models.folder import check_model_folder, download_model, local_model_folder
from toolkit.worker.tokens.examples import chat_enabled

TOKENIZER_FILES = ("config.json", "tokenizer*", "*.jinja", "special_tokens_map.json", "added_tokens.json",
                   "vocab*", "merges.txt", "*.model", "chat_template*")  # fmt: skip
KEPT_TOKENIZERS = 2
"""Tokenizers that each thread keeps; a large one takes a hundred megabytes."""

_ReportPhase = Callable[[str], None]


@dataclass(frozen=True)
class TokenizedDataset:
    """length: tokens kept of an example. chat: whether it travels in the chat template. identity: of the tokenizer,
    equal for equal files."""

    config: Config
    tokenizer: PreTrainedTokenizerBase
    identity: str
    chat: bool
    length: int
    table: Table
    renderer: Renderer


def open_tokenized_dataset(body: Mapping[str, Any], tell: _ReportPhase) -> TokenizedDataset:
    """body: {"config": settings as a nested dict, missing ones are defaults, "table": path of a parsed table}.

    Raises ToolkitError: settings, table, templates or model that can't be used. `tell` hears what takes time.
    """
    config = config_from_question(body)
    table = load_table(Path(str(body["table"])))
    renderer = renderer_of(config.data, table.columns, table.label)
    folder = tokenizer_folder(config, tell)
    identity = identify_tokenizer(folder)
    tokenizer = _cached_tokenizer(config, folder, identity, tell)
    return TokenizedDataset(
        config,
        tokenizer,
        identity,
        chat_enabled(config, tokenizer),
        example_token_limit(config, folder),
        table,
        renderer,
    )


def config_from_question(body: Mapping[str, Any]) -> Config:
    """The settings of a question; raises ConfigError."""
    given = body.get("config")
    if not isinstance(given, dict):
        raise ToolkitError("The question has no settings.", "Restart the app: it has changed.")
    return parse_draft(given)


def tokenizer_folder(config: Config, tell: _ReportPhase) -> Path:
    """A folder with the model's tokenizer and config.json: its own, or what the hub has of it. Raises ToolkitError."""
    folder = local_model_folder(config)
    if folder is None:
        name = str(config.model.hf_model_ckpt)
        try:
            folder = Path(snapshot_download(name, allow_patterns=list(TOKENIZER_FILES), local_files_only=True))
        except (LocalEntryNotFoundError, ValueError):
            tell(f"fetching the tokenizer of {name}")
            folder = download_model(name, TOKENIZER_FILES)
    check_model_folder(folder, weights=False)
    return folder


def identify_tokenizer(folder: Path) -> str:
    """16 hex digits: equal exactly for folders whose tokenizers are the same files."""
    files = sorted({file for pattern in TOKENIZER_FILES for file in folder.glob(pattern) if file.is_file()})
    stamps = [(file, stat.st_size, stat.st_mtime_ns) for file in files if (stat := file.stat())]
    return hashlib.sha256("".join(_digest(*stamp) for stamp in stamps).encode()).hexdigest()[:16]


@lru_cache(maxsize=64)
def _digest(file: Path, size: int, changed: int) -> str:
    return f"{file.name}:{hashlib.sha256(file.read_bytes()).hexdigest()}"


def example_token_limit(config: Config, folder: Path) -> int:
    """Tokens kept of an example: max_seq_length, or the model's positions where those are fewer."""
    wanted, positions = resolve_max_length(config), load.read_context_length(folder)
    return wanted if positions is None else min(wanted, positions)


class _ThreadTokenizers(threading.local):
    """A tokenizer can't be used by two threads at once, so each has its own."""

    def __init__(self) -> None:
        self.tokenizers: dict[str, PreTrainedTokenizerBase] = {}


_THREAD_TOKENIZERS = _ThreadTokenizers()


def _cached_tokenizer(config: Config, folder: Path, identity: str, tell: _ReportPhase) -> PreTrainedTokenizerBase:
    kept = _THREAD_TOKENIZERS.tokenizers
    if identity not in kept:
        tell("loading the tokenizer")
        while len(kept) >= KEPT_TOKENIZERS:
            del kept[next(iter(kept))]
        kept[identity] = load.load_tokenizer(config, folder)
    return kept[identity]
