"""Files and directories that survive a power cut.

A committed directory holds a COMMIT.json with the size and SHA-256 of every file in it and an HMAC made with this
installation's own key. A damaged, incomplete or foreign directory therefore fails verification.
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
from toolkit.system.foreign_files import read_foreign_file, read_foreign_json
from toolkit.system.private_files import find_privacy_problem

COMMIT_NAME = "COMMIT.json"
COMMIT_SCHEMA = 1
KEY_BYTES = 32
MAX_SECRET_BYTES = 4096
STATE_FOLDER_HINT = "Set FTK_STATE_DIR to a folder that only you can write to."


def fsync_dir(path: Path) -> None:
    """Flush the names in the directory `path` to disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def durable_write(path: Path, content: bytes | str, mode: int = 0o600) -> None:
    """Replace `path` by `content` (text as UTF-8). Readers see the old or the new file, even after a power cut.

    Raises OSError; the old file is then unchanged.
    """
    raw = content.encode() if isinstance(content, str) else content
    _replace(path, io.BytesIO(raw), mode)


def durable_copy(source: Path, path: Path) -> None:
    """Replace `path` by a copy of `source`, as `durable_write` does, without reading it into memory. Raises OSError."""
    with source.open("rb") as content:
        _replace(path, content)


def _replace(path: Path, content: BinaryIO, mode: int = 0o600) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            shutil.copyfileobj(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


def remove_tree(path: Path) -> None:
    """Delete a directory. It is renamed first, so that a half-deleted one is never taken for a complete one."""
    trash = path.with_name(f".trash-{path.name}-{secrets.token_hex(4)}")
    try:
        path.rename(trash)
    except FileNotFoundError:
        return
    shutil.rmtree(trash)


def remove_leftover_dirs(folder: Path, older_than_seconds: float = 3600) -> None:
    """Remove what interrupted creations (.new-*) and deletions (.trash-*) have left in `folder`, no links."""
    if folder.is_symlink():  # what it leads to may not be ours
        return
    for path in (*folder.glob(".new-*"), *folder.glob(".trash-*")):
        try:
            age = time.time() - path.lstat().st_mtime
        except FileNotFoundError:  # another process removes leftovers too
            continue
        if age > older_than_seconds and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def scratch_dir(path: Path) -> Iterator[Path]:
    """Provide an empty folder at `path` for the block, and remove what a killed process has left there.

    Only one process may use a path.
    """
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def commit_dir(staging: Path, final: Path, extra: dict[str, Any]) -> dict[str, Any]:
    """Flush the files in `staging`, list them in COMMIT.json together with `extra`, and rename it to `final`.

    `staging` must be on the same file system as `final`. An existing `final` is renamed first and deleted last.
    Returns the content of COMMIT.json. Raises OSError, or RunError for a symbolic link in `staging`.
    """
    files = {name: _sync_and_hash(staging / name) for name in _file_names(staging)}
    body = {"schema": COMMIT_SCHEMA, "files": files, **extra}
    for folder in sorted({(staging / name).parent for name in files} - {staging}, reverse=True):
        fsync_dir(folder)
    durable_write(staging / COMMIT_NAME, json.dumps({**body, "hmac": sign_body(body)}, indent=1))
    old = final.with_name(f".trash-{final.name}-{secrets.token_hex(4)}")
    if final.exists():
        final.rename(old)
    staging.rename(final)
    fsync_dir(final.parent)
    shutil.rmtree(old, ignore_errors=True)
    return body


def verify_commit(folder: Path, *, require_own_signature: bool = True) -> dict[str, Any]:
    """Check that every committed file is present and unchanged, with no other file; return the content of COMMIT.json.

    require_own_signature: also check that this installation wrote it. Needed for checkpoints, which are unpickled; an
    adapter in safetensors format may come from elsewhere. Raises RunError that names the first fault.
    """
    try:
        body: dict[str, Any] = read_foreign_json(folder / COMMIT_NAME)
        files: dict[str, dict[str, Any]] = body["files"]
        schema = int(body["schema"])
        signature = str(body.pop("hmac"))
        if not isinstance(files, dict):
            raise TypeError("files is not an object")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _untrusted_error(folder, f"its {COMMIT_NAME} can't be read ({error})") from error
    if schema > COMMIT_SCHEMA:
        raise RunError(f"{folder} was written by a newer version (schema {schema}).", "Update the toolkit to use it.")
    if require_own_signature and not hmac.compare_digest(signature, sign_body(body)):
        raise _untrusted_error(folder, "it was not written by this installation, or it was changed since")
    found = set(_file_names(folder)) - {COMMIT_NAME}
    if found != set(files):
        raise _untrusted_error(folder, f"files missing or added: {', '.join(sorted(found ^ set(files)))}")
    for name, expected in files.items():
        if _hash_file(folder / name) != expected:
            raise _untrusted_error(folder, f"{name} is damaged")
    return body


def state_folder() -> Path:
    """Return the folder of this installation's secrets: FTK_STATE_DIR, or one in the user's state folder."""
    home = os.environ.get("FTK_STATE_DIR")
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return Path(home) if home else state / "finetuning-toolkit"


def load_install_key() -> bytes:
    """Return this installation's secret key, created at first use and readable by its owner only. Raises RunError."""
    path, loss = state_folder() / "key", "existing runs then can't be resumed"
    key = load_secret_file(path, secrets.token_bytes(KEY_BYTES), "The installation's key", loss)
    if len(key) != KEY_BYTES:
        raise RunError(
            f"The installation's key at {path} is damaged.", "Delete it. Existing runs then can't be resumed."
        )
    return key


def load_secret_file(path: Path, fresh: bytes, title: str, loss: str, hint: str = STATE_FOLDER_HINT) -> bytes:
    """Return the content of a file that only its owner can access, which is created with `fresh` at first use.

    title: begins a sentence about it. loss: what happens if it is deleted, in a clause. hint: what to do when it can't
    be written or read. Raises RunError.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _create_secret(path, fresh)
        problem = find_privacy_problem(path)
        content = b"" if problem else read_foreign_file(path, MAX_SECRET_BYTES)
    except OSError as error:
        raise RunError(f"{title} at {path} can't be used: {error}.", hint) from error
    if problem:
        remedy = f"If only you had access to it, run: chmod 600 '{path}'. Otherwise delete it; {loss}."
        raise RunError(f"{title} at {path} {problem}: somebody else may have read or written it.", remedy)
    return content


def _create_secret(path: Path, fresh: bytes) -> None:
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(6)}")
    durable_write(temporary, fresh, 0o600)
    try:
        os.link(temporary, path)  # fails if another process was first: then its file is used
    except FileExistsError:
        return
    finally:
        temporary.unlink()


def _file_names(folder: Path) -> Iterable[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise RunError(f"{path} is a symbolic link.", "Replace it with the file itself.")
        if path.is_file():
            yield path.relative_to(folder).as_posix()


def _sync_and_hash(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return _hash_file(path)


def _hash_file(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def sign_body(body: dict[str, Any]) -> str:
    """Return the HMAC of a JSON object with this installation's key, in hex digits. Raises RunError."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    return hmac.new(load_install_key(), canonical, "sha256").hexdigest()


def _untrusted_error(folder: Path, why: str) -> RunError:
    return RunError(f"{folder.name} can't be trusted: {why}.", "Start the run again.")


def publish_file(temporary: Path, final: Path) -> None:
    """Rename a complete file to its final name on the same file system and make it durable. Raises OSError."""
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # before the rename: after a power cut the name must not stand for an empty file
    finally:
        os.close(descriptor)
    temporary.replace(final)
    fsync_dir(final.parent)
