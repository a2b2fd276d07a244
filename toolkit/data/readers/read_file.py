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

from toolkit.data.progress import Tell
from toolkit.data.read_options import FIND_OUT, MEMORY, ReadOptions, UnreadableError, confine
from toolkit.data.readers.csv_reader import Outcome, read_csv
from toolkit.data.readers.encoding import find_encoding
from toolkit.data.readers.json_reader import JsonReader
from toolkit.data.readers.parquet_reader import read_parquet
from toolkit.data.readers.table_writer import TableWriter
from toolkit.errors import DataError

TABLE, REPORT, PROGRESS = "table.parquet", "report.json", "progress.json"
ENCODING_SHARE = 0.05
"""Of the time that reading takes, about."""
TELL_EVERY_S = 0.25


@dataclass(frozen=True)
class Request:
    """source: the file; folder: where the answer goes; kind: "csv", "json" or "parquet"; sha256, label: for the
    footer."""

    source: str
    folder: str
    kind: str
    sha256: str
    label: str
    options: ReadOptions = FIND_OUT

    @classmethod
    def load(cls, stream: TextIO) -> Request:
        content = json.load(stream)
        return cls(**{**content, "options": ReadOptions(**content["options"])})

    def dump(self) -> str:
        return json.dumps(asdict(self))


def read(request: Request, tell: Tell = lambda share, words: None) -> None:
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
        writer.finish(folder / TABLE, request.label, notices)
        return
    tell(0.0, "finding its encoding")
    encoding = find_encoding(source, options)
    if request.kind == "csv":
        writer = writer_for(lambda line: f"line {line:,}", empty_is_missing=True)
        found = read_csv(source, encoding, options, writer)
    else:
        reader = JsonReader(source, encoding, options)
        writer = writer_for(lambda mark: reader.place(mark))
        reader.read(writer)
        found = Outcome([*reader.notices, *openai_notices(writer.columns)], [], reader.offers)
    notices = [*encoding.notices, *found.notices, *brace_notices(writer.columns)]
    writer.finish(folder / TABLE, request.label, notices, found.drop, found.offers)


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


def report(folder: Path, **content: Any) -> None:
    """Leave the outcome for the process that waits."""
    (folder / REPORT).write_text(json.dumps(content))


def progress_in(folder: Path) -> Tell:
    """Leaves how far it is in the folder, now and then, for the process that waits."""
    last = 0.0

    def tell(share: float, words: str) -> None:
        nonlocal last
        if time.monotonic() - last < TELL_EVERY_S:
            return
        last = time.monotonic()
        aside = folder / f".{PROGRESS}"
        aside.write_text(json.dumps({"share": share, "words": words}))
        aside.replace(folder / PROGRESS)

    return tell


def explain(error: DataError) -> dict[str, Any]:
    """A DataError as JSON."""
    offers = [offer.dump() for offer in error.offers] if isinstance(error, UnreadableError) else []
    return {"message": error.message, "hint": error.hint, "offers": offers}


def main() -> int:
    """0 when the request was answered, with a table or with a reason; anything else is a death."""
    request = Request.load(sys.stdin)
    folder = Path(request.folder)
    confine(Path(request.source).stat().st_size)
    try:
        read(request, progress_in(folder))
    except DataError as error:
        report(folder, error=explain(error))
    except MemoryError:
        needs = DataError(
            f"Reading the file takes more than {MEMORY >> 30} GB of memory.",
            "A JSON list is read whole: write one object a line (JSONL), or split the file.",
        )
        report(folder, error=explain(needs))
    else:
        report(folder, error=None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
