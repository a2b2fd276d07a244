"""The lines of a JSON Lines file that rows of its table come from, for error messages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from toolkit.data.table import Table

MAX_LISTED_LINES = 10
_ROW = re.compile(r"\b[Rr]ow (\d[\d,]{0,14})\b")
_LINE = re.compile(r"\bline \d")


def read_row_lines(path: Path, table: Table) -> list[int]:
    """Return the 1-based line of each row; an empty list if the file does not have one row per line."""
    lines = _find_filled_lines(path)
    return lines if len(lines) == table.rows else []


def name_lines_of(path: Path, text: str) -> str:
    """Return a message about a file with its lines in the place of its rows, as far as it names no line yet."""
    if _LINE.search(text) or not _ROW.search(text):
        return text
    lines = _find_filled_lines(path)

    def name_line(found: re.Match[str]) -> str:
        row = int(found[1].replace(",", ""))
        word = "Line" if found[0][0] == "R" else "line"
        return f"{word} {lines[row - 1]:,}" if 1 <= row <= len(lines) else found[0]

    return _ROW.sub(name_line, text)


def _find_filled_lines(path: Path) -> list[int]:
    with path.open("rb") as file:
        return [number for number, line in enumerate(file, start=1) if line.strip()]


def list_lines(rows: Sequence[int], lines: Sequence[int]) -> str:
    """Return the lines of 0-based rows as text: "line 3" or "lines 3, 7, 9 and 20 more"; "" if they are unknown."""
    found = [lines[row] for row in rows if row < len(lines)]
    if not found:
        return ""
    shown = ", ".join(f"{line:,}" for line in found[:MAX_LISTED_LINES])
    more = f" and {len(found) - MAX_LISTED_LINES:,} more" if len(found) > MAX_LISTED_LINES else ""
    return f"line{'' if len(found) == 1 else 's'} {shown}{more}"
