"""The rows of an evaluation as a download: CSV with formulas made harmless, JSON with every text unchanged."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

_FORMULA_STARTS = frozenset("=+-@\N{MINUS SIGN}")
"""First visible characters that make a spreadsheet run a cell, also in full width. Source: OWASP, CSV injection."""
_CELL_BREAKS = ("\t", "\r", "\n")
_BLANK_LETTERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Characters that show nothing although Unicode counts them as letters or symbols."""
_PER_MODEL = ("answer", "error", "cut", "tokens", "loss", "rules", "outcome", "damage")


def make_download_records(rows: pa.Table, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield one flat dict per row. names: labels of the models, base first. Rows are numbered from 1."""
    columns = list(_columns(rows.column_names, names).items())
    for row in rows.to_pylist():
        yield {title: row[column] + 1 if column == "row" else row[column] for title, column in columns}


def rows_as_json(rows: pa.Table, names: Sequence[str]) -> str:
    """Return a JSON array with the texts exactly as they were answered."""
    return json.dumps(list(make_download_records(rows, names)), ensure_ascii=False, indent=1)


def rows_as_csv(rows: pa.Table, names: Sequence[str]) -> str:
    """Return CSV for spreadsheets, with a byte-order mark. Text that would run as a formula gets a quote before it."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([escape_formula(title) for title in _columns(rows.column_names, names)])
    for record in make_download_records(rows, names):
        writer.writerow([_cell(value) for value in record.values()])
    return "\ufeff" + out.getvalue()


def escape_formula(text: str) -> str:
    """Return `text`, with a quote before it when a spreadsheet may run it, also behind characters that show nothing."""
    first = next((letter for letter in text if not _shows_nothing(letter)), "")
    runs = text.startswith(_CELL_BREAKS) or not _FORMULA_STARTS.isdisjoint(unicodedata.normalize("NFKC", first)[:1])
    return f"'{text}" if runs else text


def _shows_nothing(letter: str) -> bool:
    """Return whether it is a space, mark, control or format character, or has no meaning in Unicode."""
    return unicodedata.category(letter)[0] in "CZM" or letter in _BLANK_LETTERS


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return escape_formula(value)
    return escape_formula("; ".join(value)) if isinstance(value, list) else value


def _columns(existing: Sequence[str], names: Sequence[str]) -> Mapping[str, str]:
    """Return title -> column of rows.parquet, in the order of the download."""
    found = {name: name for name in ("row", "prompt", "expected")}
    for at, name in enumerate(names):
        scores = [c.removesuffix(f"_{at}") for c in existing if c.startswith("score_") and c.endswith(f"_{at}")]
        for kind in (*_PER_MODEL, *scores):
            if f"{kind}_{at}" in existing:
                found[f"{kind.removeprefix('score_')} ({name})"] = f"{kind}_{at}"
    return found
