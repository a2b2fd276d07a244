"""The files that were uploaded over the API: `<save_dir>/api/files/<id>/` with record.json and the content.

A folder is written under another name and renamed when it is complete, and renamed before it is deleted. Text from a
request becomes part of a path only after it has matched the pattern of an id.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from toolkit.data.storage.stored_names import make_file_label
from toolkit.errors import RunError
from toolkit.system.durable import durable_write, fsync_dir, publish_file, remove_leftover_dirs, remove_tree
from toolkit.system.foreign_files import read_foreign_json
from toolkit.system.printable import format_bytes
from toolkit.worker.serving.request_models import RequestError

MAX_FILE_BYTES = 512 * 2**20
"""As in OpenAI's API."""
MAX_STORED_BYTES = 16 * MAX_FILE_BYTES
"""All files together, those that are arriving included."""
KEPT_FREE_BYTES = 2**30
"""Free disk space that an upload must leave: the runs need it more."""
MAX_FILE_NAME_LENGTH = 200
TRAINING_PURPOSE = "fine-tune"
_FILE_ID = re.compile(r"file-[0-9a-f]{24}")

logger = logging.getLogger(__name__)


class StoredUpload(BaseModel):
    """What record.json says of a file. filename: as the client named it, only for display."""

    id: Annotated[str, Field(pattern=r"^file-[0-9a-f]{24}$")]
    filename: Annotated[str, Field(max_length=MAX_FILE_NAME_LENGTH)]
    bytes: Annotated[int, Field(ge=0)]
    created: Annotated[float, Field(ge=0, le=2**35)]

    def describe(self) -> dict[str, Any]:
        """Return OpenAI's file object."""
        return describe_file(self.id, self.filename, self.bytes, self.created, TRAINING_PURPOSE)


def describe_file(file_id: str, name: str, size: int, created: float, purpose: str) -> dict[str, Any]:
    """Return a file object of OpenAI's API."""
    body = {"id": file_id, "object": "file", "bytes": size, "created_at": int(created), "filename": name}
    return {**body, "purpose": purpose, "status": "processed", "expires_at": None, "status_details": None}


def make_store_folder(folder: Path) -> Path:
    """Create a folder of the API, if there is none, and return it. Raises RunError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"The folder {folder} can't be made: {error.strerror or error}."
        raise RunError(message, "Remove what is in its place, or choose another --save-dir.") from error
    return folder


class FileStore:
    """The uploaded files of a save_dir. Several threads may use it. Raises RunError if there can be no folder."""

    def __init__(self, save_dir: Path) -> None:
        self.folder = make_store_folder(save_dir / "api" / "files")
        self._lock = threading.Lock()
        self._arriving = 0
        remove_leftover_dirs(self.folder, older_than_seconds=0)  # one server has this save_dir: nothing is arriving

    def list_files(self) -> list[StoredUpload]:
        """Return all files, newest first. A damaged one is left out."""
        with os.scandir(self.folder) as entries:
            names = [e.name for e in entries if _FILE_ID.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]
        found = [record for name in names if (record := self._read(name)) is not None]
        return sorted(found, key=lambda record: (record.created, record.id), reverse=True)

    def find_file(self, file_id: str) -> StoredUpload:
        """Return a file. Raises RequestError (404): there is none with this id."""
        record = self._read(file_id) if _FILE_ID.fullmatch(file_id) else None
        if record is None:
            raise no_such_file(file_id)
        return record

    def content_path(self, record: StoredUpload) -> Path:
        """Return the path of a file's content."""
        return self.folder / record.id / f"{make_file_label(record.filename)}.jsonl"

    def delete_file(self, file_id: str) -> None:
        """Delete a file; a run that was made of it has its own copy. Raises RequestError (404)."""
        remove_tree(self.folder / self.find_file(file_id).id)

    @contextmanager
    def reserve_space(self, size: int) -> Iterator[None]:
        """Reserve `size` bytes while a file arrives. Raises RequestError: there is no room for them."""
        if size > MAX_FILE_BYTES:
            message = f"The file has about {format_bytes(size)}; the limit is {format_bytes(MAX_FILE_BYTES)}."
            raise RequestError(message, "Upload a smaller file.", status=413, code="too_large", param="file")
        with self._lock:
            stored = sum(record.bytes for record in self.list_files())
            if stored + self._arriving + size > MAX_STORED_BYTES:
                message = f"The uploaded files would take more than {format_bytes(MAX_STORED_BYTES)}."
                hint = "Delete files that you no longer need (DELETE /v1/files/ID)."
                raise RequestError(message, hint, status=413, code="storage_full", param="file")
            if shutil.disk_usage(self.folder).free - self._arriving - size < KEPT_FREE_BYTES:
                message = "The disk has no room for this file."
                raise RequestError(message, "Free some space.", status=507, code="disk_full", param="file")
            self._arriving += size
        try:
            yield
        finally:
            with self._lock:
                self._arriving -= size

    @contextmanager
    def stage_file(self) -> Iterator[Path]:
        """Provide a folder for a file that arrives; what is left in it at the end of the block is deleted."""
        staging = self.folder / f".new-{secrets.token_hex(8)}"
        staging.mkdir(mode=0o700)
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def keep_file(self, staging: Path, content: Path, filename: str) -> StoredUpload:
        """Store a file that has arrived completely. Raises OSError."""
        size = content.stat().st_size
        record = StoredUpload(id=f"file-{secrets.token_hex(12)}", filename=filename, bytes=size, created=time.time())
        publish_file(content, staging / f"{make_file_label(filename)}.jsonl")
        durable_write(staging / "record.json", record.model_dump_json())
        staging.rename(self.folder / record.id)
        fsync_dir(self.folder)
        return record

    def _read(self, file_id: str) -> StoredUpload | None:
        path = self.folder / file_id / "record.json"
        try:
            record = StoredUpload.model_validate(read_foreign_json(path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            logger.warning("%s can't be read: %s", path, error)
            return None
        return record if record.id == file_id and self.content_path(record).is_file() else None


def no_such_file(file_id: str) -> RequestError:
    """Return the error for an id that no file has."""
    message = f"There is no file '{file_id[:80]}'."
    return RequestError(message, "List the files with GET /v1/files.", status=404, code="not_found", param="id")
