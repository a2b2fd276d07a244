"""From the data settings to a Table: a bundled file, a file on this machine, an upload, or a Hugging Face dataset.

Files are read once, in a disposable child process; the outcome, a table or a refusal, is kept by content in
`save_dir/uploads/tables`, so that the second time is instant. Knows no format: that is `reader.py`'s.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from toolkit.config import BUNDLED, DataConfig
from toolkit.data.child_process import ChildRefusedError, make_table_in_child
from toolkit.data.progress import Watch
from toolkit.data.read_options import (
    DEFAULT_READ_OPTIONS,
    Offer,
    ReadOptions,
    UnreadableError,
    read_options,
    time_limit_seconds,
)
from toolkit.data.readers.read_file import ReadRequest
from toolkit.data.storage.join_tables import JoinRequest
from toolkit.data.storage.uploads import StoredFile, hash_bundled_file, publish_file, store_named_file, uploads_dir
from toolkit.data.storage.versions import open_version
from toolkit.data.table import Table as Table
from toolkit.data.table import load_table as load_table
from toolkit.errors import DataError
from toolkit.system.paths import ASSETS

READER_VERSION = 3
"""Part of a kept table's name: raise it when the reader reads a file differently, and old tables are read anew."""

HUB_TIME_LIMIT_S = 3_600
_BUNDLED_NAME = re.compile(r"[a-z0-9-]+\.(csv|json|jsonl)")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
_HUB_ENVIRONMENT = (
    "HF_",
    "HUGGINGFACE_",
    "XDG_CACHE_HOME",
    "HTTP",
    "http",
    "NO_PROXY",
    "no_proxy",
    "SSL_",
    "REQUESTS_CA",
)


def open_table(data: DataConfig, save_dir: Path, watch: Watch | None = None) -> Table:
    """The table that the settings name, read as they say, with the rows of their test file at its end. Waits while a
    file is read for the first time (seconds a 100 MB). Raises DataError; an UnreadableError when the choices of one of
    its `offers` would make the file readable. `watch` hears how far it is, and may stop it.
    """
    watch = watch or Watch()
    options = read_options(data)
    path = str(data.path)
    version = open_version(Path(path))
    if version is not None:
        return version
    if data.file_type == "huggingface":
        table = _open_hub(path, save_dir, watch)
    else:
        own = path.startswith(BUNDLED)
        source = _bundled(path.removeprefix(BUNDLED)) if own else store_named_file(Path(path), save_dir, watch)
        table = _open_file(source, _file_format(source, data.file_type), save_dir, options, watch)
    if data.test_path is None:
        return table
    test = store_named_file(Path(data.test_path), save_dir, watch)
    return _join_test_file(table, _open_file(test, _file_format(test, None), save_dir, options, watch), save_dir, watch)


def _file_format(source: StoredFile, said: str | None) -> str:
    """How a file is read: Parquet by its ending, else as said, else by its ending."""
    ending = source.path.suffix.lower()
    if ending == ".parquet":
        return "parquet"
    return said if said is not None else "json" if ending in (".json", ".jsonl", ".ndjson") else "csv"


def _join_test_file(data: Table, test: Table, save_dir: Path, watch: Watch) -> Table:
    key = hashlib.sha256(f"{data.path.name}+{test.path.name}".encode()).hexdigest()[:12]
    with _locked_workplace(save_dir, f"{key}-joined-{READER_VERSION}") as (final, _, folder):
        try:
            return load_table(final)
        except DataError:  # not made yet, or damaged on disk
            request = JoinRequest(str(data.path), str(test.path), str(folder))
            limit = time_limit_seconds(20 * (data.path.stat().st_size + test.path.stat().st_size))
        try:
            publish_file(
                make_table_in_child("toolkit.data.storage.join_tables", request.dump(), folder, limit, watch=watch),
                final,
            )
        except ChildRefusedError:
            raise  # it names the table that it is about
        except DataError as error:
            raise _with_file_name(error, f"{data.label} with the test file {test.label}") from error
        return load_table(final)


def _bundled(name: str) -> StoredFile:
    if not _BUNDLED_NAME.fullmatch(name) or not (ASSETS / name).is_file():
        there = ", ".join(
            BUNDLED + file.name for file in sorted(ASSETS.iterdir()) if _BUNDLED_NAME.fullmatch(file.name)
        )
        raise DataError(f"'{BUNDLED}{name}' does not ship with the toolkit.", f"There are: {there or 'none'}.")
    return hash_bundled_file(ASSETS / name)


def _open_file(source: StoredFile, kind: str, save_dir: Path, options: ReadOptions, watch: Watch) -> Table:
    choices = hashlib.sha256(repr(options).encode()).hexdigest()[:6]
    key = f"{source.sha256[:12]}-{kind}-{READER_VERSION}" + ("" if options == DEFAULT_READ_OPTIONS else f"-{choices}")
    with _locked_workplace(save_dir, key) as (final, refusal, folder):
        try:
            table = _kept_table(final, refusal, source.sha256)
        except UnreadableError as error:
            raise _with_file_name(error, source.label) from error
        if table is None:
            request = ReadRequest(str(source.path), str(folder), kind, source.sha256, source.label, options)
            limit = time_limit_seconds(source.path.stat().st_size)
            try:
                made = make_table_in_child("toolkit.data.readers.read_file", request.dump(), folder, limit, watch=watch)
            except (ChildRefusedError, UnreadableError) as error:
                _keep_refusal(error, source.sha256, folder / "refusal.json", refusal)
                raise _with_file_name(error, source.label) from error
            publish_file(made, final)
            table = load_table(final)
    return replace(table, label=source.label)


def _with_file_name(error: DataError, label: str) -> DataError:
    """The same refusal with the file's name in front: two files may be meant."""
    offers = error.offers if isinstance(error, UnreadableError) else ()
    return UnreadableError(f"{label}: {error.message}", error.hint, offers)


def _open_hub(name: str, save_dir: Path, watch: Watch) -> Table:
    if not _HUB_ID.fullmatch(name):
        raise DataError(
            f"'{name}' is not a Hugging Face dataset.",
            "Give an id such as owner/name; for a file on this machine choose CSV or JSON as the file type.",
        )
    digest = hashlib.sha256(name.encode()).hexdigest()
    with _locked_workplace(save_dir, f"{digest[:12]}-hub-{READER_VERSION}") as (final, _, folder):
        if not final.exists():
            environment = {k: v for k, v in os.environ.items() if k.startswith(_HUB_ENVIRONMENT)}
            request = json.dumps({"dataset": name, "folder": str(folder)})
            made = make_table_in_child(
                "toolkit.worker.fetch_dataset", request, folder, HUB_TIME_LIMIT_S, environment, watch
            )
            publish_file(made, final)
        return load_table(final)


@contextmanager
def _locked_workplace(save_dir: Path, key: str) -> Iterator[tuple[Path, Path, Path]]:
    """(kept table, kept refusal, empty folder for the child), held by one process or thread at a time."""
    tables = uploads_dir(save_dir) / "tables"
    folder = tables.absolute() / f".part-{key}"
    try:
        tables.mkdir(exist_ok=True)
        with (tables / f".{key}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            try:
                yield tables.absolute() / f"{key}.parquet", tables / f"{key}.refused.json", folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise DataError(f"{tables} can't be written: {error.strerror or error}.", "Free some space.") from error


def _kept_table(final: Path, refusal: Path, sha256: str) -> Table | None:
    """The table read earlier from the same bytes, or None. Raises the refusal met earlier."""
    if final.exists():
        try:
            table = load_table(final)
        except DataError:  # damaged on disk: read the source again
            return None
        return table if table.sha256 == sha256 else None
    if refusal.exists():
        kept = json.loads(refusal.read_text())
        if kept["sha256"] == sha256:
            raise UnreadableError(kept["message"], kept["hint"], [Offer.load(offer) for offer in kept["offers"]])
    return None


def _keep_refusal(error: DataError, sha256: str, temporary: Path, final: Path) -> None:
    offers = [offer.dump() for offer in error.offers] if isinstance(error, UnreadableError) else []
    content = {"sha256": sha256, "message": error.message, "hint": error.hint, "offers": offers}
    temporary.write_text(json.dumps(content))
    publish_file(temporary, final)
