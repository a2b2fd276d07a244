"""Checks of columns and templates: wrong column, answer in the prompt, constant values, labels and their spelling.

Most of their fixes change a template, not the data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from toolkit.data.doctor.examined_rows import ExaminedRows
from toolkit.data.examples.templates import CompiledTemplate
from toolkit.data.findings import Finding, Fix
from toolkit.data.label_spellings import find_spellings
from toolkit.data.table import RowNumbers, rows_in_words
from toolkit.system.printable import format_plural

MIN_COLUMN_ROWS = 10
"""Columns of tables with fewer usable rows are not judged."""
ID_SAMPLE_ROWS = 200
"""Rows that are checked before a whole column is read."""
MAX_CHECKED_LABELS, MIN_ROWS_PER_LABEL = 20, 5
"""A completion is a label if it has at most this many distinct values, with at least this many rows each on average."""
MAX_CHECKED_SPELLINGS = 200
"""Distinct completions among which spellings of the same label are looked for."""
MAX_SHOWN_SPELLINGS = 4
"""Spellings that a message names; more are counted."""
UNEVEN_LABEL_RATIO = 10
"""Labels are uneven if the most common one has more than this many times the rows of the rarest."""
BALANCED_LABEL_RATIO = 3
"""Balancing keeps at most this many times the rows of the rarest label for each label."""

_NUMBER_PATTERN = r"^\s*[#\pL_.\-/ ]{0,12}\d{1,18}\s*$"
_HASH_PATTERN = r"^\s*\{?([[:xdigit:]]{8}(-[[:xdigit:]]{4}){3}-[[:xdigit:]]{12}|[[:xdigit:]]{16,64})\}?\s*$"
_ID_NAME_PATTERN = re.compile(r"(^|[\s_.-])(id|ids|uuid|guid|key|no|nr|num|number|index|idx|row)$", re.IGNORECASE)
_CAMEL_CASE_ID_PATTERN = re.compile(r"[a-z]I[dD]$")


def _wrong_column(examined: ExaminedRows) -> Iterator[Finding]:
    """Yield a finding for a template whose only column numbers the rows."""
    for leaf, template, name in _templates(examined):
        if len(template.columns) != 1 or not is_id_column(examined, template.columns[0]):
            continue
        column = template.columns[0]
        fixes = tuple(
            Fix(f"Use {{{other}}} instead", "template", settings=_template_edit(leaf, column, f"{{{other}}}"))
            for other in _alternative_columns(examined, column)[:2]
        )
        learns = "learns to invent numbers" if leaf == "prompt_stub" else "gets no information to base its answer on"
        yield Finding(
            "wrong_column",
            "Wrong column in the template",
            f"The {name} uses only '{column}', which looks like a row number: its value is different in each row.",
            f"The model {learns}.",
            "serious",
            fixes=fixes,
        )


def _answer_in_prompt(examined: ExaminedRows) -> Iterator[Finding]:
    renderer = examined.renderer
    both = [column for column in renderer.stub_template.columns if column in renderer.prompt_template.columns]
    if not both:
        return
    fixes: tuple[Fix, ...] = ()
    if set(renderer.prompt_template.columns) - set(both):
        fixes = tuple(
            Fix(f"Remove {{{column}}} from the prompt", "template", settings=_template_edit("prompt", column, ""))
            for column in both
        )
    yield Finding(
        "answer_in_prompt",
        "The answer is in the prompt",
        f"Prompt and completion both use {_listed(both)}.",
        "The model learns to copy the answer from the prompt, but in use the prompt does not contain the answer.",
        "serious",
        fixes=fixes,
    )


def _constant(examined: ExaminedRows) -> Iterator[Finding]:
    if examined.used.size < MIN_COLUMN_ROWS:
        return
    for leaf, template, name in _templates(examined):
        same = [c for c in template.columns if len(np.unique(examined.keys([c])[examined.used])) == 1]
        if not same:
            continue
        is_whole_template = len(same) == len(template.columns)
        if leaf == "prompt_stub" and is_whole_template:
            why = "Every row teaches the same answer: there is nothing to learn."
        else:
            why = "Text that is the same in every example uses tokens but teaches the model nothing."
        fixes: tuple[Fix, ...] = ()
        if is_whole_template:
            fixes = tuple(
                Fix(f"Use {{{other}}} instead", "template", settings=_template_edit(leaf, same[0], f"{{{other}}}"))
                for other in _alternative_columns(examined, same[0])[:2]
            )
        else:
            fixes = tuple(
                Fix(f"Remove {{{c}}} from the {name}", "template", settings=_template_edit(leaf, c, "")) for c in same
            )
        yield Finding(
            "constant",
            "Same value in every row",
            f"{_listed(same)} in the {name} {'has' if len(same) == 1 else 'have'} the same value in all rows.",
            why,
            "serious" if leaf == "prompt_stub" and is_whole_template else "note",
            fixes=fixes,
        )


def _label_variants(examined: ExaminedRows) -> Iterator[Finding]:
    spellings, merged = _merge_spellings(examined)
    rows = examined.used[merged != examined.answers[examined.used]]
    if not rows.size:
        return
    named = [f"{_quoted(old)} for {_quoted(new)}" for old, new in list(spellings.items())[:MAX_SHOWN_SPELLINGS]]
    more = f" and {len(spellings) - len(named)} more" if len(spellings) > len(named) else ""
    words = format_plural(len(spellings), "spelling")
    done = f"{words} of labels merged in {rows_in_words(rows.size)}"
    (column,) = examined.renderer.stub_template.columns
    fix = Fix(f"Merge {words}", "merge", done, rows, (column,), {"spellings": spellings})
    yield Finding(
        "label_variants",
        "One label, several spellings",
        f"{rows_in_words(rows.size)} {'has' if rows.size == 1 else 'have'} another spelling of a more common label: "
        f"{', '.join(named)}{more}.",
        "The model learns each spelling as a label of its own, and a right answer in another spelling counts as wrong.",
        "warning",
        rows,
        (fix,),
    )


def _merge_spellings(examined: ExaminedRows) -> tuple[dict[str, str], RowNumbers]:
    """Return ({spelling: the most frequent one}, the answers of the used rows with equal numbers for one label).

    Only completions of a single column that are labels have spellings; other answers are returned unchanged.
    """
    answers, columns = examined.answers[examined.used], examined.renderer.stub_template.columns
    codes, first, at, times = np.unique(answers, return_index=True, return_inverse=True, return_counts=True)
    if len(columns) != 1 or not 2 <= codes.size <= MAX_CHECKED_SPELLINGS or examined.blank_answers.all():
        return {}, answers
    labels = [str(row[columns[0]]) for row in examined.table.take(examined.used[first], list(columns))]
    rows = {label: int(count) for label, count in zip(labels, times, strict=True) if label.strip()}
    spellings = find_spellings(rows)
    distinct = len(rows) - len(spellings)
    if distinct > MAX_CHECKED_LABELS or answers.size < MIN_ROWS_PER_LABEL * distinct:
        return {}, answers
    number = {label: code for code, label in enumerate(labels)}
    merged = [number[spellings.get(label, label)] for label in labels]
    return spellings, codes[np.array(merged)][at]


def _quoted(label: str) -> str:
    """Return a short label in quotes; space and invisible characters are shown as escapes."""
    shown = "".join(c if c == " " or c.isprintable() else f"\\u{ord(c):04x}" for c in label[:40])
    return f"'{shown}'"


def _imbalance(examined: ExaminedRows) -> Iterator[Finding]:
    answers = examined.answers[examined.used]
    if not answers.size or not examined.renderer.stub_template.columns:
        return
    # the spellings of a label count as one label: a rare spelling must not decide how many rows are kept
    _, answers = _merge_spellings(examined)
    _, first, label, times = np.unique(answers, return_index=True, return_inverse=True, return_counts=True)
    few = 2 <= len(times) <= MAX_CHECKED_LABELS and answers.size >= MIN_ROWS_PER_LABEL * len(times)
    if not few or times.max() <= UNEVEN_LABEL_RATIO * times.min():
        return
    most, least = (_answer(examined, int(examined.used[first[at]])) for at in (times.argmax(), times.argmin()))
    kept = max(BALANCED_LABEL_RATIO * int(times.min()), MIN_ROWS_PER_LABEL)
    surplus = _surplus_rows(examined.used, label, kept)
    done = f"{rows_in_words(surplus.size)} of the most common labels removed"
    fix = Fix(f"Keep at most {kept:,} rows per label, remove {surplus.size:,}", "drop", done, surplus)
    yield Finding(
        "imbalance",
        "Uneven labels",
        f"Of {len(times)} different answers, '{most}' has {rows_in_words(int(times.max()))} and '{least}' has "
        f"{rows_in_words(int(times.min()))}.",
        "The model can be right most of the time by always giving the most common answer.",
        "note",
        np.sort(examined.used[label == times.argmin()]),
        (fix,) if surplus.size else (),
    )


def _surplus_rows(rows: RowNumbers, label: RowNumbers, kept: int) -> RowNumbers:
    """Return the rows beyond `kept` of each label; a fixed seed decides which rows of a label are kept."""
    order = np.random.default_rng(0).permutation(rows.size)
    by_label = order[np.argsort(label[order], kind="stable")]
    ranked = label[by_label]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    rank = np.arange(rows.size) - np.repeat(starts, np.diff(np.append(starts, rows.size)))
    return np.sort(rows[by_label[rank >= kept]])


def is_id_column(examined: ExaminedRows, column: str) -> bool:
    """Return whether the column numbers the rows.

    It does if it has a different hash in each row, or a different number together with the name of an id column or
    with consecutive values.
    """
    few = pc.drop_null(pa.array([row[column] for row in examined.table.page(0, ID_SAMPLE_ROWS)], pa.string()))
    if len(few) < MIN_COLUMN_ROWS or max(_share(few, _HASH_PATTERN), _share(few, _NUMBER_PATTERN)) < 0.9:
        return False  # the usual case, decided without reading the column
    present = pc.drop_null(examined.table.column(column))
    if len(present) < MIN_COLUMN_ROWS or pc.count_distinct(present).as_py() < len(present):
        return False
    if _share(present, _HASH_PATTERN) >= 0.99:
        return True
    if _share(present, _NUMBER_PATTERN) < 0.99:
        return False
    if _ID_NAME_PATTERN.search(column) or _CAMEL_CASE_ID_PATTERN.search(column):
        return True
    digits = pc.replace_substring_regex(present, r"[^0-9]", "").to_pylist()
    numbers = np.array([float(text or 0) for text in digits])
    return bool((np.diff(numbers) == 1).mean() >= 0.9)


def _share(cells: object, pattern: str) -> float:
    return float(pc.mean(pc.cast(pc.match_substring_regex(cells, pattern), "float64")).as_py() or 0)


def _alternative_columns(examined: ExaminedRows, wrong: str) -> list[str]:
    """Return columns to use instead: unused, mostly filled, neither constant nor numbering rows; longest text first."""
    table = examined.table
    found = []
    for column in table.columns:
        unused = column not in examined.renderer.columns_needed
        if column == wrong or not unused or set("{}") & set(column) or table.missing.get(column, 0) > 0.2 * table.rows:
            continue
        cells = table.column(column)
        if pc.count_distinct(cells).as_py() > 1 and not is_id_column(examined, column):
            found.append((float(pc.mean(pc.utf8_length(cells)).as_py() or 0), column))
    return [column for _, column in sorted(found, reverse=True)]


def _template_edit(leaf: str, column: str, text: str) -> dict[str, str]:
    return {"path": f"data.{leaf}", "old": f"{{{column}}}", "new": text}


def _templates(examined: ExaminedRows) -> Iterator[tuple[str, CompiledTemplate, str]]:
    yield "prompt", examined.renderer.prompt_template, "prompt"
    yield "prompt_stub", examined.renderer.stub_template, "completion"


def _answer(examined: ExaminedRows, row: int) -> str:
    text = examined.renderer.stub_template.render(examined.table.row(row))
    return text if len(text) <= 40 else text[:39] + "…"


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(f"'{column}'" for column in columns)


ANSWER_CHECKS = (
    ("looking for columns with one value", _constant),
    ("looking for labels in several spellings", _label_variants),
    ("looking for imbalanced labels", _imbalance),
)
COLUMN_CHECKS = (
    ("looking for wrong columns", _wrong_column),
    ("looking for wrong columns", _answer_in_prompt),
    *ANSWER_CHECKS,
)
