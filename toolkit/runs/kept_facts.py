"""What was read from the files of runs, kept in one file, so that a start of the app need not read thousands again.

A cache: each value counts only as long as the file that it was read from is unchanged, and the whole file only if this
installation has signed it and its code is the same. It is written once many values are new, so a folder with few runs
has none.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.errors import RunError
from toolkit.system.build_id import build_id
from toolkit.system.durable import durable_write, sign_body
from toolkit.system.foreign_files import read_foreign_file

logger = logging.getLogger(__name__)
KEPT_FACTS_FILE = ".kept.json"
MAX_KEPT_BYTES = 512 * 2**20
MIN_NEW_VALUES = 200
"""New values that are worth writing the file anew: they take a second to read again."""
FileStamp = tuple[int, ...]
"""Inode, size and time of the last change of a file (ns)."""


@dataclass
class _Kept:
    """values: (run id, kind) joined by a space -> [stamp, value]. new: how many of them the file does not have."""

    values: dict[str, list[Any]] = field(default_factory=dict)
    new: int = 0


_guard = threading.Lock()
_KEPT: dict[str, _Kept] = {}


def stamp_file(path: str) -> FileStamp:
    """Return the stamp of a file. Raises OSError.

    path: a text, because it is asked of every run at every look, and Path takes ten times as long.
    """
    found = os.stat(path)  # noqa: PTH116
    return found.st_ino, found.st_size, found.st_mtime_ns


def is_there(path: str) -> bool:
    """Return whether a file exists; as fast as `stamp_file`."""
    try:
        stamp_file(path)
    except OSError:
        return False
    return True


def recall_fact(runs_dir: str, run_id: str, kind: str, stamp: FileStamp) -> Any:
    """Return what was kept for a run when its file had this stamp; None if nothing was."""
    with _guard:
        entry = _load(runs_dir).values.get(f"{run_id} {kind}")
    return entry[1] if entry is not None and tuple(entry[0]) == stamp else None


def keep_fact(runs_dir: str, run_id: str, kind: str, stamp: FileStamp, value: Any) -> None:
    """Keep a JSON value that was read when the file had this stamp."""
    with _guard:
        kept = _load(runs_dir)
        kept.values[f"{run_id} {kind}"] = [list(stamp), value]
        kept.new += 1


def write_kept_facts(runs_dir: str) -> None:
    """Write the file if many values are new; what belongs to deleted runs is left out."""
    with _guard:
        kept = _load(runs_dir)
        if kept.new < MIN_NEW_VALUES:
            return
        kept.new = 0  # before the write: a full disk is not tried again at every look
        try:
            # here and not when a run is deleted: other processes delete runs too
            with os.scandir(runs_dir) as entries:
                existing = {entry.name for entry in entries}
            kept.values = {key: entry for key, entry in kept.values.items() if key.split(" ")[0] in existing}
            text = json.dumps(kept.values, ensure_ascii=False, separators=(",", ":"))
            durable_write(Path(runs_dir) / KEPT_FACTS_FILE, f"{_sign(runs_dir, text.encode())}\n{text}")
        except (OSError, RunError) as error:
            logger.info("%s is not written: %s", KEPT_FACTS_FILE, error)


def _load(runs_dir: str) -> _Kept:
    """Return what is kept for a folder of runs. Call it with the guard held."""
    if runs_dir not in _KEPT:
        _KEPT[runs_dir] = _Kept(_read(runs_dir))
    return _KEPT[runs_dir]


def _read(runs_dir: str) -> dict[str, list[Any]]:
    try:
        signature, _, text = read_foreign_file(Path(runs_dir) / KEPT_FACTS_FILE, MAX_KEPT_BYTES).partition(b"\n")
        if not hmac.compare_digest(signature, _sign(runs_dir, text).encode()):
            return {}
        values: dict[str, list[Any]] = json.loads(text)
    except (OSError, ValueError, RunError):  # there is none, or it can't be trusted
        return {}
    return values


def _sign(runs_dir: str, text: bytes) -> str:
    return sign_body({"kept facts": hashlib.sha256(text).hexdigest(), "folder": runs_dir, "build": build_id()})


def forget_kept_facts(runs_dirs: Sequence[str] = ()) -> None:
    """Drop what is kept in memory, as a new process would find it. runs_dirs: only these; empty: all."""
    with _guard:
        for one in runs_dirs or list(_KEPT):
            _KEPT.pop(one, None)
