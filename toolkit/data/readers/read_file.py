"""The child process that reads a source file into a table: `python -m toolkit.data.readers.read_file`.

The file may be hostile. The process limits its own memory and time, and writes to the folder of its request alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from toolkit.data.progress import DataProgressReporter
from toolkit.data.read_options import (
    DEFAULT_READ_OPTIONS,
    READER_MEMORY_BYTES,
    ReadOptions,
    limit_process_resources,
)
from toolkit.data.readers.formats import FORMATS, format_of, load_reader, unpacked_bytes_limit
from toolkit.data.readers.table_writer import SourceFile, TableWriter
from toolkit.data.task_process import TABLE_FILE, run_task
from toolkit.errors import DataError

ENCODING_SHARE = 0.05
"""Approximate share of the reading time that detecting the encoding takes."""


@dataclass(frozen=True)
class ReadRequest:
    """source: the file; folder: where the table goes; kind: a kind in FORMATS; sha256, label: for the footer."""

    source: str
    folder: str
    kind: str
    sha256: str
    label: str
    options: ReadOptions = DEFAULT_READ_OPTIONS

    @classmethod
    def load(cls, content: dict[str, Any]) -> ReadRequest:
        return cls(**{**content, "options": ReadOptions(**content["options"])})

    def dump(self) -> str:
        return json.dumps(asdict(self))


def read_file_to_table(request: ReadRequest, report_progress: DataProgressReporter = lambda share, words: None) -> None:
    """Read the file into request.folder/table.parquet. Raises DataError, UnreadableError where options would help."""
    folder, options = Path(request.folder), request.options

    def new_writer(place: Callable[[int], str], *, empty_is_missing: bool = False) -> TableWriter:
        def report_share(share: float) -> None:
            report_progress(ENCODING_SHARE + share * (1 - ENCODING_SHARE), "reading")

        return TableWriter(
            folder,
            place,
            empty_is_missing=empty_is_missing,
            options=options,
            source_sha256=request.sha256,
            report_share=report_share,
        )

    source = SourceFile(Path(request.source), options, new_writer, folder, report_progress)
    outcome = load_reader(request.kind)(source)
    notices = [*_name_notice(source.path, request.kind), *outcome.notices]
    outcome.writer.finish(folder / TABLE_FILE, request.label, notices, outcome.drop, outcome.offers)


def _name_notice(path: Path, kind: str) -> list[str]:
    """Return the notice about a file whose name ends like one of another format."""
    named = format_of(path)
    if named is None or named.kind == kind:
        return []
    label = next(each.label for each in FORMATS if each.kind == kind).removesuffix(", JSONL")
    return [f"The content of the file is {label}, and it was read as such, although the name ends with {path.suffix}."]


def _read(request: dict[str, Any], report_progress: DataProgressReporter) -> None:
    limit_process_resources(unpacked_bytes_limit(Path(request["source"])))
    read_file_to_table(ReadRequest.load(request), report_progress)


def main() -> int:
    """Read the file that the request on standard input names."""
    out_of_memory = DataError(
        f"Reading the file needs more than {READER_MEMORY_BYTES >> 30} GiB of memory.",
        "A JSON list is read in one piece: write one object per line (JSONL) instead, or split the file.",
    )
    return run_task(_read, out_of_memory)


if __name__ == "__main__":
    sys.exit(main())
