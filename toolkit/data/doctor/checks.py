"""What a person should know about their rows before training on them: each check maps the subject to findings.

A new check is one function in CHECKS here, in `column_checks.py` or in `text_checks.py`. Works by column, never row by
row, so that a million rows take seconds. Knows no tokenizer: what the length limit cuts off is `lengths.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from toolkit.config import Config, DataConfig
from toolkit.data.doctor import column_checks, text_checks
from toolkit.data.doctor.column_checks import is_id_column
from toolkit.data.doctor.examined_rows import ExaminedRows, make_examined_rows
from toolkit.data.doctor.near_duplicates import MAX_COMPARED_ROWS
from toolkit.data.doctor.row_keys import mark_repeats
from toolkit.data.findings import Finding, FindingsReport, Fix, RowNumbers, order_findings, rows_in_words
from toolkit.data.table import Table

CheckProgressReporter = Callable[[float, str], None]
DatasetCheck = Callable[[ExaminedRows], Iterator[Finding]]


def list_findings(table: Table, config: Config) -> list[Finding]:
    """Every finding, the weightiest first. Raises DataError when the templates or the sizes can't be used."""
    return list(examine_dataset(table, config.data).findings)


def examine_dataset(
    table: Table, data: DataConfig, tell: CheckProgressReporter = lambda share, words: None
) -> FindingsReport:
    """The whole examination; `tell` hears how far it is (0 to 1) and at what."""
    tell(0.02, "comparing rows")
    subject = make_examined_rows(table, data)
    found: list[Finding] = []
    for at, (words, check) in enumerate(DATASET_CHECKS):
        tell(0.1 + 0.4 * at / len(DATASET_CHECKS), words)
        found += check(subject)
        pa.default_memory_pool().release_unused()  # each check reads the text anew; what it leaves would add up
    found += _near_duplicates(subject, lambda share: tell(0.5 + 0.5 * share, "looking for near duplicates"))
    notes = []
    if subject.used.size > MAX_COMPARED_ROWS:
        notes.append(f"Near duplicates were looked for among the first {MAX_COMPARED_ROWS:,} rows.")
    tell(1.0, "done")
    return FindingsReport(order_findings(found), tuple(notes))


def _missing(subject: ExaminedRows) -> Iterator[Finding]:
    dropped = subject.plan.dropped
    if not dropped.size:
        return
    gaps = {column: subject.table.missing.get(column, 0) for column in subject.renderer.columns_needed}
    where = ", ".join(f"'{column}' in {count:,}" for column, count in gaps.items() if count)
    yield Finding(
        "missing",
        "Missing cells",
        f"{dropped.size:,} of {subject.table.rows:,} rows lack a cell that the templates use ({where}).",
        "They are left out before splitting, so the model never sees them.",
        "note",
        dropped,
        (_drop_fix(dropped, "with missing cells"),),
    )


def _empty_answers(subject: ExaminedRows) -> Iterator[Finding]:
    rows = np.flatnonzero(subject.blank_answers)
    if rows.size:
        yield Finding(
            "empty_answer",
            "Empty answers",
            f"{rows_in_words(rows.size)} {_singular_or_plural(rows, 'has', 'have')} nothing, or white space alone, as the answer.",
            "They teach the model to say nothing.",
            "serious",
            rows,
            (_drop_fix(rows, "with an empty answer"),),
        )


def _duplicates(subject: ExaminedRows) -> Iterator[Finding]:
    rows = subject.repeated
    if rows.size:
        yield Finding(
            "duplicate",
            "Exact duplicates",
            f"{rows_in_words(rows.size)} {_singular_or_plural(rows, 'repeats', 'repeat')} an earlier row, prompt and answer alike.",
            "The model sees them more often than the others and learns them by heart.",
            "warning",
            rows,
            (_drop_fix(rows, "that repeated an earlier row"),),
        )


def _contradictions(subject: ExaminedRows) -> Iterator[Finding]:
    answer = subject.renderer.stub_template.columns
    if not subject.renderer.prompt_template.columns or (len(answer) == 1 and is_id_column(subject, answer[0])):
        return
    filled = subject.used[~subject.blank_answers[subject.used]]
    first_of_each = filled[~mark_repeats(subject.examples[filled])]
    prompts = subject.prompts[first_of_each]
    several = np.bincount(prompts, minlength=1) > 1
    if not several.any():
        return
    rows = filled[several[subject.prompts[filled]]]
    others = _minority(subject, rows)
    label = f"Keep the commonest answer, remove {others.size:,}"
    yield Finding(
        "contradiction",
        "Contradictory answers",
        f"{rows_in_words(rows.size)} {_singular_or_plural(rows, 'shares', 'share')} a prompt with a row that answers "
        f"differently ({int(several.sum()):,} prompts).",
        "The model can learn only one answer to a prompt; from several it learns to guess.",
        "warning",
        rows,
        (_drop_fix(others, "with another answer than the commonest", label),),
    )


def _minority(subject: ExaminedRows, rows: RowNumbers) -> RowNumbers:
    """Of the rows of each prompt, those with another than its commonest answer; the first counts where two are even."""
    _, pair, times = np.unique(subject.examples[rows], return_inverse=True, return_counts=True)
    order = np.lexsort((rows, -times[pair], subject.prompts[rows]))
    ranked = subject.prompts[rows][order]
    leads = np.concatenate([[True], ranked[1:] != ranked[:-1]])
    best = np.repeat(subject.examples[rows][order][leads], np.diff(np.append(np.flatnonzero(leads), rows.size)))
    return np.sort(rows[order][subject.examples[rows][order] != best])


def _leaks(subject: ExaminedRows) -> Iterator[Finding]:
    plan = subject.plan
    same = np.isin(subject.examples[plan.test], subject.examples[plan.train])
    rows = np.sort(plan.test[same])
    if rows.size:
        yield Finding(
            "leak",
            "Test rows in the training set",
            f"{rows.size:,} of {plan.test.size:,} test rows {_singular_or_plural(rows, 'is', 'are')} also in the "
            "training set, word for word.",
            "The scores will look better than the model is: it has seen the questions with their answers.",
            "serious",
            rows,
            (
                _drop_fix(
                    subject.repeated, "that repeated an earlier row", f"Remove all {subject.repeated.size:,} repeats"
                ),
            ),
        )


def _near_duplicates(subject: ExaminedRows, tell: Callable[[float], None]) -> Iterator[Finding]:
    earlier, later, rows = subject.find_near_duplicates(tell)
    if not rows.size:
        return
    fix = _drop_fix(rows, "nearly equal to an earlier row")
    part = np.zeros(subject.table.rows, dtype=np.int8)
    part[subject.plan.train], part[subject.plan.test] = 1, 2
    first, second = part[earlier], part[later]
    leaks = np.unique(np.concatenate([earlier[(first == 2) & (second == 1)], later[(first == 1) & (second == 2)]]))
    if leaks.size:
        yield Finding(
            "near_leak",
            "Test rows nearly in the training set",
            f"{leaks.size:,} of {subject.plan.test.size:,} test rows differ from a training row in a few letters only.",
            "The scores will look better than the model is: it has seen almost the same questions.",
            "serious",
            leaks,
            (_drop_fix(rows, "nearly equal to an earlier row", f"Remove all {rows.size:,} near repeats"),),
        )
    yield Finding(
        "near_duplicate",
        "Near duplicates",
        f"{rows_in_words(rows.size)} {_singular_or_plural(rows, 'differs', 'differ')} from an earlier row only in case, "
        "punctuation or a few letters.",
        "They weigh like copies: the model sees the same thing more often than the rest.",
        "warning",
        rows,
        (fix,),
    )


def _drop_fix(rows: RowNumbers, what: str, label: str = "") -> Fix:
    words = rows_in_words(rows.size)
    return Fix(label or f"Remove {words}", "drop", f"{words} {what} removed", rows)


def _singular_or_plural(rows: RowNumbers, one: str, many: str) -> str:
    return one if rows.size == 1 else many


DATASET_CHECKS: tuple[tuple[str, DatasetCheck], ...] = (
    ("looking for missing cells", _missing),
    ("looking for empty answers", _empty_answers),
    ("looking for duplicates", _duplicates),
    ("looking for contradictions", _contradictions),
    ("comparing test and training rows", _leaks),
    *((words, check) for words, check in column_checks.COLUMN_CHECKS),
    *((words, check) for words, check in text_checks.TEXT_CHECKS),
)
