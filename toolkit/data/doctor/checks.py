"""The data checks: what the user should know about the rows before training on them.

A new check is a function that yields findings, in DATASET_CHECKS here, COLUMN_CHECKS or TEXT_CHECKS. Checks work on
columns, not on single rows, so that a million rows take seconds. Checks of token lengths are in `truncation.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from toolkit.config import Config, DataConfig
from toolkit.data.doctor import column_checks, stray_rows, text_checks
from toolkit.data.doctor.column_checks import is_id_column
from toolkit.data.doctor.examined_rows import ExaminedRows, make_examined_rows, make_examined_turns
from toolkit.data.doctor.near_duplicates import MAX_COMPARED_ROWS
from toolkit.data.doctor.row_keys import mark_repeats
from toolkit.data.examples.column_names import ANSWERS, match_name, normalize_column_name
from toolkit.data.examples.column_suggestion import find_verdict_column
from toolkit.data.examples.prompt_columns import FALSE_VALUES
from toolkit.data.examples.renderers import ChatRenderer
from toolkit.data.findings import Finding, FindingsReport, Fix, order_findings
from toolkit.data.progress import DataProgressReporter, ShareReporter
from toolkit.data.table import RowNumbers, Table, rows_in_words
from toolkit.system.printable import format_plural

_COUNTED_ROWS = re.compile(r"([\d,]+) row(s?)\b")
DatasetCheck = Callable[[ExaminedRows], Iterator[Finding]]


def list_findings(table: Table, config: Config) -> list[Finding]:
    """Return all findings, the most severe first. Raises DataError when the templates or split sizes are invalid."""
    return list(examine_dataset(table, config.data).findings)


def examine_dataset(
    table: Table, data: DataConfig, report_progress: DataProgressReporter = lambda share, words: None
) -> FindingsReport:
    """Run all checks. Raises DataError when the templates or split sizes are invalid."""
    report_progress(0.02, "comparing rows")
    examined = make_examined_rows(table, data)
    found: list[Finding] = []
    is_chat = isinstance(examined.renderer, ChatRenderer)
    checks = [one for one in DATASET_CHECKS if not (is_chat and one in PAIR_CHECKS)]
    turn_checks = TURN_CHECKS if is_chat else ()
    # near duplicates take about half of the time, all other checks together less
    for at, (words, check) in enumerate(checks):
        report_progress(0.1 + 0.4 * at / (len(checks) + len(turn_checks)), words)
        found += check(examined)
        pa.default_memory_pool().release_unused()  # each check reads the text again: unused memory would add up
    if turn_checks:
        report_progress(0.4, "reading the trained messages")
        turns, rows = make_examined_turns(examined)
        found += [_as_row_finding(finding, rows) for _, check in turn_checks for finding in check(turns)]
    found += _near_duplicates(examined, lambda share: report_progress(0.5 + 0.5 * share, "looking for near duplicates"))
    notes = []
    if examined.used.size > MAX_COMPARED_ROWS:
        notes.append(f"Only the first {MAX_COMPARED_ROWS:,} rows were searched for near duplicates.")
    report_progress(1.0, "done")
    topics = [words.removeprefix("looking for ") for words, _ in (*checks, *turn_checks)]
    return FindingsReport(order_findings(found), tuple(notes), (*dict.fromkeys(topics), "near duplicates"))


def _as_row_finding(finding: Finding, row_of: RowNumbers) -> Finding:
    """Return a finding about trained messages as one about the rows that have them. row_of: the row of each message.

    Its fixes remove whole conversations; those that would replace cells or edit templates are left out.
    """
    rows = np.unique(row_of[finding.rows])
    fixes = []
    for fix in finding.fixes:
        if fix.action == "drop":
            dropped = np.unique(row_of[fix.rows])
            label = f"Remove {format_plural(dropped.size, 'conversation')}"
            fixes.append(replace(fix, label=label, done=f"{label}: {finding.title.lower()}", rows=dropped))
    message = _COUNTED_ROWS.sub(r"\1 trained message\2", finding.message).replace("with a row", "with a message")
    return replace(finding, message=message, rows=rows, fixes=tuple(fixes))


def _missing(examined: ExaminedRows) -> Iterator[Finding]:
    dropped = examined.plan.dropped
    if not dropped.size:
        return
    renderer = examined.renderer
    gaps = {column: examined.table.missing.get(column, 0) for column in renderer.columns_required}
    where = ", ".join(f"'{column}' in {count:,}" for column, count in gaps.items() if count)
    remove = _drop_fix(dropped, "with missing cells")
    fill = _empty_text_fix(examined, [column for column, count in gaps.items() if count])
    yield Finding(
        "missing",
        "Missing cells",
        f"{dropped.size:,} of {rows_in_words(examined.table.rows)} {_agree(dropped, 'has', 'have')} a missing cell "
        f"in a column that the prompt or completion uses ({where}).",
        "They are skipped before the split, so the model never sees them.",
        "note",
        dropped,
        (*fill, remove),
    )


def _empty_text_fix(examined: ExaminedRows, gaps: Sequence[str]) -> tuple[Fix, ...]:
    """Return the fix that counts missing cells of the prompt's columns as empty text, first of all fixes."""
    renderer = examined.renderer
    columns = [name for name in gaps if name in renderer.prompt_template.columns]
    columns = [name for name in columns if name not in renderer.stub_template.columns]
    if not columns or isinstance(renderer, ChatRenderer):
        return ()
    chosen = [*renderer.optional, *columns]
    return (Fix("Count missing cells as empty text", "set", settings={"data.optional_columns": chosen}),)


def _counted_as_empty(examined: ExaminedRows) -> Iterator[Finding]:
    table, optional = examined.table, examined.renderer.optional
    gaps = {column: table.missing.get(column, 0) for column in optional if table.missing.get(column, 0)}
    if not gaps:
        return
    empty = np.zeros(table.rows, dtype=bool)
    for column in gaps:
        empty |= pc.is_null(table.column(column)).to_numpy()
    rows = np.flatnonzero(empty & examined.usable)
    if not rows.size:
        return
    where = ", ".join(f"'{column}'" for column in gaps)
    skip = Fix(f"Skip {rows_in_words(rows.size)} instead", "set", settings={"data.optional_columns": None})
    yield Finding(
        "empty_text",
        "Missing cells that count as empty text",
        f"{rows.size:,} of {rows_in_words(table.rows)} {_agree(rows, 'has', 'have')} no value in {where}.",
        "The model is trained on these rows, with empty text in this place of the prompt.",
        "note",
        rows,
        (skip,),
    )


def _empty_answers(examined: ExaminedRows) -> Iterator[Finding]:
    rows = np.flatnonzero(examined.blank_answers)
    if rows.size:
        yield Finding(
            "empty_answer",
            "Empty answers",
            f"{rows_in_words(rows.size)} {_agree(rows, 'has', 'have')} an answer that is empty or only white space.",
            "They train the model to give empty answers.",
            "serious",
            rows,
            (_drop_fix(rows, "with an empty answer"),),
        )


def _empty_prompts(examined: ExaminedRows) -> Iterator[Finding]:
    rows = np.flatnonzero(examined.blank_prompts)
    if rows.size:
        yield Finding(
            "empty_prompt",
            "Empty prompts",
            f"{rows_in_words(rows.size)} of {examined.used.size:,} {_agree(rows, 'has', 'have')} an empty prompt.",
            "The model learns to write these answers without any input.",
            "note",
            rows,
            (_drop_fix(rows, "with an empty prompt"),) if rows.size < examined.used.size else (),
        )


def _bad_answers(examined: ExaminedRows) -> Iterator[Finding]:
    """Yield the rows whose true/false column says that their answer is a bad one, as KTO's label does."""
    columns = examined.renderer.stub_template.columns
    is_chat = isinstance(examined.renderer, ChatRenderer)
    named = is_chat or any(match_name(normalize_column_name(column), ANSWERS) for column in columns)
    verdict = find_verdict_column(examined.table, only_reviews=not named)
    if verdict is None or verdict in examined.renderer.columns_needed:
        return
    cells = pc.utf8_lower(pc.utf8_trim_whitespace(examined.table.column(verdict)))
    bad = pc.fill_null(pc.is_in(cells, pa.array(sorted(FALSE_VALUES))), False).to_numpy()
    rows = np.flatnonzero(bad & examined.usable)
    if rows.size and rows.size < examined.used.size:
        yield Finding(
            "bad_answer",
            "Answers marked as bad",
            f"{rows_in_words(rows.size)} of {examined.used.size:,} {_agree(rows, 'has', 'have')} a false value in "
            f"'{verdict}', which marks an answer as bad.",
            "The model learns to give these answers, too.",
            "serious",
            rows,
            (_drop_fix(rows, f"marked as bad in '{verdict}'"),),
        )


def _duplicates(examined: ExaminedRows) -> Iterator[Finding]:
    rows = examined.repeated
    if rows.size:
        yield Finding(
            "duplicate",
            "Exact duplicates",
            f"{rows_in_words(rows.size)} {_agree(rows, 'repeats', 'repeat')} the prompt and answer of an earlier row.",
            "The model sees them more often than other rows and may memorize them.",
            "warning",
            rows,
            (_drop_fix(rows, "that repeated an earlier row"),),
        )


def _contradictions(examined: ExaminedRows) -> Iterator[Finding]:
    answer = examined.renderer.stub_template.columns
    if not examined.renderer.prompt_template.columns or (len(answer) == 1 and is_id_column(examined, answer[0])):
        return
    blank = examined.blank_answers | examined.blank_prompts
    filled = examined.used[~blank[examined.used]]
    first_of_each = filled[~mark_repeats(examined.examples[filled])]
    prompts = examined.prompts[first_of_each]
    several = np.bincount(prompts, minlength=1) > 1
    if not several.any():
        return
    rows = filled[several[examined.prompts[filled]]]
    others = _minority(examined, rows)
    prompt_count = "1 prompt" if several.sum() == 1 else f"{int(several.sum()):,} prompts"
    label = f"Keep the most common answer, remove {others.size:,}"
    yield Finding(
        "contradiction",
        "Contradictory answers",
        f"{rows_in_words(rows.size)} {_agree(rows, 'shares', 'share')} a prompt with a row that has a different "
        f"answer ({prompt_count}).",
        "If one prompt has several answers, the model learns to guess between them.",
        "warning",
        rows,
        (_drop_fix(others, "with a less common answer", label),),
    )


def _minority(examined: ExaminedRows, rows: RowNumbers) -> RowNumbers:
    """Return the rows whose answer is not the most common one to their prompt; of a tie the first wins."""
    _, pair, times = np.unique(examined.examples[rows], return_inverse=True, return_counts=True)
    order = np.lexsort((rows, -times[pair], examined.prompts[rows]))
    ranked = examined.prompts[rows][order]
    leads = np.concatenate([[True], ranked[1:] != ranked[:-1]])
    best = np.repeat(examined.examples[rows][order][leads], np.diff(np.append(np.flatnonzero(leads), rows.size)))
    return np.sort(rows[order][examined.examples[rows][order] != best])


def _leaks(examined: ExaminedRows) -> Iterator[Finding]:
    plan = examined.plan
    same = np.isin(examined.examples[plan.test], examined.examples[plan.train])
    rows = np.sort(plan.test[same])
    if rows.size:
        yield Finding(
            "leak",
            "Test rows in the training set",
            f"{rows.size:,} of {plan.test.size:,} test rows {_agree(rows, 'is', 'are')} also in the "
            "training set, word for word.",
            "The test scores will be too high, because the model is also trained on these prompts and answers.",
            "serious",
            rows,
            (
                _drop_fix(
                    examined.repeated,
                    "that repeated an earlier row",
                    _remove_all(examined.repeated, "duplicate"),
                ),
            ),
        )


def _near_duplicates(examined: ExaminedRows, report_share: ShareReporter) -> Iterator[Finding]:
    earlier, later, rows = examined.find_near_duplicates(report_share)
    if not rows.size:
        return
    fix = _drop_fix(rows, "nearly identical to an earlier row")
    part = np.zeros(examined.table.rows, dtype=np.int8)
    part[examined.plan.train], part[examined.plan.test] = 1, 2
    first, second = part[earlier], part[later]
    leaks = np.unique(np.concatenate([earlier[(first == 2) & (second == 1)], later[(first == 1) & (second == 2)]]))
    if leaks.size:
        yield Finding(
            "near_leak",
            "Near duplicates of test rows in the training set",
            f"{leaks.size:,} of {examined.plan.test.size:,} test rows {_agree(leaks, 'differs', 'differ')} from a "
            "training row by only a few characters.",
            "The test scores will be too high, because the model is also trained on nearly the same prompts "
            "and answers.",
            "serious",
            leaks,
            (_drop_fix(rows, "nearly identical to an earlier row", _remove_all(rows, "near duplicate")),),
        )
    yield Finding(
        "near_duplicate",
        "Near duplicates",
        f"{rows_in_words(rows.size)} {_agree(rows, 'differs', 'differ')} from an earlier row only in case, "
        "punctuation or a few characters.",
        "The model sees their content more often than that of other rows and may memorize it.",
        "warning",
        rows,
        (fix,),
    )


def _drop_fix(rows: RowNumbers, what: str, label: str = "") -> Fix:
    words = rows_in_words(rows.size)
    return Fix(label or f"Remove {words}", "drop", f"{words} {what} removed", rows)


def _remove_all(rows: RowNumbers, what: str) -> str:
    return f"Remove all {rows.size:,} {what}s" if rows.size != 1 else f"Remove the {what}"


def _agree(rows: RowNumbers, one: str, many: str) -> str:
    return one if rows.size == 1 else many


DATASET_CHECKS: tuple[tuple[str, DatasetCheck], ...] = (
    ("looking for missing cells", _missing),
    ("looking for missing cells", _counted_as_empty),
    ("looking for empty answers", _empty_answers),
    ("looking for empty prompts", _empty_prompts),
    ("looking for answers marked as bad", _bad_answers),
    ("looking for duplicates", _duplicates),
    ("looking for contradictory answers", _contradictions),
    ("looking for test rows in the training set", _leaks),
    *((words, check) for words, check in column_checks.COLUMN_CHECKS),
    *((words, check) for words, check in text_checks.TEXT_CHECKS),
    *((words, check) for words, check in stray_rows.STRAY_ROW_CHECKS),
)
TURN_CHECKS: tuple[tuple[str, DatasetCheck], ...] = (
    ("looking for empty answers", _empty_answers),
    ("looking for contradictory answers", _contradictions),
    *column_checks.ANSWER_CHECKS,
    *stray_rows.WORD_CHECKS,
)
"""What is checked in each trained message of conversations."""
PAIR_CHECKS = (
    ("looking for missing cells", _counted_as_empty),
    ("looking for empty prompts", _empty_prompts),
    *column_checks.COLUMN_CHECKS,
    *TURN_CHECKS,
)
"""What is not checked in the cells of conversations."""
