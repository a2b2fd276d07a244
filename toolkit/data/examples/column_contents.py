"""What the cells of a column are: free text, a few values, numbers, ids, dates, links, or always the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from toolkit.data.table import Table, TableRow

ContentKind = Literal["empty", "constant", "id", "number", "date", "link", "nested", "values", "text"]
SAMPLE_ROWS = 100
"""Rows that are looked at from the start, the middle and the end of a table each."""
MAX_SAMPLED_CHARACTERS = 2_000
"""Characters of a cell that are looked at."""
MIN_JUDGED_CELLS = 5
"""Columns with fewer filled cells in the sample are not called constant, id or values."""
MAX_VALUES, MIN_CELLS_PER_VALUE = 30, 2.0
"""A column has few values if there are at most this many, each in this many cells on average."""
MAX_VALUE_WORDS = 6.0
_KIND_SHARE = 0.9
_NOTHING = frozenset(("none", "null", "nan", "na", "n/a", "[]", "{}", "\\n"))
"""Cells that say in all rows that there is nothing."""
_NUMBER = re.compile(r"\s*[-+]?[\d.,]*\d\s*%?\s*")
_DATE = re.compile(
    r"\s*(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})([T ]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?"
    r"( ?[AaPp][Mm]|Z|[+-]\d{2}:?\d{2})?)?\s*|\s*\d{1,2}:\d{2}(:\d{2})?\s*"
)
_LINK = re.compile(r"\s*(https?://|www\.|s3://|gs://|file:|/)[^\s]*\s*|\s*[\w.-]+\.(com|org|net|de|io)(/\S*)?\s*")
_CODE = re.compile(r"\s*[^\s]*\d[^\s]*\s*")
_VECTOR = re.compile(r"\s*\[\s*-?[\d.]+(?:e-?\d+)?(?:\s*,\s*-?[\d.]+(?:e-?\d+)?)+\s*\]\s*")
"""A list of numbers, such as the ids of tokens."""
_NESTED = re.compile(r"\s*[\[{].*[\]}]\s*", re.DOTALL)


@dataclass(frozen=True)
class ColumnContent:
    """What a sample of a column holds. distinct: share of different cells; words: on average; values: number of them.

    lower_values: the different cells in lower case, if they are few.
    """

    kind: ContentKind
    distinct: float
    words: float
    values: int
    filled: float
    lower_values: frozenset[str] = frozenset()

    @property
    def can_be_prompt(self) -> bool:
        return self.kind in ("text", "values")


def sample_table_rows(table: Table) -> list[TableRow]:
    """Return rows from the start, the middle and the end of a table: a sorted file has one label at its start."""
    starts = (0, max(0, table.rows // 2 - SAMPLE_ROWS // 2), max(0, table.rows - SAMPLE_ROWS))
    wanted = sorted({row for start in starts for row in range(start, min(start + SAMPLE_ROWS, table.rows))})
    return list(table.take(np.array(wanted, dtype=np.int64)))


def describe_cells(cells: Sequence[str | None]) -> ColumnContent:
    """Return what these cells of one column are; None and blank ones count as missing."""
    texts = [cell[:MAX_SAMPLED_CHARACTERS].strip() for cell in cells if cell is not None and cell.strip()]
    if not texts:
        return ColumnContent("empty", 0.0, 0.0, 0, 0.0)
    different = set(texts)
    if len(texts) >= MIN_JUDGED_CELLS and len(different) == 1 and texts[0].casefold() in _NOTHING:
        return ColumnContent("empty", 0.0, 0.0, 0, 0.0)
    words = sum(_count_words(text) for text in texts) / len(texts)
    few = len(different) <= MAX_VALUES
    return ColumnContent(
        _content_kind(texts, different, words),
        len(different) / len(texts),
        words,
        len(different),
        len(texts) / len(cells),
        frozenset(text.casefold() for text in different) if few else frozenset(),
    )


def _content_kind(texts: Sequence[str], different: set[str], words: float) -> ContentKind:
    judged = len(texts) >= MIN_JUDGED_CELLS
    if judged and len(different) == 1:
        return "constant"
    kinds = (("date", _DATE), ("link", _LINK), ("number", _NUMBER), ("id", _VECTOR), ("nested", _NESTED))
    for kind, pattern in kinds:
        if sum(pattern.fullmatch(text) is not None for text in texts) >= _KIND_SHARE * len(texts):
            if kind == "number" and judged and _counts_rows(texts):
                return "id"
            return kind  # type: ignore[return-value]
    is_code = sum(_CODE.fullmatch(text) is not None for text in texts) >= _KIND_SHARE * len(texts)
    if judged and is_code and len(different) >= _KIND_SHARE * len(texts):
        return "id"
    is_few = len(different) <= MAX_VALUES and len(texts) >= MIN_CELLS_PER_VALUE * len(different)
    if judged and is_few and words <= MAX_VALUE_WORDS:
        return "values"
    return "text"


def _counts_rows(texts: Sequence[str]) -> bool:
    """Return whether the numbers go up by one from cell to cell, apart from the gaps between parts of the sample."""
    numbers = [int(text) if text.isascii() and text.isdigit() else -1 for text in texts]
    steps = [later - earlier for earlier, later in pairwise(numbers)]
    return min(numbers) >= 0 and sum(step == 1 for step in steps) >= _KIND_SHARE * len(steps)


def _count_words(text: str) -> float:
    """Return the number of words; of writing without spaces, two characters count as one."""
    wide = sum(char > "\u2e7f" for char in text)
    return len(text.split()) + wide / 2
