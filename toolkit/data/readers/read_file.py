"""The disposable process that reads a file nobody has looked at yet: `python -m toolkit.data.readers.read_file`.

Takes a request as JSON on standard input, binds itself to its limits, and leaves table.parquet and report.json in the
folder it was given. It may die: the process that started it explains that (`child.py`). It never touches anything else.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from toolkit.data.progress import DataProgressReporter
from toolkit.data.read_options import (
    DEFAULT_READ_OPTIONS,
    READER_MEMORY_BYTES,
    ReadOptions,
    UnreadableError,
    limit_process_resources,
)
from toolkit.data.readers.csv_reader import ReadOutcome, read_csv
from toolkit.data.readers.encoding import detect_encoding
from toolkit.data.readers.json_reader import JsonReader
from toolkit.data.readers.parquet_reader import read_parquet
from toolkit.data.readers.table_writer import TableWriter
from toolkit.errors import DataError

TABLE_FILE, TASK_REPORT_FILE, TASK_PROGRESS_FILE = "table.parquet", "report.json", "progress.json"
ENCODING_SHARE = 0.05
"""Of the time that reading takes, about."""
TASK_PROGRESS_INTERVAL_S = 0.25


@dataclass(frozen=True)
class ReadRequest:
    """source: the file; folder: where the answer goes; kind: "csv", "json" or "parquet"; sha256, label: for the
    footer."""

    source: str
    folder: str
    kind: str
    sha256: str
    label: str
    options: ReadOptions = DEFAULT_READ_OPTIONS

    @classmethod
    def load(cls, stream: TextIO) -> ReadRequest:
        content = json.load(stream)
        return cls(**{**content, "options": ReadOptions(**content["options"])})

    def dump(self) -> str:
        return json.dumps(asdict(self))


def read_file_to_table(request: ReadRequest, tell: DataProgressReporter = lambda share, words: None) -> None:
    """Read the file into request.folder/table.parquet; `tell` hears the share done and at what. Raises DataError."""
    source, folder, options = Path(request.source), Path(request.folder), request.options

    def writer_for(place: Callable[[int], str], *, empty_is_missing: bool = False) -> TableWriter:
        def told(share: float) -> None:
            tell(ENCODING_SHARE + share * (1 - ENCODING_SHARE), "reading")

        return TableWriter(
            folder, place, empty_is_missing=empty_is_missing, options=options, known=request.sha256, told=told
        )

    if request.kind == "parquet":
        writer = writer_for(lambda row: f"row {row:,} of the file")
        notices = read_parquet(source, writer) + brace_notices(writer.columns)
        writer.finish(folder / TABLE_FILE, request.label, notices)
        return
    tell(0.0, "finding its encoding")
    encoding = detect_encoding(source, options)
    if request.kind == "csv":
        writer = writer_for(lambda line: f"line {line:,}", empty_is_missing=True)
        found = read_csv(source, encoding, options, writer)
    else:
        reader = JsonReader(source, encoding, options)
        writer = writer_for(lambda mark: reader.place(mark))
        reader.read(writer)
        found = ReadOutcome([*reader.notices, *openai_notices(writer.columns)], [], reader.offers)
    notices = [*encoding.notices, *found.notices, *brace_notices(writer.columns)]
    writer.finish(folder / TABLE_FILE, request.label, notices, found.drop, found.offers)


def brace_notices(columns: list[str]) -> list[str]:
    """A template can't name a column that has braces in its name."""
    names = [name for name in columns if "{" in name or "}" in name]
    if not names:
        return []
    shown = ", ".join(f"'{name[:40]}'" for name in names[:10])
    return [f"Braces in a column's name keep it out of templates; rename {shown} in the file to use it."]


def openai_notices(columns: list[str]) -> list[str]:
    """OpenAI's older files have two keys a line, its newer ones `messages` (`chat.py`)."""
    if sorted(columns) != ["completion", "prompt"]:
        return []
    form = "This is OpenAI's older form for fine-tuning, a prompt and a completion a row"
    return [f"{form}: the templates {{prompt}} and {{completion}} train on it as it is."]


def write_task_report(folder: Path, **content: Any) -> None:
    """Leave the outcome for the process that waits."""
    (folder / TASK_REPORT_FILE).write_text(json.dumps(content))


def task_progress_writer(folder: Path) -> DataProgressReporter:
    """Leaves how far it is in the folder, now and then, for the process that waits."""
    last = 0.0

    def tell(share: float, words: str) -> None:
        nonlocal last
        if time.monotonic() - last < TASK_PROGRESS_INTERVAL_S:
            return
        last = time.monotonic()
        aside = folder / f".{TASK_PROGRESS_FILE}"
        aside.write_text(json.dumps({"share": share, "words": words}))
        aside.replace(folder / TASK_PROGRESS_FILE)

    return tell


def data_error_as_dict(error: DataError) -> dict[str, Any]:
    """A DataError as JSON."""
    offers = [offer.dump() for offer in error.offers] if isinstance(error, UnreadableError) else []
    return {"message": error.message, "hint": error.hint, "offers": offers}


def main() -> int:
    """0 when the request was answered, with a table or with a reason; anything else is a death."""
    request = ReadRequest.load(sys.stdin)
    folder = Path(request.folder)
    limit_process_resources(Path(request.source).stat().st_size)
    try:
        read_file_to_table(request, task_progress_writer(folder))
    except DataError as error:
        write_task_report(folder, error=data_error_as_dict(error))
    except MemoryError:
        needs = DataError(
            f"Reading the file takes more than {READER_MEMORY_BYTES >> 30} GB of memory.",
            "A JSON list is read whole: write one object a line (JSONL), or split the file.",
        )
        write_task_report(folder, error=data_error_as_dict(needs))
    else:
        write_task_report(folder, error=None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
