"""Tokenised rows, kept by what they were made of, so that a second run over the same rows starts at once.

`<save_dir>/cache/tokens/<key>/` is a committed folder with tokens.arrow. The key covers the table's bytes, the
templates, the rows, the tokenizer, the length and this code's version: whatever differs is made anew. Entries are never
changed, a run holds a hard link of its own, and the least recently used go when the cache grows too large. Losing the
cache, or a race between two runs, costs time and nothing else. Knows no split and no trainer.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import transformers
from transformers import PreTrainedTokenizerBase

from toolkit.errors import RunError
from toolkit.system.durable import commit_dir, remove_leftover_dirs, remove_tree, verify_commit
from toolkit.system.locks import wait_for_lock

TOKEN_CACHE_VERSION = 1
"""Part of every key: raise it when `dataset.py` makes other tokens or labels of the same rows."""
TOKEN_CACHE_MAX_BYTES = 20 << 30
TOKEN_CACHE_MAX_SHARE = 0.1
"""The cache keeps below this share of the disk, too."""
TOKENS_FILE = "tokens.arrow"
logger = logging.getLogger(__name__)


def cache_key(parts: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, table: Path, rows: np.ndarray) -> str:
    """24 hex digits. parts: templates, length and whatever else decides the tokens; table: the file; rows: int64."""
    with table.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    chosen = hashlib.sha256(np.ascontiguousarray(rows, dtype=np.int64).tobytes()).hexdigest()
    made_of = {
        "version": TOKEN_CACHE_VERSION,
        "table": content,
        "rows": chosen,
        "tokenizer": fingerprint_tokenizer(tokenizer),
        **parts,
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:24]


def fingerprint_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """A digest of everything that decides which ids a text gets, the libraries' versions included."""
    vocabulary = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else sorted(tokenizer.get_vocab().items())
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.chat_template, type(tokenizer).__name__)
    versions = (tokenizers.__version__, transformers.__version__)
    settings = {} if tokenizer.is_fast else {name: str(value) for name, value in tokenizer.init_kwargs.items()}
    return hashlib.sha256(json.dumps([vocabulary, special, versions, settings]).encode()).hexdigest()


class TokenCache:
    """The cache of one save_dir."""

    def __init__(self, save_dir: Path) -> None:
        self.folder = save_dir / "cache" / "tokens"

    def fetch(self, key: str, target: Path) -> bool:
        """Put the entry at `target` (a hard link where possible); False when there is none that is whole."""
        entry = self.folder / key
        try:
            verify_commit(entry)
        except (RunError, OSError) as error:
            if entry.exists():
                logger.warning("the tokens kept as %s can't be used and are made again: %s", key, error)
                _discard(entry)
            return False
        try:
            _link(entry / TOKENS_FILE, target)
            os.utime(entry)
        except OSError as error:  # e.g. no room for a copy, or another run has just discarded it: no fault of the entry
            logger.warning("the tokens kept as %s can't be taken over and are made again: %s", key, error)
            return False
        return True

    def keep(self, key: str, source: Path) -> None:
        """Keep a finished file under `key`, unless another run has done so meanwhile; then make room."""
        staging = self.folder / f".new-{key}-{secrets.token_hex(4)}"
        try:
            staging.mkdir(parents=True)
            _link(source, staging / TOKENS_FILE)
            with wait_for_lock(self.folder / ".lock"):
                if not (self.folder / key).exists():
                    commit_dir(staging, self.folder / key, {"key": key})
                self._make_room(key)
        except (RunError, OSError) as error:  # e.g. a full disk: the run has its own file
            logger.warning("the tokens were not kept for later runs: %s", error)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _make_room(self, newest: str) -> None:
        remove_leftover_dirs(self.folder)
        allowed = min(TOKEN_CACHE_MAX_BYTES, int(TOKEN_CACHE_MAX_SHARE * shutil.disk_usage(self.folder).total))
        entries = [path for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
        used = 0
        for entry in sorted(entries, key=lambda path: (path.name == newest, path.stat().st_mtime_ns), reverse=True):
            used += sum(file.stat().st_size for file in entry.iterdir())
            if used > allowed:
                _discard(entry)


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _discard(entry: Path) -> None:
    try:
        remove_tree(entry)
    except OSError as error:  # another run is discarding it too
        logger.warning("%s could not be removed: %s", entry, error)
