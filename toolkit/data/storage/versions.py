"""Versions of a dataset: a fix creates a new table, and the original is never changed.

`save_dir/uploads/versions/<original>-<version>.parquet`, both the first 12 hex digits of a sha256: of the original's
bytes, and of the recipe (the parent, the action, the rows). The same fix of the same table is the same file. The footer
contains the origin, so that `data.path` can name a version like any other file: in the app, in a YAML file and on the
command line. A `.signature` next to it proves that this installation made it: only then the app itself reads it.
Undo goes to the parent, redo to the newest version made from the current table.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from toolkit.data.child_process import make_table_in_child
from toolkit.data.findings import Fix
from toolkit.data.read_options import time_limit_seconds
from toolkit.data.storage.stored_names import HASH_DIGITS
from toolkit.data.storage.uploads import uploads_dir
from toolkit.data.table import DatasetVersion, RowNumbers, Table, load_table
from toolkit.data.task_process import ROWS_FILE, RepairRequest, parquet_content_bytes
from toolkit.errors import DataError, RunError
from toolkit.system.durable import durable_write, publish_file, scratch_dir, sign_body
from toolkit.system.foreign_files import open_regular_file, read_foreign_file

_NAME = re.compile(rf"[0-9a-f]{{{HASH_DIGITS}}}-([0-9a-f]{{{HASH_DIGITS}}})\.parquet")


@dataclass(frozen=True)
class DatasetReference:
    """How the data settings name a dataset."""

    file_type: str
    path: str


def apply_fix(fix: Fix, table: Table, reference: DatasetReference, save_dir: Path) -> DatasetReference:
    """Create the version that results from `fix` of `table`, which `reference` names. Takes seconds per million rows.

    Raises DataError when it can't be created, for example because no row would remain.
    """
    rows = np.ascontiguousarray(fix.rows, dtype=np.int64)
    recipe = {
        "parent": table.sha256,
        "action": fix.action,
        "columns": list(fix.columns),
        "rows": hashlib.sha256(rows.tobytes()).hexdigest(),
        **({"spellings": fix.settings["spellings"]} if fix.action == "merge" else {}),
        # another file than that of a version of before, whose rows were split anew
        **({} if table.version is not None and table.origin is None else {"split": "as the original"}),
    }
    sha256 = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    earlier = table.version
    original = original_sha256(table)
    final = versions_dir(save_dir) / f"{original[:HASH_DIGITS]}-{sha256[:HASH_DIGITS]}.parquet"
    if final.exists():
        os.utime(final)  # redo goes to the version that was made or chosen last
    else:
        steps = (*(earlier.steps if earlier else ()), fix.done)
        version = DatasetVersion(original, table.sha256, reference.file_type, reference.path, steps)
        _write_version(fix, rows, table, sha256, version, final)
    return DatasetReference(version_file_type(reference), str(final))


def version_file_type(reference: DatasetReference) -> str:
    """Return the file type of a version's settings; a version is a file even if the original came from the hub."""
    return "json" if reference.file_type == "huggingface" else reference.file_type


def open_version(path: Path) -> Table | None:
    """Return the table if `path` is a version that this installation made, by folder, name and signature, else None.

    Any other file is left to the readers, which bound what it may expand to, even if it has such a name. Raises
    DataError when the file is missing or is not the version that it is named after.
    """
    name_match = _NAME.fullmatch(path.name)
    if name_match is None or path.absolute().parts[-3:-1] != ("uploads", "versions"):
        return None
    if not path.is_file():
        raise DataError(f"The version of the data {path} is missing.", "Choose the data again.")
    table = load_table(path)
    if table.version is None or not table.sha256.startswith(name_match.group(1)):
        raise DataError(f"The content of {path} does not match its file name.", "Choose the data again.")
    return table if _is_signed(path) else None


def original_sha256(table: Table) -> str:
    """Return the sha256 of the original, which a dataset and all its versions share."""
    return table.version.original if table.version else table.sha256


def find_previous_version(table: Table) -> DatasetReference | None:
    """Return the dataset that this version was made from; None for an original."""
    return DatasetReference(table.version.parent_type, table.version.parent_path) if table.version else None


def find_next_version(table: Table, reference: DatasetReference, save_dir: Path) -> DatasetReference | None:
    """Return the newest version made from this table, or None."""
    original = original_sha256(table)
    found = sorted(
        versions_dir(save_dir).glob(f"{original[:HASH_DIGITS]}-*.parquet"), key=lambda file: -file.stat().st_mtime_ns
    )
    for file in found:
        made = load_table(file).version
        if made is not None and made.parent == table.sha256 and _is_signed(file):
            return DatasetReference(version_file_type(reference), str(file))
    return None


def find_original_dataset(table: Table) -> DatasetReference | None:
    """Return the original of a version; None for an original. Raises DataError for versions that lead in a circle."""
    current: Table | None = table
    reference = None
    seen: set[str] = set()
    while current is not None and current.version is not None:
        if current.sha256 in seen:
            raise DataError(
                f"The history of the data version {table.path} leads back to itself.", "Choose the data again."
            )
        seen.add(current.sha256)
        reference = find_previous_version(current)
        current = open_version(Path(reference.path)) if reference else None
    return reference


def versions_dir(save_dir: Path) -> Path:
    """Return the folder of versions and create it if necessary."""
    folder = uploads_dir(save_dir) / "versions"
    folder.mkdir(exist_ok=True)
    return folder.absolute()


def _signature_file(version: Path) -> Path:
    return version.with_suffix(".signature")


def _sign_version(name: str, content: Path) -> str:
    with open_regular_file(content) as file:
        return sign_body({"version": name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()})


def _is_signed(version: Path) -> bool:
    found = version.stat()
    return _is_signed_cached(version, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@lru_cache(maxsize=100)
def _is_signed_cached(version: Path, *stamp: int) -> bool:
    del stamp  # only part of the cache key
    try:
        given = read_foreign_file(_signature_file(version), 1000)
        return hmac.compare_digest(given, _sign_version(version.name, version).encode())
    except (OSError, RunError):
        return False


def _write_version(fix: Fix, rows: RowNumbers, table: Table, sha256: str, version: DatasetVersion, final: Path) -> None:
    folder = final.parent / f".part-{sha256[:HASH_DIGITS]}-{os.getpid()}"
    columns = list(fix.columns)
    try:
        with scratch_dir(folder):
            np.save(folder / ROWS_FILE, rows)
            spellings = fix.settings.get("spellings", {}) if fix.action == "merge" else {}
            request = RepairRequest(
                str(table.path), str(folder), fix.action, columns, sha256, version.as_dict(), spellings
            )
            limit = time_limit_seconds(parquet_content_bytes(table.path))
            made = make_table_in_child("toolkit.data.doctor.repair_task", request.dump(), folder, limit)
            durable_write(_signature_file(final), _sign_version(final.name, made))
            publish_file(made, final)
    except OSError as error:
        message = f"{final.parent} can't be written: {error.strerror or error}."
        raise DataError(message, "Free some disk space.") from error
