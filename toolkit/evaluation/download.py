"""Every row of an evaluation as a file to take away: CSV with formulas made harmless, JSON with every text intact.

Knows the columns of rows.parquet; no screen.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_PER_MODEL = ("answer", "error", "cut", "tokens", "loss", "rules", "outcome", "damage")


def make_download_records(rows: pa.Table, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One flat dict a row; `names` are what the models are called, base first; rows are numbered from 1."""
    columns = list(_columns(rows.column_names, names).items())
    for row in rows.to_pylist():
        yield {title: row[column] + 1 if column == "row" else row[column] for title, column in columns}


def rows_as_json(rows: pa.Table, names: Sequence[str]) -> str:
    """A JSON array; texts are exactly as they were answered."""
    return json.dumps(list(make_download_records(rows, names)), ensure_ascii=False, indent=1)


def rows_as_csv(rows: pa.Table, names: Sequence[str]) -> str:
    """CSV with a byte-order mark, for spreadsheets. A text that they would take for a formula begins with a quote."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([escape_formula(title) for title in _columns(rows.column_names, names)])
    for record in make_download_records(rows, names):
        writer.writerow([_cell(value) for value in record.values()])
    return "\ufeff" + out.getvalue()


def escape_formula(text: str) -> str:
    """`text`, with a quote before what a spreadsheet would run; spaces before it do not hide it."""
    return f"'{text}" if text.startswith(_FORMULA) or text.lstrip().startswith(_FORMULA) else text


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return escape_formula(value)
    return escape_formula("; ".join(value)) if isinstance(value, list) else value


def _columns(there: Sequence[str], names: Sequence[str]) -> Mapping[str, str]:
    """Title -> column, in an order that people expect."""
    found = {name: name for name in ("row", "prompt", "expected")}
    for at, name in enumerate(names):
        scores = [c.removesuffix(f"_{at}") for c in there if c.startswith("score_") and c.endswith(f"_{at}")]
        for kind in (*_PER_MODEL, *scores):
            if f"{kind}_{at}" in there:
                found[f"{kind.removeprefix('score_')} ({name})"] = f"{kind}_{at}"
    return found
