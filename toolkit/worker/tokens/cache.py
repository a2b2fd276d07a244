"""Cache of tokenized rows, keyed by their inputs, so that a second run over the same rows starts at once.

`<save_dir>/cache/tokens/<key>/` is a committed folder with tokens.arrow. The key covers the bytes of the table, the
templates, the rows, the tokenizer, the length and the version of this code; a change of any of them makes a new entry.
Entries are never modified. A run has its own hard link, and the least recently used entries are removed when the cache
grows too large. Losing the cache, or a race between two runs, only costs time.
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

TOKEN_CACHE_VERSION = 2
"""Part of every key: raise it when this package makes different tokens or labels of the same rows."""
TOKEN_CACHE_MAX_BYTES = 20 << 30
"""20 GiB: about 2.5 billion tokens (id and label, 4 bytes each)."""
TOKEN_CACHE_MAX_SHARE = 0.1
"""Share of the disk's total size; the smaller of both limits applies, so that a small disk does not fill up."""
TOKENS_FILE = "tokens.arrow"
logger = logging.getLogger(__name__)


def cache_key(parts: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, table: Path, rows: np.ndarray) -> str:
    """Return the key of an entry: 24 hex digits.

    parts: templates, length and everything else that decides the tokens. table: the file. rows: int64 row numbers.
    """
    with table.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    row_numbers = hashlib.sha256(np.ascontiguousarray(rows, dtype=np.int64).tobytes()).hexdigest()
    inputs = {
        "version": TOKEN_CACHE_VERSION,
        "table": content,
        "rows": row_numbers,
        "tokenizer": fingerprint_tokenizer(tokenizer),
        **parts,
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:24]


def fingerprint_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a digest of everything that decides which ids a text gets, including the versions of the libraries."""
    vocabulary = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else sorted(tokenizer.get_vocab().items())
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.chat_template, type(tokenizer).__name__)
    versions = (tokenizers.__version__, transformers.__version__)
    settings = {} if tokenizer.is_fast else {name: str(value) for name, value in tokenizer.init_kwargs.items()}
    return hashlib.sha256(json.dumps([vocabulary, special, versions, settings]).encode()).hexdigest()


class TokenCache:
    """The token cache of one save_dir."""

    def __init__(self, save_dir: Path) -> None:
        self.folder = save_dir / "cache" / "tokens"

    def link_into(self, key: str, target: Path) -> bool:
        """Put the entry at `target`, as a hard link where possible; return False if there is no intact entry."""
        entry = self.folder / key
        try:
            verify_commit(entry)
        except (RunError, OSError) as error:
            if entry.exists():
                logger.warning("cached tokens %s are damaged; the rows are tokenized again: %s", key, error)
                _discard(entry)
            return False
        try:
            _link(entry / TOKENS_FILE, target)
            os.utime(entry)
        except OSError as error:  # no space for a copy, or another run has just removed the entry: it is not damaged
            logger.warning("cached tokens %s can't be copied; the rows are tokenized again: %s", key, error)
            return False
        return True

    def store(self, key: str, source: Path) -> None:
        """Store a finished file under `key`, unless another run has done so; then remove what exceeds the limits."""
        staging = self.folder / f".new-{key}-{secrets.token_hex(4)}"
        try:
            staging.mkdir(parents=True)
            _link(source, staging / TOKENS_FILE)
            with wait_for_lock(self.folder / ".lock"):
                if not (self.folder / key).exists():
                    commit_dir(staging, self.folder / key, {"key": key})
                self._remove_old_entries(key)
        except (RunError, OSError) as error:  # for example a full disk; this run has its own file and can continue
            logger.warning("the tokens were not cached for later runs: %s", error)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _remove_old_entries(self, newest: str) -> None:
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
    except OSError:  # on another file system, or on one without hard links
        shutil.copyfile(source, target)


def _discard(entry: Path) -> None:
    try:
        remove_tree(entry)
    except OSError as error:  # another run is removing it too
        logger.warning("%s could not be removed: %s", entry, error)
