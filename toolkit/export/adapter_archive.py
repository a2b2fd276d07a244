"""Zips of adapters and exports: which files they may hold, writing them, and unpacking those of earlier versions.

Files are chosen by name, so that no pickle (`training_args.bin`) and no other private file leaves the machine.
"""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from toolkit.errors import RunError, ToolkitError
from toolkit.export.prompt_contract import CONTRACT_FILE
from toolkit.runs.run_dir import RunDir
from toolkit.system.durable import COMMIT_NAME, verify_commit
from toolkit.system.printable import format_bytes

WEIGHT_FILES = ("adapter_model.safetensors", "adapter_config.json")
"""An adapter is complete only with both."""
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "additional_chat_templates/*.jinja", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model",
    "sentencepiece.bpe.model",
)  # fmt: skip
"""Names under which the tokenizers of transformers save themselves, as patterns of `Path.glob`."""
MAX_DOWNLOAD_BYTES = 2 << 30
"""Largest download that is sent to the browser: the app holds all of it in memory."""
CARD_FILE, SETTINGS_FILE = "README.md", "finetuning-toolkit.yml"
ADAPTER_FILES = (*WEIGHT_FILES, CARD_FILE, CONTRACT_FILE, "generation_config.json", *TOKENIZER_FILES)
"""Files of a run's adapter that a download may hold, in this order."""


def write_zip(target: Path | BinaryIO, files: Mapping[str, Path]) -> None:
    """Write a zip. files: name in the zip -> path."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:  # weights hardly compress
        for name, path in files.items():
            archive.write(path, name)


def list_adapter_files(run: RunDir) -> dict[str, Path]:
    """Return name -> path of what a download of a run's adapter holds, with its settings. Raises ToolkitError.

    The adapter's commit is verified.
    """
    try:
        committed = verify_commit(run.adapter_dir, require_own_signature=False)["files"]
    except ToolkitError as error:
        raise type(error)(error.message, "Train the run again to get a new adapter.") from error
    named = (name for pattern in ADAPTER_FILES for name in sorted(committed) if fnmatchcase(name, pattern))
    files = {name: run.adapter_dir / name for name in named}
    if not set(WEIGHT_FILES) <= set(files):
        raise RunError("The adapter has no weights.", "Train the run again.")
    return {**files, SETTINGS_FILE: run.config_path}


def measure_adapter_download(run: RunDir) -> int:
    """Return the bytes of what a download of a run's adapter holds, 0 without weights. Reads no content."""
    try:
        weights = [(run.adapter_dir / name).stat().st_size for name in WEIGHT_FILES]
        patterns = (name for name in ADAPTER_FILES if name not in WEIGHT_FILES)
        others = [path for pattern in patterns for path in run.adapter_dir.glob(pattern)]
        return sum(weights) + sum(path.stat().st_size for path in (*others, run.config_path) if path.exists())
    except OSError:  # the export names the reason
        return 0


def list_exported_files(folder: Path) -> dict[str, Path]:
    """Return name -> path of what a download of an export holds. folder: a committed export."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != COMMIT_NAME]
    return {path.relative_to(folder).as_posix(): path for path in paths}


def zip_adapter(run: RunDir) -> bytes:
    """Return a run's adapter with its settings as a zip. Raises ToolkitError."""
    return _zip(list_adapter_files(run), run.adapter_dir)


def zip_export(folder: Path) -> bytes:
    """Return a committed export as a zip; earlier versions made that of an adapter already.

    Its commit is verified. Raises RunError.
    """
    verify_commit(folder, require_own_signature=False)
    archive = find_archive(folder)
    return archive.read_bytes() if archive is not None else _zip(list_exported_files(folder), folder)


def find_archive(folder: Path) -> Path | None:
    """Return the zip in which earlier versions exported an adapter, None in an export of this one."""
    return next(iter(folder.glob("*.zip")), None)


def _zip(files: Mapping[str, Path], folder: Path) -> bytes:
    size = sum(path.stat().st_size for path in files.values())
    if size > MAX_DOWNLOAD_BYTES:
        message = f"The files take {format_bytes(size)}; the browser gets at most {format_bytes(MAX_DOWNLOAD_BYTES)}."
        raise RunError(message, f"Copy their folder instead: {folder}")
    buffer = io.BytesIO()
    write_zip(buffer, files)
    return buffer.getvalue()


def copy_exported_files(source: Path, target: Path) -> None:
    """Copy the files of an export into the folder `target`. Raises RunError, and copies nothing, for a zip of others.

    source: a committed export; in that of an earlier version an adapter is a zip.
    """
    archive = find_archive(source)
    if archive is not None:
        unpack(archive, target)
    else:
        shutil.copytree(source, target, dirs_exist_ok=True)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip of `write_zip` into `folder`. Raises RunError, and unpacks nothing, if it can't be one.

    In such a zip no name is a path, and nothing is compressed: its content is not larger than itself.
    """
    with zipfile.ZipFile(archive) as opened:
        size, own = sum(entry.file_size for entry in opened.infolist()), archive.stat().st_size
        if size > own:
            message = f"The zip of {format_bytes(own)} would expand to {format_bytes(size)}."
            raise RunError(message, "Export it again.")
        for name in opened.namelist():
            if name in ("", "..") or PurePosixPath(name).name != name:
                raise RunError(f"The zip contains '{name[:80]}', which is not a plain file name.", "Export it again.")
        opened.extractall(folder)
