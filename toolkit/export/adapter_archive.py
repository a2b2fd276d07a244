"""The zip of an adapter: which files it may hold, writing it, and unpacking it again.

Files are chosen by name, so that no pickle (`training_args.bin`) and no other private file leaves the machine.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from toolkit.errors import RunError, ToolkitError
from toolkit.export.prompt_contract import CONTRACT_FILE
from toolkit.runs.run_dir import RunDir
from toolkit.system.durable import verify_commit
from toolkit.system.printable import format_bytes

WEIGHT_FILES = ("adapter_model.safetensors", "adapter_config.json")
"""An adapter is complete only with both."""
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
)  # fmt: skip
"""Names under which the tokenizers of transformers save themselves."""
MAX_DOWNLOAD_BYTES = 2 << 30
"""Largest adapter that is sent to the browser: the app holds all of it in memory."""
CARD_FILE, SETTINGS_FILE = "README.md", "finetuning-toolkit.yml"
ADAPTER_FILES = (*WEIGHT_FILES, CARD_FILE, CONTRACT_FILE, "generation_config.json", *TOKENIZER_FILES)
"""Files of a run's adapter that a download may hold, in this order."""


def write_zip(target: Path | BinaryIO, files: Mapping[str, Path]) -> None:
    """Write a zip. files: name in the zip -> path. Raises RunError when the adapter's weights are missing."""
    if not set(WEIGHT_FILES) <= set(files):
        raise RunError("The adapter has no weights.", "Train the run again.")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:  # weights hardly compress
        for name, path in files.items():
            archive.write(path, name)


def zip_adapter(run: RunDir) -> bytes:
    """Return a run's adapter with its settings as a zip, after its commit was verified. Raises ToolkitError."""
    try:
        committed = verify_commit(run.adapter_dir, require_own_signature=False)["files"]
    except ToolkitError as error:
        raise type(error)(error.message, "Train the run again to get a new adapter.") from error
    files = {name: run.adapter_dir / name for name in ADAPTER_FILES if name in committed}
    size = sum(path.stat().st_size for path in files.values())
    if size > MAX_DOWNLOAD_BYTES:
        message = (
            f"The adapter takes {format_bytes(size)}; the browser gets at most {format_bytes(MAX_DOWNLOAD_BYTES)}."
        )
        raise RunError(message, f"Copy its folder instead: {run.adapter_dir}")
    buffer = io.BytesIO()
    write_zip(buffer, {**files, SETTINGS_FILE: run.config_path})
    return buffer.getvalue()


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
