"""All that the doctor knows about the draft's data at this moment, for any page: what the examination of its rows
found, and what the warm worker's token lengths say about the length limit. Waits for nothing, draws nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from toolkit.config import Config
from toolkit.data.doctor import accepted_findings
from toolkit.data.doctor.examinations import Examination, request_examination
from toolkit.data.doctor.token_lengths import RowLengths, read_row_lengths
from toolkit.data.doctor.truncation import MAX_LENGTH_SETTING, find_truncated_answers
from toolkit.data.examples.split import size_problems
from toolkit.data.examples.templates import template_problems
from toolkit.data.findings import Finding, FindingsReport, order_findings
from toolkit.data.table import Table
from toolkit.errors import DataError
from toolkit.ui.workspace import warm_questions, workspace
from toolkit.ui.workspace.current_dataset import config_with_data
from toolkit.ui.workspace.workspace import session_id

_COUNTED_LENGTHS = "lengths_counted"


@dataclass(frozen=True, eq=False)
class Checkup:
    """examined: of the rows; findings: open ones, and seen: accepted ones, both weightiest first; lengths: tokens of
    each row, None while counting says what is waited for, or when uncounted says why there are none."""

    examined: Examination
    findings: tuple[Finding, ...]
    seen: tuple[Finding, ...]
    lengths: RowLengths | None
    counting: str = ""
    uncounted: str = ""

    @property
    def going(self) -> bool:
        return not self.examined.over or bool(self.counting)


def read_checkup(table: Table) -> Checkup | None:
    """None while the draft's templates or sizes can't be used; that is said elsewhere."""
    draft = workspace.current_draft()
    config = config_with_data(draft["data"])
    if config is None or not _has_usable_settings(table, config):
        return None
    examined = request_examination(table, config.data, workspace.current_save_dir(), session_id())
    lengths, counting, uncounted = _lengths(table, draft)
    limit = workspace.current_setting(MAX_LENGTH_SETTING)
    cut = find_truncated_answers(lengths, limit) if lengths is not None and isinstance(limit, int) else None
    found = (*(examined.report.findings if examined.report else ()), *((cut,) if cut else ()))
    marks = accepted_findings.read_accepted_findings(table, workspace.current_save_dir())
    return Checkup(
        examined,
        *accepted_findings.split_by_acceptance(FindingsReport(order_findings(found)), marks),
        lengths,
        counting,
        uncounted,
    )


def _has_usable_settings(table: Table, config: Config) -> bool:
    found = [*template_problems(config, table.columns), *size_problems(config, table.rows)]
    return not any(problem.severity == "error" for problem in found)


def _lengths(table: Table, draft: dict[str, Any]) -> tuple[RowLengths | None, str, str]:
    """(lengths, what is waited for, why there are none); what is known already is not asked again."""
    body = warm_questions.token_question_body(draft, table)
    body["config"].pop("training")  # the limit plays no part in how long a row is
    key = json.dumps(body, sort_keys=True, default=str)
    held = st.session_state.get(_COUNTED_LENGTHS)
    if held is not None and held[0] == key:
        return held[1], "", held[2]
    look = warm_questions.ask_warm_question("lengths", body, lane="doctor", wait=0.0)
    if not look.is_final:
        share = f" ({look.fraction:.0%})" if look.fraction is not None else ""
        return None, f"{look.phase or 'counting tokens'}{share}", ""
    lengths, failed = None, f"{look.message} {look.hint}".strip()
    if look.state == "done":
        try:
            lengths, failed = read_row_lengths(Path(look.value["path"])), ""
        except DataError as error:
            failed = str(error)
    st.session_state[_COUNTED_LENGTHS] = (key, lengths, failed)
    return lengths, "", failed


def recount_token_lengths() -> None:
    """Ask once more for lengths that could not be had."""
    st.session_state.pop(_COUNTED_LENGTHS, None)
