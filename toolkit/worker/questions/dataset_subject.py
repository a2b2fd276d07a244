"""What a question about a dataset needs: its settings, tokenizer, table and renderer.

These are the parts that a training run uses too, but without the weights: of a model on the Hub only the tokenizer is
downloaded.
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
from toolkit.worker.models.architecture import check_lora_targets
from toolkit.worker.models.folder import (
    check_model_folder,
    check_weights_are_found,
    download_model,
    local_model_folder,
    read_model_settings,
)
from toolkit.worker.tokens.examples import chat_enabled

TOKENIZER_FILES = ("config.json", "tokenizer*", "*.jinja", "special_tokens_map.json", "added_tokens.json",
                   "vocab*", "merges.txt", "*.model", "chat_template*",
                   "additional_chat_templates/*.jinja")  # fmt: skip
KEPT_TOKENIZERS = 2
"""Tokenizers that each thread caches; a large one takes about 100 MB."""

_ReportPhase = Callable[..., None]


@dataclass(frozen=True)
class TokenizedDataset:
    """A table with its settings and tokenizer.

    identity: of the tokenizer, equal for equal files. chat: whether examples are rendered with the chat template.
    length: limit of an example in tokens.
    """

    config: Config
    tokenizer: PreTrainedTokenizerBase
    identity: str
    chat: bool
    length: int
    table: Table
    renderer: Renderer


def open_tokenized_dataset(body: Mapping[str, Any], report_phase: _ReportPhase) -> TokenizedDataset:
    """Open what a question is about.

    body: {"config": settings as a nested dict, defaults for missing ones; "table": path of a parsed table}.
    report_phase: is called before steps that take time. Raises ToolkitError: the settings, the table, the templates or
    the model can't be used.
    """
    config = config_from_question(body)
    table = load_table(Path(str(body["table"])))
    renderer = renderer_of(config.data, table.columns, table.label)
    folder = tokenizer_folder(config, report_phase)
    check_lora_targets(config, read_model_settings(folder))
    identity = identify_tokenizer(folder)
    tokenizer = _cached_tokenizer(config, folder, identity, report_phase)
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
    """Return the settings of a question. Raises ConfigError: a setting is invalid."""
    given = body.get("config")
    if not isinstance(given, dict):
        raise ToolkitError("The question has no settings.", "The app was updated. Restart it.")
    return parse_draft(given)


def tokenizer_folder(config: Config, report_phase: _ReportPhase) -> Path:
    """Return a folder with the model's tokenizer and config.json: its own folder, or a download from the Hub.

    Raises ToolkitError: the files can't be found or downloaded.
    """
    folder = local_model_folder(config)
    is_local = folder is not None
    if folder is None:
        name = str(config.model.hf_model_ckpt)
        try:
            folder = Path(snapshot_download(name, allow_patterns=list(TOKENIZER_FILES), local_files_only=True))
        except (LocalEntryNotFoundError, ValueError):
            report_phase(f"downloading the tokenizer of {name}", patient=True)
            folder = download_model(name, TOKENIZER_FILES)
    check_model_folder(folder, weights=is_local)
    if is_local:
        check_weights_are_found(folder)
    return folder


def identify_tokenizer(folder: Path) -> str:
    """Return 16 hex digits that are equal for two folders exactly if their tokenizer files are equal."""
    files = sorted({file for pattern in TOKENIZER_FILES for file in folder.glob(pattern) if file.is_file()})
    # size and time of change are arguments, so that the cache of _digest notices a changed file
    stamps = [(file, stat.st_size, stat.st_mtime_ns) for file in files if (stat := file.stat())]
    return hashlib.sha256("".join(_digest(*stamp) for stamp in stamps).encode()).hexdigest()[:16]


@lru_cache(maxsize=64)
def _digest(file: Path, size: int, changed: int) -> str:
    return f"{file.name}:{hashlib.sha256(file.read_bytes()).hexdigest()}"


def example_token_limit(config: Config, folder: Path) -> int:
    """Return the limit of an example in tokens: max_seq_length, or the model's context length if that is shorter."""
    wanted, positions = resolve_max_length(config), load.read_context_length(folder)
    return wanted if positions is None else min(wanted, positions)


class _ThreadTokenizers(threading.local):
    """Tokenizers of one thread, by identity: a tokenizer must not be used by two threads at once."""

    def __init__(self) -> None:
        self.tokenizers: dict[str, PreTrainedTokenizerBase] = {}


_THREAD_TOKENIZERS = _ThreadTokenizers()


def _cached_tokenizer(
    config: Config, folder: Path, identity: str, report_phase: _ReportPhase
) -> PreTrainedTokenizerBase:
    cached = _THREAD_TOKENIZERS.tokenizers
    if identity not in cached:
        report_phase("loading the tokenizer")
        while len(cached) >= KEPT_TOKENIZERS:
            del cached[next(iter(cached))]
        cached[identity] = load.load_tokenizer(config, folder)
    return cached[identity]
