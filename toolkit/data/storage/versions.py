"""Versions of a dataset: a fix makes a new table beside the original, which is never changed.

`save_dir/uploads/versions/<original>-<version>.parquet`, both the first 12 hex digits of a sha256: of the original's
bytes, and of the recipe (the parent, what was done, to which rows). The same fix of the same table is the same file.
Its footer holds the recipe, so that `data.path` may name it like any other file, in the page, in a YAML file and on the
command line. Undo goes to the parent, redo to the newest version made from here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toolkit.data.child_process import make_table_in_child
from toolkit.data.findings import Fix, RowNumbers
from toolkit.data.read_options import time_limit_seconds
from toolkit.data.storage.uploads import HASH_DIGITS, publish_file, uploads_dir
from toolkit.data.table import DatasetVersion, Table, load_table
from toolkit.data.task_process import ROWS_FILE, RepairRequest, parquet_content_bytes
from toolkit.errors import DataError

_NAME = re.compile(rf"[0-9a-f]{{{HASH_DIGITS}}}-([0-9a-f]{{{HASH_DIGITS}}})\.parquet")


@dataclass(frozen=True)
class DatasetReference:
    """How the data settings name a dataset."""

    file_type: str
    path: str


def apply_fix(fix: Fix, table: Table, place: DatasetReference, save_dir: Path) -> DatasetReference:
    """Make the version that `fix` makes of `table`, which `place` names. Waits for it: seconds a million rows.

    Raises DataError when it can't be made, e.g. because no row would be left.
    """
    rows = np.ascontiguousarray(fix.rows, dtype=np.int64)
    recipe = {"parent": table.sha256, "action": fix.action, "columns": list(fix.columns),
              "rows": hashlib.sha256(rows.tobytes()).hexdigest()}  # fmt: skip
    sha256 = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    earlier = table.version
    original = original_sha256(table)
    final = versions_dir(save_dir) / f"{original[:HASH_DIGITS]}-{sha256[:HASH_DIGITS]}.parquet"
    if final.exists():
        os.utime(final)  # the newest again, for redo
    else:
        steps = (*(earlier.steps if earlier else ()), fix.done)
        version = DatasetVersion(original, table.sha256, place.file_type, place.path, steps)
        _write_version(fix, rows, table, sha256, version, final)
    return DatasetReference(version_file_type(place), str(final))


def version_file_type(place: DatasetReference) -> str:
    """The type that goes with a version's path: a file's, also when the original came from the hub."""
    return "json" if place.file_type == "huggingface" else place.file_type


def open_version(path: Path) -> Table | None:
    """The table when `path` is where a version would be; None when it is anywhere else. Raises DataError."""
    named = _NAME.fullmatch(path.name)
    if named is None or path.absolute().parts[-3:-1] != ("uploads", "versions"):
        return None
    if not path.is_file():
        raise DataError(f"The version of the data {path} is gone.", "Choose the data again.")
    table = load_table(path)
    if table.version is None or not table.sha256.startswith(named.group(1)):
        raise DataError(f"{path} is not the version that its name says.", "Choose the data again.")
    return table


def original_sha256(table: Table) -> str:
    """The sha256 that a dataset and all its versions share."""
    return table.version.original if table.version else table.sha256


def find_previous_version(table: Table) -> DatasetReference | None:
    """Where this version came from; None for an original."""
    return DatasetReference(table.version.parent_type, table.version.parent_path) if table.version else None


def find_next_version(table: Table, place: DatasetReference, save_dir: Path) -> DatasetReference | None:
    """The newest version made from this table; None without any."""
    original = original_sha256(table)
    found = sorted(
        versions_dir(save_dir).glob(f"{original[:HASH_DIGITS]}-*.parquet"), key=lambda file: -file.stat().st_mtime_ns
    )
    for file in found:
        made = load_table(file).version
        if made is not None and made.parent == table.sha256:
            return DatasetReference(version_file_type(place), str(file))
    return None


def find_original_dataset(table: Table) -> DatasetReference | None:
    """The original; None when this is it."""
    here: Table | None = table
    place = None
    while here is not None and here.version is not None:
        place = find_previous_version(here)
        here = open_version(Path(place.path)) if place else None
    return place


def versions_dir(save_dir: Path) -> Path:
    folder = uploads_dir(save_dir) / "versions"
    folder.mkdir(exist_ok=True)
    return folder.absolute()


def _write_version(fix: Fix, rows: RowNumbers, table: Table, sha256: str, version: DatasetVersion, final: Path) -> None:
    folder = final.parent / f".part-{sha256[:HASH_DIGITS]}-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir()
        np.save(folder / ROWS_FILE, rows)
        request = RepairRequest(
            str(table.path), str(folder), fix.action, list(fix.columns), sha256, version.as_dict()
        )  # fmt: skip
        made = make_table_in_child(
            "toolkit.data.doctor.repair_task",
            request.dump(),
            folder,
            time_limit_seconds(parquet_content_bytes(table.path)),
        )
        publish_file(made, final)
    except OSError as error:
        raise DataError(f"{final.parent} can't be written: {error.strerror or error}.", "Free some space.") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
