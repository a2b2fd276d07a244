"""Uploaded and named files, stored under their content hash before they are parsed.

`save_dir/uploads/<first 12 hex digits of the sha256>-<label>.<ext>`. A file is written under a temporary name, synced
and renamed: a file with a final name is complete.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from toolkit.data.progress import Watch
from toolkit.data.storage.room import check_room
from toolkit.data.storage.stored_names import HASH_DIGITS, make_stored_name, original_file_name
from toolkit.errors import DataError
from toolkit.system.durable import publish_file
from toolkit.system.private_files import tighten_save_dir

UPLOAD_CHUNK_BYTES = 1 << 20
ABANDONED_UPLOAD_S = 86_400
"""Age in seconds (a day) at which an unfinished upload is deleted."""
_SETTLED_S = 2.0
"""Age in seconds from which a file's modification time is trusted: a change within its resolution would be missed."""


@dataclass(frozen=True)
class StoredFile:
    """A file whose bytes will not change. sha256: 64 hex digits; label: its displayed name."""

    path: Path
    sha256: str
    label: str


_known: dict[tuple[str, str, int, int, int], StoredFile] = {}


def store_upload(data: bytes | BinaryIO, name: str, save_dir: Path) -> Path:
    """Store an upload and return its path. The same bytes under the same name are the same file.

    Raises DataError when it can't be written, for example because the disk is full.
    """
    chunks = iter([data]) if isinstance(data, bytes) else _read_chunks(data, name, 0, Watch())
    return _store_chunks(chunks, name, save_dir).path


def store_named_file(path: Path, save_dir: Path, watch: Watch | None = None) -> StoredFile:
    """Copy a file that the user named into the uploads folder; an upload is returned without copying.

    Raises DataError when it does not exist, is not a regular file, or can't be read.
    """
    folder = uploads_dir(save_dir)
    if path.is_symlink():
        message = f"{path} is a symbolic link to {path.readlink()}."
        raise DataError(message, "Enter the path of the file itself.")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}.", "Check the path, or upload the file.") from error
    except (OSError, ValueError) as error:
        raise DataError(f"The file {path} can't be opened ({error}).", "Check the path and its permissions.") from error
    before = os.fstat(descriptor)
    if not stat.S_ISREG(before.st_mode):
        os.close(descriptor)
        what = "a folder" if stat.S_ISDIR(before.st_mode) else "not a regular file"
        raise DataError(f"{path} is {what}.", "Enter the path of one file with data.")
    with os.fdopen(descriptor, "rb") as file:
        key = _stat_key(folder, path, before)
        if (known := _known.get(key)) is not None and known.path.exists():
            return known
        chunks = _read_chunks(file, path.name, before.st_size, watch or Watch())
        chunks = islice(chunks, before.st_size // UPLOAD_CHUNK_BYTES + 1)  # some files of the kernel have no end
        is_upload = path.resolve().parent == folder.resolve()
        check_room(path, before, None if is_upload else folder)
        source = _hash_chunks(chunks, path) if is_upload else _store_chunks(chunks, path.name, save_dir)
        unchanged = key == _stat_key(folder, path, os.fstat(descriptor))
    if unchanged and time.time() - before.st_mtime > _SETTLED_S:
        _known[key] = source
    return source


class IncomingFile:
    """A file that arrives in chunks, hashed while it is written under a temporary name.

    Raises DataError when the file can't be created.
    """

    def __init__(self, save_dir: Path) -> None:
        folder = uploads_dir(save_dir)
        self.path = folder / f".new-{secrets.token_hex(8)}"
        self._digest = hashlib.sha256()
        try:
            self._out = self.path.open("xb")
        except OSError as error:
            raise _unwritable(folder, error) from error

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def write(self, chunk: bytes) -> None:
        """Append a chunk. Raises OSError."""
        self._digest.update(chunk)
        self._out.write(chunk)

    def close(self) -> None:
        self._out.close()

    def discard(self) -> None:
        """Delete the temporary file."""
        self._out.close()
        self.path.unlink(missing_ok=True)


def store_incoming_file(file: IncomingFile, name: str, save_dir: Path) -> Path:
    """Store a file that has arrived completely and return its path. Raises DataError when it can't be written."""
    folder = uploads_dir(save_dir)
    final = folder / make_stored_name(file.sha256, name)
    try:
        file.close()
        if file.path.parent.resolve() == folder.resolve():
            publish_file(file.path, final)
            stored = StoredFile(final, file.sha256, original_file_name(final))
            _known[_stat_key(folder, final, final.stat())] = stored
            return final
        with file.path.open("rb") as arrived:  # the draft's save_dir is another one than the app's
            return store_upload(arrived, name, save_dir)
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        file.discard()


def remove_abandoned_uploads(save_dir: Path) -> None:
    """Delete unfinished uploads of an app that died."""
    folder = uploads_dir(save_dir)
    if folder.is_symlink():  # what it leads to may not be ours
        return
    for file in folder.glob(".new-*"):
        with suppress(FileNotFoundError):  # another app has just renamed or deleted it
            if time.time() - file.stat().st_mtime > ABANDONED_UPLOAD_S:
                file.unlink()


def list_read_uploads(save_dir: Path) -> list[Path]:
    """Return the stored files that could be read as a table, the newest first."""
    folder = uploads_dir(save_dir)
    read = {table.name[:HASH_DIGITS] for table in (folder / "tables").glob("*.parquet")}
    found = [path for path in folder.glob("*-*.*") if path.is_file() and path.name[:HASH_DIGITS] in read]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def hash_bundled_file(path: Path) -> StoredFile:
    """Return a file that ships with the toolkit, without copying it."""
    with path.open("rb") as file:
        return _hash_chunks(_read_chunks(file, path.name, 0, Watch()), path)


def uploads_dir(save_dir: Path) -> Path:
    """Return the uploads folder and create it if necessary. Raises DataError when it can't be created."""
    folder = Path(save_dir) / "uploads"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tighten_save_dir(folder.parent)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder


def _stat_key(folder: Path, path: Path, found: os.stat_result) -> tuple[str, str, int, int, int]:
    return str(folder.absolute()), str(path.absolute()), found.st_ino, found.st_size, found.st_mtime_ns


def _read_chunks(file: BinaryIO, name: str, size: int, watch: Watch) -> Iterator[bytes]:
    """Yield the file's bytes, and report a step to `watch` for each chunk. size: in bytes; 0 if unknown."""
    done = 0
    while chunk := _read_chunk(file, name):
        done += len(chunk)
        watch.step(done / size if size else 0.0, "copying")
        yield chunk


def _read_chunk(data: BinaryIO, name: str) -> bytes:
    try:
        return data.read(UPLOAD_CHUNK_BYTES)
    except (OSError, ValueError) as error:
        message = f"{name[:80]} could not be read completely ({error})."
        raise DataError(message, "Try again; the incomplete copy was deleted.") from error


def _store_chunks(chunks: Iterator[bytes], name: str, save_dir: Path) -> StoredFile:
    folder = uploads_dir(save_dir)
    temporary = folder / f".new-{secrets.token_hex(8)}"
    digest = hashlib.sha256()
    try:
        with temporary.open("xb") as out:
            for chunk in chunks:
                digest.update(chunk)
                out.write(chunk)
        final = folder / make_stored_name(digest.hexdigest(), name)
        publish_file(temporary, final)
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    return StoredFile(final, digest.hexdigest(), original_file_name(final))


def _hash_chunks(chunks: Iterator[bytes], path: Path) -> StoredFile:
    running = hashlib.sha256()
    for chunk in chunks:
        running.update(chunk)
    digest = running.hexdigest()
    is_upload = path.name.startswith(digest[:HASH_DIGITS] + "-")
    return StoredFile(path, digest, original_file_name(path) if is_upload else path.name)


def _unwritable(folder: Path, error: OSError) -> DataError:
    hint = "Free some disk space, or choose another output folder."
    return DataError(f"{folder} can't be written: {error.strerror or error}.", hint)
