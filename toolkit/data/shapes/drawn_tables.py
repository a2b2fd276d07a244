"""Tables drawn in text: Markdown, and what psql, MySQL, SQLite and DuckDB print, with rulers and bars."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

BAR = "|"
MAX_LINES_ABOVE = 10
"""Lines of text above a table."""
MIN_SHARE = 0.5
"""The table makes up at least this share of the lines with text: a cell of a CSV file may hold a small one."""
_RULER_CHARACTERS = frozenset("-=+|:┌┬┐├┼┤└┴┘─│╞╪╡═ ")
_RULER_PARTS = ("--", "==", "──", "══", ":-", "-:")
_CROSSING = re.compile(r"[+|┬┼┴╪]")
_FOOTER = re.compile(r"\s*(\(\d+ rows?\)|\d+ rows? in set.*|Empty set.*)\s*")
_TYPE = re.compile(
    r"(varchar|text|(big|small|tiny|u?)int(eger)?\d*|double|float|date|timestamp|boolean|bool|json)\W*.*"
)


@dataclass(frozen=True)
class DrawnTable:
    """header: line of the column names, counted from 0; is_framed: whether each line begins and ends with a bar."""

    header: int
    is_framed: bool
    is_markdown: bool


def find_drawn_table(lines: Sequence[str]) -> DrawnTable | None:
    """Return the table that is drawn in the lines: a header with bars above or below its first ruler; None for none."""
    filled = [(at, line) for at, line in enumerate(lines) if line.strip()]
    ruler = next((nth for nth, (_, line) in enumerate(filled[: MAX_LINES_ABOVE + 2]) if _is_ruler(line)), None)
    if ruler is None or any('"' in line for _, line in filled[:ruler]):
        return None
    parts = sum(bool(_bars(line)) or _is_ruler(line) for _, line in filled)
    beside = [nth for nth in (ruler - 1, ruler + 1) if 0 <= nth < len(filled) and _bars(filled[nth][1])]
    if not beside or parts < MIN_SHARE * len(filled):
        return None
    header, line = filled[beside[0]]
    text = _bars(line).strip()
    is_framed = text.startswith(BAR) and text.endswith(BAR) and len(text) > 1
    is_markdown = beside[0] < ruler and not {"+", "─"} & set(filled[ruler][1])
    return DrawnTable(header, is_framed, is_markdown)


def _is_ruler(line: str) -> bool:
    text = line.strip()
    is_drawn = bool(text) and _RULER_CHARACTERS.issuperset(text) and _CROSSING.search(text) is not None
    return is_drawn and any(part in text for part in _RULER_PARTS)


def _bars(line: str) -> str:
    """Return a line with the bars of the ASCII character, or "" if it has none."""
    text = line.replace("│", BAR)
    return text if BAR in text else ""


class DrawnLines:
    """The lines of a drawn table as rows with bars between trimmed cells; blank for all others.

    outside: number of lines with text that are no part of the table.
    """

    def __init__(self, lines: Iterable[str], table: DrawnTable) -> None:
        self.outside = 0
        self._lines = lines
        self._table = table

    def __iter__(self) -> Iterator[str]:
        types_may_follow = False
        for at, line in enumerate(self._lines):
            text = _bars(line)
            is_row = bool(text) and at >= self._table.header and not _is_ruler(line)
            cells = self._cells(text) if is_row else []
            if types_may_follow and cells and all(_TYPE.fullmatch(cell) for cell in cells):
                cells = []
            types_may_follow = at == self._table.header
            self.outside += not is_row and bool(line.strip()) and not _is_ruler(line) and not _FOOTER.fullmatch(line)
            yield BAR.join(cells) + "\n"

    def _cells(self, text: str) -> list[str]:
        inner = text.strip()
        if self._table.is_framed:
            inner = inner.removeprefix(BAR).removesuffix(BAR)
        return [cell.strip() for cell in inner.split(BAR)]

    def notices(self) -> list[str]:
        """Return what was ignored, in sentences."""
        if self._table.is_markdown:
            what = "The file is a Markdown table: the bars around each line and the line of dashes were ignored."
        else:
            what = "The file is a table drawn with lines, as databases print it: the lines and bars were ignored."
        lines = "1 line" if self.outside == 1 else f"{self.outside:,} lines"
        return [what, *([f"{lines} outside the table were ignored."] if self.outside else [])]
