"""The disposable process that reads a file nobody has looked at yet: `python -m toolkit.data.reader`.

Takes a request as JSON on standard input, binds itself to its limits, and leaves table.parquet and report.json in the
folder it was given. It may die: the process that started it explains that (`child.py`). It never touches anything else.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from toolkit.data.csvfile import Outcome, read_csv
from toolkit.data.encoding import find_encoding
from toolkit.data.jsonfile import JsonReader
from toolkit.data.limits import FIND_OUT, MEMORY, ReadOptions, UnreadableError, confine
from toolkit.data.parquetfile import read_parquet
from toolkit.data.writer import TableWriter
from toolkit.errors import DataError

TABLE, REPORT = "table.parquet", "report.json"


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


def read(request: Request) -> None:
    """Read the file into request.folder/table.parquet. Raises DataError."""
    source, folder = Path(request.source), Path(request.folder)
    if request.kind == "parquet":
        writer = TableWriter(folder, lambda row: f"row {row:,} of the file", options=request.options)
        notices = read_parquet(source, writer) + brace_notices(writer.columns)
        writer.finish(folder / TABLE, request.label, notices, request.sha256)
        return
    encoding = find_encoding(source, request.options)
    options = request.options
    if request.kind == "csv":
        writer = TableWriter(folder, lambda line: f"line {line:,}", empty_is_missing=True, options=options)
        found = read_csv(source, encoding, options, writer)
    else:
        reader = JsonReader(source, encoding, options)
        writer = TableWriter(folder, lambda mark: reader.place(mark), options=options)
        reader.read(writer)
        found = Outcome([*reader.notices, *openai_notices(writer.columns)], [], reader.offers)
    notices = [*encoding.notices, *found.notices, *brace_notices(writer.columns)]
    writer.finish(folder / TABLE, request.label, notices, request.sha256, found.drop, found.offers)


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
        read(request)
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
