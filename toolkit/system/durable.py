"""Files that survive a power cut: write one whole, commit a directory, verify a commit.

A directory counts only with a COMMIT.json that lists the size and SHA-256 of every file in it and carries an HMAC by
this install's own key: a damaged, incomplete or foreign directory can't pass for ours. Knows nothing of runs.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from toolkit.errors import RunError

COMMIT_NAME = "COMMIT.json"
COMMIT_SCHEMA = 1
KEY_BYTES = 32


def fsync_dir(path: Path) -> None:
    """Make the names in `path` durable; raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def durable_write(path: Path, content: bytes | str, mode: int = 0o644) -> None:
    """Replace `path` by `content` (text as UTF-8): readers see the old or the new whole, also after a power cut.

    Raises OSError, and leaves the old file as it was.
    """
    raw = content.encode() if isinstance(content, str) else content
    _replace(path, io.BytesIO(raw), mode)


def durable_copy(source: Path, path: Path) -> None:
    """Replace `path` by a copy of `source`, as `durable_write` does, without holding it in memory. Raises OSError."""
    with source.open("rb") as content:
        _replace(path, content)


def _replace(path: Path, content: BinaryIO, mode: int = 0o644) -> None:
    aside = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            shutil.copyfileobj(content, file)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


def remove_tree(path: Path) -> None:
    """Delete a directory so that a half-deleted one can never pass for a whole one: rename first, then delete."""
    trash = path.with_name(f".trash-{path.name}-{secrets.token_hex(4)}")
    try:
        path.rename(trash)
    except FileNotFoundError:
        return
    shutil.rmtree(trash)


def remove_leftover_dirs(folder: Path, older_than_seconds: float = 3600) -> None:
    """Remove what interrupted creations (.new-*) and deletions (.trash-*) left in `folder`."""
    for path in (*folder.glob(".new-*"), *folder.glob(".trash-*")):
        try:
            age = time.time() - path.stat().st_mtime
        except FileNotFoundError:  # another process sweeps too
            continue
        if age > older_than_seconds:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def scratch_dir(path: Path) -> Iterator[Path]:
    """An empty folder that lives as long as the block; what a killed process left there goes first. One user a path."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def commit_dir(staging: Path, final: Path, extra: dict[str, Any]) -> dict[str, Any]:
    """Make the files in `staging` durable, list them in COMMIT.json together with `extra`, and rename it to `final`.

    `staging` lies beside `final` (one file system). An older `final` is moved away first and deleted last. Returns the
    content of COMMIT.json. Raises OSError; RunError for a symbolic link in `staging`.
    """
    files = {name: _sync_and_hash(staging / name) for name in _file_names(staging)}
    body = {"schema": COMMIT_SCHEMA, "files": files, **extra}
    for folder in sorted({(staging / name).parent for name in files} - {staging}, reverse=True):
        fsync_dir(folder)
    durable_write(staging / COMMIT_NAME, json.dumps({**body, "hmac": _sign_body(body)}, indent=1))
    old = final.with_name(f".trash-{final.name}-{secrets.token_hex(4)}")
    if final.exists():
        final.rename(old)
    staging.rename(final)
    fsync_dir(final.parent)
    shutil.rmtree(old, ignore_errors=True)
    return body


def verify_commit(folder: Path, *, own: bool = True) -> dict[str, Any]:
    """The content of COMMIT.json when every file is there, unchanged, and nothing else is.

    own: also demand that this install wrote it (an adapter of safetensors alone may come from elsewhere, a checkpoint
    to resume from may not). Raises RunError that names the first thing wrong.
    """
    try:
        body: dict[str, Any] = json.loads((folder / COMMIT_NAME).read_bytes())
        files: dict[str, dict[str, Any]] = body["files"]
        schema = int(body["schema"])
        signature = str(body.pop("hmac"))
        if not isinstance(files, dict):
            raise TypeError("files is no object")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _untrusted_error(folder, f"its {COMMIT_NAME} can't be read ({error})") from error
    if schema > COMMIT_SCHEMA:
        raise RunError(f"{folder} was written by a newer version (schema {schema}).", "Update the toolkit to use it.")
    if own and not hmac.compare_digest(signature, _sign_body(body)):
        raise _untrusted_error(folder, "it was not written by this install, or was changed since")
    found = set(_file_names(folder)) - {COMMIT_NAME}
    if found != set(files):
        raise _untrusted_error(folder, f"files missing or added: {', '.join(sorted(found ^ set(files)))}")
    for name, expected in files.items():
        if _hash_file(folder / name) != expected:
            raise _untrusted_error(folder, f"{name} is damaged")
    return body


def load_install_key() -> bytes:
    """This install's secret, made at first use; only its owner can read it. Raises RunError."""
    home = os.environ.get("FTK_STATE_DIR")
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    path = (Path(home) if home else state / "finetuning-toolkit") / "key"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _create_key(path)
        key = path.read_bytes()
    except OSError as error:
        hint = "Set FTK_STATE_DIR to a folder that only you can write to."
        raise RunError(f"The install's key at {path} can't be used: {error}.", hint) from error
    if len(key) != KEY_BYTES:
        raise RunError(f"The install's key at {path} is damaged.", "Delete it: checkpoints can't be resumed then.")
    return key


def _create_key(path: Path) -> None:
    aside = path.with_name(f".key-{secrets.token_hex(6)}")
    durable_write(aside, secrets.token_bytes(KEY_BYTES), 0o600)
    try:
        os.link(aside, path)  # fails where another process was first: its key is the one
    except FileExistsError:
        return
    finally:
        aside.unlink()


def _file_names(folder: Path) -> Iterable[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise RunError(f"{path} is a symbolic link.", "Replace it by the file itself.")
        if path.is_file():
            yield path.relative_to(folder).as_posix()


def _sync_and_hash(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return _hash_file(path)


def _hash_file(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _sign_body(body: dict[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    return hmac.new(load_install_key(), canonical, "sha256").hexdigest()


def _untrusted_error(folder: Path, why: str) -> RunError:
    return RunError(f"{folder.name} can't be trusted: {why}.", "Start the run again.")
