"""Open the table that the data settings name: a bundled file, a local file, an upload or a Hugging Face dataset.

A file is read once, in a child process. The outcome, a table or a refusal, is stored under a key made of its content
and the reading options in `save_dir/uploads/tables`:
`<12 hex digits of the sha256>-<kind>-<reader_version()>[-<6 hex digits of the options>].parquet` or `.refused.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

from pydantic import BaseModel

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
from toolkit.data.readers.formats import recognize_kind, unpacked_bytes_limit
from toolkit.data.readers.read_file import ReadRequest
from toolkit.data.storage.bounded_tables import load_bounded_table, sign_table
from toolkit.data.storage.join_tables import JoinRequest, joined_content_bytes
from toolkit.data.storage.stored_names import HASH_DIGITS
from toolkit.data.storage.uploads import StoredFile, hash_bundled_file, store_named_file, uploads_dir
from toolkit.data.storage.versions import open_version
from toolkit.data.table import Table, load_table
from toolkit.errors import DataError
from toolkit.system.durable import durable_write, publish_file, scratch_dir
from toolkit.system.foreign_files import read_foreign_json
from toolkit.system.locks import wait_for_lock
from toolkit.system.paths import ASSETS, PROJECT_ROOT

_READER_SOURCES = (
    "data/*.py",
    "data/readers/*.py",
    "data/shapes/*.py",
    "data/examples/*.py",
    "assets/column_names.toml",
    "worker/fetch_dataset.py",
)
HUB_TIME_LIMIT_S = 3_600
"""Seconds that the download of a dataset may take."""
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


@cache
def reader_version() -> str:
    """Return 6 hex digits of the code that reads files, a part of a stored table's name.

    After a change of this code a file is read again: its table or its refusal may be another one.
    """
    package = PROJECT_ROOT / "toolkit"
    files = sorted(file for pattern in _READER_SOURCES for file in package.glob(pattern))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:6]


def open_table(data: DataConfig, save_dir: Path, watch: Watch | None = None) -> Table:
    """Return the table that the settings name, with the rows of their test file at its end.

    Waits while a file is read for the first time (seconds for 100 MB); `watch` reports progress and can cancel it.
    Raises DataError, or UnreadableError if the file could be read with the options of one of its `offers`.
    """
    watch = watch or Watch()
    options = read_options(data)
    path = str(data.path)
    version = open_version(Path(path))
    if version is not None:
        return version
    if data.file_type == "huggingface":
        table = _open_hub(path, save_dir, options, watch)
    else:
        is_bundled = path.startswith(BUNDLED)
        source = _bundled(path.removeprefix(BUNDLED)) if is_bundled else store_named_file(Path(path), save_dir, watch)
        table = _open_file(source, recognize_kind(source.path, data.file_type), save_dir, options, watch)
    if data.test_path is None:
        return table
    test = store_named_file(Path(data.test_path), save_dir, watch)
    test_table = _open_file(test, recognize_kind(test.path, None), save_dir, options, watch)
    return _join_test_file(table, test_table, save_dir, watch)


def _join_test_file(data: Table, test: Table, save_dir: Path, watch: Watch) -> Table:
    key = hashlib.sha256(f"{data.path.name}+{test.path.name}".encode()).hexdigest()[:HASH_DIGITS]
    with _locked_workplace(save_dir, f"{key}-joined-{reader_version()}") as (final, _, folder):
        try:
            return load_bounded_table(final)
        except DataError:  # not made yet, or damaged on disk
            request = JoinRequest(str(data.path), str(test.path), str(folder))
            limit = time_limit_seconds(joined_content_bytes(data.path, test.path))
        module = "toolkit.data.storage.join_tables"
        try:
            _publish_table(make_table_in_child(module, request.dump(), folder, limit, watch=watch), final)
        except ChildRefusedError:
            raise  # its message names the file already
        except DataError as error:
            raise _with_file_name(error, f"{data.label} with the test file {test.label}") from error
        return load_table(final)


def _bundled(name: str) -> StoredFile:
    if not _BUNDLED_NAME.fullmatch(name) or not (ASSETS / name).is_file():
        available = ", ".join(
            BUNDLED + file.name for file in sorted(ASSETS.iterdir()) if _BUNDLED_NAME.fullmatch(file.name)
        )
        message = f"'{BUNDLED}{name}' does not ship with the toolkit."
        raise DataError(message, f"The bundled files are: {available or 'none'}.")
    return hash_bundled_file(ASSETS / name)


def _open_file(source: StoredFile, kind: str, save_dir: Path, options: ReadOptions, watch: Watch) -> Table:
    options_key = (
        "" if options == DEFAULT_READ_OPTIONS else "-" + hashlib.sha256(repr(options).encode()).hexdigest()[:6]
    )
    key = f"{source.sha256[:HASH_DIGITS]}-{kind}-{reader_version()}{options_key}"
    with _locked_workplace(save_dir, key) as (final, refusal, folder):
        try:
            table = _stored_table(final, refusal, source.sha256)
        except UnreadableError as error:
            raise _with_file_name(error, source.label) from error
        if table is None:
            request = ReadRequest(str(source.path), str(folder), kind, source.sha256, source.label, options)
            limit = time_limit_seconds(unpacked_bytes_limit(source.path))
            try:
                made = make_table_in_child("toolkit.data.readers.read_file", request.dump(), folder, limit, watch=watch)
            except (ChildRefusedError, UnreadableError) as error:
                _store_refusal(error, source.sha256, refusal)
                raise _with_file_name(error, source.label) from error
            _publish_table(made, final)
            table = load_table(final)
    return replace(table, label=source.label)


def _with_file_name(error: DataError, label: str) -> DataError:
    """Return the error with the file's name in front of its message, because there may be two files."""
    offers = error.offers if isinstance(error, UnreadableError) else ()
    return UnreadableError(f"{label}: {error.message}", error.hint, offers)


def _open_hub(name: str, save_dir: Path, options: ReadOptions, watch: Watch) -> Table:
    if not _HUB_ID.fullmatch(name):
        raise DataError(
            f"'{name}' is not a Hugging Face dataset.",
            "Enter an ID such as owner/name. For a file on this machine, choose Path as the data source.",
        )
    chosen = [options.hub_config, options.hub_split, options.hub_revision]
    digest = hashlib.sha256(f"{name}{chosen if any(chosen) else ''}".encode()).hexdigest()
    with _locked_workplace(save_dir, f"{digest[:HASH_DIGITS]}-hub-{reader_version()}") as (final, _, folder):
        if not final.exists():
            environment = {k: v for k, v in os.environ.items() if k.startswith(_HUB_ENVIRONMENT)}
            module, request = (
                "toolkit.worker.fetch_dataset",
                json.dumps({"dataset": name, "folder": str(folder), "options": asdict(options)}),
            )
            table = make_table_in_child(module, request, folder, HUB_TIME_LIMIT_S, environment, watch)
            _publish_table(table, final)
        return load_bounded_table(final)


def _publish_table(made: Path, final: Path) -> None:
    publish_file(made, final)
    sign_table(final)


@contextmanager
def _locked_workplace(save_dir: Path, key: str) -> Iterator[tuple[Path, Path, Path]]:
    """Yield (path of the stored table, path of the stored refusal, empty folder for the child).

    One process or thread at a time is inside for a key, so that a file is not read twice at once.
    """
    tables = uploads_dir(save_dir) / "tables"
    folder = tables.absolute() / f".part-{key}"
    try:
        tables.mkdir(exist_ok=True)
        with wait_for_lock(tables / f".{key}.lock"), scratch_dir(folder):
            yield tables.absolute() / f"{key}.parquet", tables / f"{key}.refused.json", folder
    except OSError as error:
        raise DataError(f"{tables} can't be written: {error.strerror or error}.", "Free some disk space.") from error


def _stored_table(final: Path, refusal: Path, sha256: str) -> Table | None:
    """Return the table read earlier from the same bytes, or None. Raises the refusal stored earlier."""
    if final.exists():
        try:
            table = load_bounded_table(final)
        except DataError:  # damaged on disk, or not ours and too large: read the source again
            return None
        return table if table.sha256 == sha256 else None
    if refusal.exists():
        stored = _read_refusal(refusal)
        if stored is not None and stored.sha256 == sha256:
            raise UnreadableError(stored.message, stored.hint, stored.offers)
    return None


class _StoredRefusal(BaseModel):
    sha256: str
    message: str
    hint: str
    offers: tuple[Offer, ...]


def _read_refusal(path: Path) -> _StoredRefusal | None:
    try:
        return _StoredRefusal.model_validate(read_foreign_json(path))
    except (OSError, ValueError):  # damaged on disk: read the source again
        return None


def _store_refusal(error: DataError, sha256: str, final: Path) -> None:
    offers = [offer.dump() for offer in error.offers] if isinstance(error, UnreadableError) else []
    content = {"sha256": sha256, "message": error.message, "hint": error.hint, "offers": offers}
    durable_write(final, json.dumps(content))
