"""What a person should know about their data before training on it: each check maps (table, settings) to findings.

A new check is one function in CHECKS. Works by column, never row by row, so that a million rows take seconds. Knows no
tokenizer: what truncation cuts off is the worker's to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from toolkit.config import Config
from toolkit.data.prompt import Renderer, Template, make_renderer
from toolkit.data.split import Indices, SplitPlan, plan_split
from toolkit.data.table import Table
from toolkit.errors import Severity

SHOWN = 100
"""Most row numbers a finding carries."""


@dataclass(frozen=True)
class Finding:
    """kind: a stable word for the check; count: rows concerned; rows: the first of them, 0-based, ascending."""

    kind: str
    message: str
    count: int
    rows: tuple[int, ...]
    severity: Severity
    hint: str = ""


@dataclass(frozen=True)
class _Subject:
    table: Table
    renderer: Renderer
    plan: SplitPlan
    usable: np.ndarray[Any, np.dtype[np.bool_]]
    prompts: Indices
    examples: Indices


def findings(table: Table, config: Config) -> list[Finding]:
    """Every finding, in the order of CHECKS. Raises DataError when the templates or the sizes can't be used."""
    plan = plan_split(table, config.data)
    renderer = make_renderer(config.data.prompt, config.data.prompt_stub, table.columns)
    usable = np.ones(table.rows, dtype=bool)
    usable[plan.dropped] = False
    prompts = row_keys(table, renderer.prompt_template.columns)
    examples = row_keys(table, renderer.columns_needed)
    subject = _Subject(table, renderer, plan, usable, prompts, examples)
    return [finding for check in CHECKS for finding in check(subject)]


def row_keys(table: Table, columns: Sequence[str]) -> Indices:
    """A number for each row, equal exactly when the rows' cells in `columns` are equal; int64, `rows` long."""
    keys = np.zeros(table.rows, dtype=np.int64)
    for column in columns:
        cells = pc.fill_null(pc.index_in(*_with_distinct(table, column)), -1)
        codes = cells.to_numpy().astype(np.int64) + 1
        keys = np.unique(keys * (int(codes.max(initial=0)) + 1) + codes, return_inverse=True)[1].astype(np.int64)
    return keys


def _with_distinct(table: Table, column: str) -> tuple[Any, Any]:
    cells = table.column(column)
    return cells, pc.drop_null(pc.unique(cells))


def _missing(subject: _Subject) -> Iterator[Finding]:
    dropped = subject.plan.dropped
    if not dropped.size:
        return
    gaps = {column: subject.table.missing.get(column, 0) for column in subject.renderer.columns_needed}
    where = ", ".join(f"'{column}' in {count:,}" for column, count in gaps.items() if count)
    message = f"{dropped.size:,} of {subject.table.rows:,} rows lack a cell that the templates use ({where})."
    yield _finding("missing", message, dropped, "warning", "They are left out before splitting.")


def _empty_answers(subject: _Subject) -> Iterator[Finding]:
    rows = np.flatnonzero(_blank(subject.table, subject.renderer.stub_template) & subject.usable)
    if rows.size:
        message = f"{rows.size:,} rows have an empty answer: they teach the model to say nothing."
        yield _finding("empty_answer", message, rows, "warning", "Remove these rows, if that is not meant.")


def _duplicates(subject: _Subject) -> Iterator[Finding]:
    used = np.flatnonzero(subject.usable)
    again = _repeats(subject.examples[used])
    if again.any():
        rows = used[again]
        message = f"{rows.size:,} rows repeat an earlier row, prompt and answer alike."
        yield _finding("duplicate", message, rows, "warning", "The model sees them more often. Remove them.")


def _contradictions(subject: _Subject) -> Iterator[Finding]:
    used = np.flatnonzero(subject.usable)
    first_of_each = used[~_repeats(subject.examples[used])]
    prompts = subject.prompts[first_of_each]
    several = np.bincount(prompts, minlength=1) > 1
    rows = np.sort(first_of_each[several[prompts]])
    if rows.size and subject.renderer.prompt_template.columns:
        message = f"{rows.size:,} rows share a prompt with a row that answers differently."
        yield _finding("contradiction", message, rows, "warning", "The model can learn only one answer to a prompt.")


def _leaks(subject: _Subject) -> Iterator[Finding]:
    plan = subject.plan
    same = np.isin(subject.examples[plan.test], subject.examples[plan.train])
    rows = np.sort(plan.test[same])
    if rows.size:
        message = f"{rows.size:,} of {plan.test.size:,} test rows are also training rows, word for word."
        yield _finding("leak", message, rows, "warning", "The scores will look too good. Remove repeated rows.")


CHECKS = (_missing, _empty_answers, _duplicates, _contradictions, _leaks)


def _finding(kind: str, message: str, rows: Indices, severity: Severity, hint: str) -> Finding:
    return Finding(kind, message, int(rows.size), tuple(int(row) for row in rows[:SHOWN]), severity, hint)


def _repeats(keys: Indices) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """True where a key stood earlier."""
    again = np.ones(len(keys), dtype=bool)
    again[np.unique(keys, return_index=True)[1]] = False
    return again


def _blank(table: Table, template: Template) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Rows for which the template gives only white space; a missing cell is not blank here."""
    literal = "".join(piece.text for piece in template.pieces if not piece.is_column)
    blank = np.full(table.rows, not literal.strip(), dtype=bool)
    if not blank.any():
        return blank
    for column in template.columns:
        lengths = pc.utf8_length(pc.utf8_trim_whitespace(table.column(column)))
        blank &= pc.fill_null(pc.equal(lengths, 0), False).to_numpy()
    return blank
