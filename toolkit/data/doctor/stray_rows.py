"""Checks for rows and cells that are no data: repeated column names, rulers, labels of a survey, words for "missing"
and the marks that models use for the end of a text.

Only columns that the templates use are checked, by Arrow's regular expressions over whole columns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from toolkit.data.doctor.examined_rows import ExaminedRows
from toolkit.data.examples.renderers import ChatRenderer
from toolkit.data.findings import Finding, Fix
from toolkit.data.table import RowNumbers, rows_in_words

SURVEY_LABEL_ROWS = 3
"""Rows at the start among which the labels of a survey are looked for."""
MIN_EMPTY_LABELS = 2
"""Columns of a survey that have no label in the second row of names."""
_SURVEY_MARK = '"ImportId"'
_RULER = r"^\s*:?[-=_+]{2,}:?\s*$"
_MISSING_WORD = r"^\s*(NA|N/A|n/a|#N/A|<NA>|\\N|NULL|Null|null|None|nan|NaN|NAN|NaT|undefined)\s*$"
_END_MARKS = (
    r"<\|(endoftext|im_start|im_end|eot_id|end_of_text|begin_of_text|start_header_id|end_header_id|end|eos|return)\|>"
    r"|<(end|start)_of_turn>|<eos>|<bos>|\[/?INST\]|<｜(end|begin)▁of▁sentence｜>|</s>\s*$"
)
_END_MARK = re.compile(rf"\s*({_END_MARKS})")


def remove_end_marks(cell: str) -> str:
    """Return the text without the marks that models use for the end of a text, and without spaces before them."""
    while (shorter := _END_MARK.sub("", cell)) != cell:  # one at the end may hide another
        cell = shorter
    return cell


def _column_names(examined: ExaminedRows) -> Iterator[Finding]:
    rows = _rows_where_all(examined, lambda name, cells: _equals_name(name, cells))
    if rows.size:
        yield _stray(
            rows,
            "header_row",
            "Column names among the rows",
            f"{_have(rows, 'repeats', 'repeat')} the column names.",
            "Several files were probably joined. The model learns the names as if they were an example.",
            "with the column names",
        )


def _rulers(examined: ExaminedRows) -> Iterator[Finding]:
    rows = _rows_where_all(examined, lambda _, cells: _matches(cells, _RULER))
    if rows.size:
        yield _stray(
            rows,
            "ruler",
            "Separator lines among the rows",
            f"{_have(rows, 'has', 'have')} nothing but dashes or similar characters.",
            "They belong to the layout of the file. The model learns them as if they were an example.",
            "of dashes",
        )


def _survey_labels(examined: ExaminedRows) -> Iterator[Finding]:
    """Yield the rows below the header in which survey tools write the questions and their ids."""
    first = examined.table.page(0, SURVEY_LABEL_ROWS)
    marked = [at for at, row in enumerate(first) if any(_SURVEY_MARK in (cell or "") for cell in row.values())]
    last = max(marked, default=0 if _is_second_header(examined) else -1)
    rows = np.arange(last + 1, dtype=np.int64)
    if rows.size and rows.size < examined.table.rows:
        yield _stray(
            rows,
            "label_row",
            "Labels of a survey among the rows",
            f"{_have(rows, 'holds', 'hold')} the labels and ids of the survey's questions.",
            "They describe the columns. The model learns them as if they were an example.",
            "with labels",
        )


def _is_second_header(examined: ExaminedRows) -> bool:
    """Return whether only the first row lacks ids and dates: it labels the columns, as SurveyMonkey does."""
    table = examined.table
    alone = [name for name, cell in table.page(0, 1)[0].items() if cell is None and table.missing[name] == 1]
    return len(alone) >= MIN_EMPTY_LABELS and table.rows > SURVEY_LABEL_ROWS


def _stray(rows: RowNumbers, kind: str, title: str, message: str, why: str, what: str) -> Finding:
    words = rows_in_words(rows.size)
    fix = Fix(f"Remove {words}", "drop", f"{words} {what} removed", rows)
    return Finding(kind, title, message, why, "warning", rows, (fix,))


def _missing_words(examined: ExaminedRows) -> Iterator[Finding]:
    """Yield the cells whose whole text is a word that programs write for a missing value."""
    found = _rows_by_column(examined, lambda cells: _matches(cells, _MISSING_WORD))
    if not found:
        return
    rows = np.unique(np.concatenate(list(found.values())))
    in_answer = any(name in examined.renderer.stub_template.columns for name in found)
    words = rows_in_words(rows.size)
    where = ", ".join(f"'{name}' in {count.size:,}" for name, count in found.items())
    fix = Fix(f"Remove {words}", "drop", f"{words} with a word for a missing value removed", rows)
    yield Finding(
        "missing_word",
        "Words for a missing value",
        f"{words} of {examined.used.size:,} {'has' if rows.size == 1 else 'have'} a cell such as NA, null or \\N "
        f"({where}).",
        "Programs write these words for a missing value, and the model "
        + ("learns to answer with them." if in_answer else "is trained on them as text."),
        "serious" if in_answer else "warning",
        rows,
        (fix,) if rows.size < examined.used.size else (),
    )


def _model_marks(examined: ExaminedRows) -> Iterator[Finding]:
    found = _rows_by_column(examined, lambda cells: _matches(cells, _END_MARKS))
    if not found:
        return
    rows = np.unique(np.concatenate(list(found.values())))
    row = examined.table.row(int(rows[0]))
    marks = [match.group(1) for name in found if (match := _END_MARK.search(row[name] or ""))]
    words = rows_in_words(rows.size)
    fix = Fix(f"Remove the tokens from {words}", "unmark", f"special tokens removed from {words}", rows, tuple(found))
    yield Finding(
        "end_mark",
        "Special tokens in the text",
        f"{words} with a special token such as {marks[0].strip() if marks else '<|endoftext|>'} in "
        f"{', '.join(repr(name) for name in found)}.",
        "Training adds the special tokens of the chosen model. A model that has this token sees it twice, "
        "and another model learns to write it as text.",
        "warning",
        rows,
        (fix,),
    )


def _have(rows: RowNumbers, one: str, many: str) -> str:
    return f"{rows_in_words(rows.size)} {one if rows.size == 1 else many}"


def _matches(cells: Any, pattern: str) -> Any:
    return pc.fill_null(pc.match_substring_regex(cells, pattern), False).to_numpy(zero_copy_only=False)


def _equals_name(name: str, cells: Any) -> Any:
    plain = pc.utf8_lower(pc.utf8_trim_whitespace(cells))
    return pc.fill_null(pc.equal(plain, name.strip().lower()), False).to_numpy(zero_copy_only=False)


def _scan(examined: ExaminedRows, is_wrong: Callable[[str, Any], Any]) -> dict[str, Any]:
    """Return for each used column whether `is_wrong` holds for its cells; nothing for conversations."""
    if isinstance(examined.renderer, ChatRenderer):
        return {}
    names: Sequence[str] = examined.renderer.columns_needed
    parts: dict[str, list[Any]] = {name: [np.zeros(0, dtype=bool)] for name in names}
    for batch in examined.table.batches(list(names)) if names else ():
        for name, cells in zip(names, batch.columns, strict=True):
            parts[name].append(is_wrong(name, cells))
    return {name: np.concatenate(found) & examined.usable for name, found in parts.items()}


def _rows_by_column(examined: ExaminedRows, is_wrong: Callable[[Any], Any]) -> dict[str, RowNumbers]:
    found = {name: np.flatnonzero(mask) for name, mask in _scan(examined, lambda _, cells: is_wrong(cells)).items()}
    return {name: rows for name, rows in found.items() if rows.size}


def _rows_where_all(examined: ExaminedRows, is_wrong: Callable[[str, Any], Any]) -> RowNumbers:
    masks = list(_scan(examined, is_wrong).values())
    return np.flatnonzero(np.logical_and.reduce(masks)) if masks else np.zeros(0, dtype=np.int64)


WORD_CHECKS = (("looking for placeholders of missing values (NA)", _missing_words),)
STRAY_ROW_CHECKS = (
    ("looking for repeated header rows", _column_names),
    ("looking for separator rows (-----)", _rulers),
    ("looking for rows with survey questions", _survey_labels),
    *WORD_CHECKS,
    ("looking for special tokens of models", _model_marks),
)
