"""What is wrong with a column or a template: the wrong column, the answer in the prompt, one value, uneven labels.

The fixes here mostly change a template, not the data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from toolkit.data.doctor.examined_rows import ExaminedRows
from toolkit.data.examples.templates import CompiledTemplate
from toolkit.data.findings import Finding, Fix, RowNumbers, rows_in_words

MIN_COLUMN_ROWS = 10
"""Fewer usable rows say nothing about a column."""
ID_SAMPLE_ROWS = 200
"""Rows looked at before a whole column is."""
MAX_CHECKED_LABELS, MIN_ROWS_PER_LABEL = 20, 5
"""A completion is a label when it has at most so many distinct values, with so many rows each on average."""
UNEVEN_LABEL_RATIO = 10
"""Labels are uneven when the commonest has more than so many times the rows of the rarest."""
BALANCED_LABEL_RATIO = 3
"""Balancing keeps of each label at most so many times the rows of the rarest."""

_NUMBER_PATTERN = r"^\s*[#\pL_.\-/ ]{0,12}\d{1,18}\s*$"
_HASH_PATTERN = r"^\s*\{?([[:xdigit:]]{8}(-[[:xdigit:]]{4}){3}-[[:xdigit:]]{12}|[[:xdigit:]]{16,64})\}?\s*$"
_ID_NAME_PATTERN = re.compile(r"(^|[\s_.-])(id|ids|uuid|guid|key|no|nr|num|number|index|idx|row)$", re.IGNORECASE)
_CAMEL_CASE_ID_PATTERN = re.compile(r"[a-z]I[dD]$")


def _wrong_column(subject: ExaminedRows) -> Iterator[Finding]:
    """A template whose only column numbers the rows."""
    for leaf, template, name in _templates(subject):
        if len(template.columns) != 1 or not is_id_column(subject, template.columns[0]):
            continue
        column = template.columns[0]
        fixes = tuple(
            Fix(f"Use {{{other}}} instead", "template", settings=_template_edit(leaf, column, f"{{{other}}}"))
            for other in _alternative_columns(subject, column)[:2]
        )
        learns = "learns to invent numbers" if leaf == "prompt_stub" else "has nothing to answer from"
        yield Finding(
            "wrong_column",
            "Wrong column in the template",
            f"The {name} is made of '{column}' alone, which numbers the rows: a different value in each.",
            f"The model {learns}.",
            "serious",
            fixes=fixes,
        )


def _answer_in_prompt(subject: ExaminedRows) -> Iterator[Finding]:
    renderer = subject.renderer
    both = [column for column in renderer.stub_template.columns if column in renderer.prompt_template.columns]
    if not both:
        return
    fixes: tuple[Fix, ...] = ()
    if set(renderer.prompt_template.columns) - set(both):
        fixes = tuple(
            Fix(f"Take {{{column}}} out of the prompt", "template", settings=_template_edit("prompt", column, ""))
            for column in both
        )
    yield Finding(
        "answer_in_prompt",
        "The answer stands in the prompt",
        f"Prompt and completion both use {_listed(both)}.",
        "The model learns to copy the answer from the prompt, where nobody will put it later.",
        "serious",
        fixes=fixes,
    )


def _constant(subject: ExaminedRows) -> Iterator[Finding]:
    if subject.used.size < MIN_COLUMN_ROWS:
        return
    for leaf, template, name in _templates(subject):
        same = [c for c in template.columns if len(np.unique(subject.keys([c])[subject.used])) == 1]
        if not same:
            continue
        whole = len(same) == len(template.columns)
        if leaf == "prompt_stub" and whole:
            why = "Every row teaches the same answer: there is nothing to learn."
        else:
            why = "It is the same words in every example: they cost tokens and teach nothing."
        fixes: tuple[Fix, ...] = ()
        if whole:
            fixes = tuple(
                Fix(f"Use {{{other}}} instead", "template", settings=_template_edit(leaf, same[0], f"{{{other}}}"))
                for other in _alternative_columns(subject, same[0])[:2]
            )
        else:
            fixes = tuple(
                Fix(f"Take {{{c}}} out of the {name}", "template", settings=_template_edit(leaf, c, "")) for c in same
            )
        yield Finding(
            "constant",
            "The same in every row",
            f"{_listed(same)} in the {name} {'has' if len(same) == 1 else 'have'} one value in all rows.",
            why,
            "serious" if leaf == "prompt_stub" and whole else "note",
            fixes=fixes,
        )


def _imbalance(subject: ExaminedRows) -> Iterator[Finding]:
    answers = subject.answers[subject.used]
    if not answers.size or not subject.renderer.stub_template.columns:
        return
    _, first, label, times = np.unique(answers, return_index=True, return_inverse=True, return_counts=True)
    few = 2 <= len(times) <= MAX_CHECKED_LABELS and answers.size >= MIN_ROWS_PER_LABEL * len(times)
    if not few or times.max() <= UNEVEN_LABEL_RATIO * times.min():
        return
    most, least = (_answer(subject, int(subject.used[first[at]])) for at in (times.argmax(), times.argmin()))
    kept = max(BALANCED_LABEL_RATIO * int(times.min()), MIN_ROWS_PER_LABEL)
    surplus = _surplus_rows(subject.used, label, kept)
    fix = Fix(f"Keep at most {kept:,} rows a label, remove {surplus.size:,}", "drop",
              f"{rows_in_words(surplus.size)} of the commonest labels removed", surplus)  # fmt: skip
    yield Finding(
        "imbalance",
        "Uneven labels",
        f"Of {len(times)} different answers '{most}' has {times.max():,} rows and '{least}' {times.min():,}.",
        "The model can be right most of the time by always giving the commonest answer.",
        "note",
        np.sort(subject.used[label == times.argmin()]),
        (fix,) if surplus.size else (),
    )


def _surplus_rows(rows: RowNumbers, label: RowNumbers, kept: int) -> RowNumbers:
    """Rows beyond the first `kept` of each label, in an order drawn from a fixed seed."""
    order = np.random.default_rng(0).permutation(rows.size)
    by_label = order[np.argsort(label[order], kind="stable")]
    ranked = label[by_label]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    rank = np.arange(rows.size) - np.repeat(starts, np.diff(np.append(starts, rows.size)))
    return np.sort(rows[by_label[rank >= kept]])


def is_id_column(subject: ExaminedRows, column: str) -> bool:
    """Whether the column numbers the rows: a different number or hash in each, by its name, its order or its look."""
    few = pc.drop_null(pa.array([row[column] for row in subject.table.page(0, ID_SAMPLE_ROWS)], pa.string()))
    if len(few) < MIN_COLUMN_ROWS or max(_share(few, _HASH_PATTERN), _share(few, _NUMBER_PATTERN)) < 0.9:
        return False  # the usual case, without reading the column
    present = pc.drop_null(subject.table.column(column))
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


def _alternative_columns(subject: ExaminedRows, wrong: str) -> list[str]:
    """Columns to use instead: unused, mostly filled, neither numbering the rows nor the same in all; longest first."""
    table = subject.table
    found = []
    for column in table.columns:
        unused = column not in subject.renderer.columns_needed
        if column == wrong or not unused or set("{}") & set(column) or table.missing.get(column, 0) > 0.2 * table.rows:
            continue
        cells = table.column(column)
        if pc.count_distinct(cells).as_py() > 1 and not is_id_column(subject, column):
            found.append((float(pc.mean(pc.utf8_length(cells)).as_py() or 0), column))
    return [column for _, column in sorted(found, reverse=True)]


def _template_edit(leaf: str, column: str, text: str) -> dict[str, str]:
    return {"path": f"data.{leaf}", "old": f"{{{column}}}", "new": text}


def _templates(subject: ExaminedRows) -> Iterator[tuple[str, CompiledTemplate, str]]:
    yield "prompt", subject.renderer.prompt_template, "prompt"
    yield "prompt_stub", subject.renderer.stub_template, "completion"


def _answer(subject: ExaminedRows, row: int) -> str:
    text = subject.renderer.stub_template.render(subject.table.row(row))
    return text if len(text) <= 40 else text[:39] + "…"


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(f"'{column}'" for column in columns)


COLUMN_CHECKS = (
    ("looking at the templates", _wrong_column),
    ("looking at the templates", _answer_in_prompt),
    ("looking for constant columns", _constant),
    ("counting labels", _imbalance),
)
