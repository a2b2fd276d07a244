"""The current state of the data checks on the draft's dataset: findings in its rows, and token lengths per row.

Nothing here blocks: the rows are examined in the background, and the background worker counts the tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from toolkit.config import Config
from toolkit.data.doctor import accepted_findings
from toolkit.data.doctor.examinations import Examination, request_examination
from toolkit.data.doctor.truncation import MAX_LENGTH_SETTING, RowLengths, find_truncated_answers, read_row_lengths
from toolkit.data.examples.split import size_problems
from toolkit.data.examples.templates import template_problems
from toolkit.data.findings import Finding, FindingsReport, order_findings
from toolkit.data.table import Table
from toolkit.errors import DataError
from toolkit.services.token_question import token_question_body
from toolkit.ui.workspace import warm_questions, workspace
from toolkit.ui.workspace.current_dataset import config_with_data

_COUNTED_LENGTHS = "lengths_counted"


@dataclass(frozen=True, eq=False)
class Checkup:
    """The state of the data checks.

    examined: the examination of the rows.
    findings, accepted: open and accepted findings, most serious first.
    lengths: tokens of each row; None while `counting` names the current phase, or if `count_error` says what failed.
    """

    examined: Examination
    findings: tuple[Finding, ...]
    accepted: tuple[Finding, ...]
    lengths: RowLengths | None
    counting: str = ""
    count_error: str = ""

    @property
    def is_running(self) -> bool:
        return not self.examined.over or bool(self.counting)


def read_checkup(table: Table) -> Checkup | None:
    """Return the state of the data checks; None while the draft's templates or split sizes are invalid."""
    draft = workspace.current_draft()
    config = config_with_data(draft["data"])
    if config is None or not _has_usable_settings(table, config):
        return None
    examined = request_examination(table, config.data, workspace.current_save_dir(), workspace.session_id())
    lengths, counting, count_error = _row_lengths(table, draft)
    limit = workspace.current_setting(MAX_LENGTH_SETTING)
    truncated = find_truncated_answers(lengths, limit) if lengths is not None and isinstance(limit, int) else None
    found = (*(examined.report.findings if examined.report else ()), *((truncated,) if truncated else ()))
    marks = accepted_findings.read_accepted_findings(table, workspace.current_save_dir())
    findings, accepted = accepted_findings.split_by_acceptance(FindingsReport(order_findings(found)), marks)
    return Checkup(examined, findings, accepted, lengths, counting, count_error)


def _has_usable_settings(table: Table, config: Config) -> bool:
    found = [*template_problems(config, table.columns), *size_problems(config, table.rows)]
    return not any(problem.severity == "error" for problem in found)


def _row_lengths(table: Table, draft: dict[str, Any]) -> tuple[RowLengths | None, str, str]:
    """Return (lengths, the current phase of counting, why counting failed), cached in the session."""
    body = _lengths_question(table, draft)
    key = json.dumps(body, sort_keys=True, default=str)
    cached = st.session_state.get(_COUNTED_LENGTHS)
    if cached is not None and cached[0] == key:
        return cached[1], "", cached[2]
    question = warm_questions.ask_warm_question("lengths", body, lane="doctor", wait=0.0)
    if not question.is_final:
        share = f" ({question.fraction:.0%})" if question.fraction is not None else ""
        return None, f"{question.phase or 'counting tokens'}{share}", ""
    lengths, failure = None, f"{question.message} {question.hint}".strip()
    if question.state == "done":
        try:
            lengths, failure = read_row_lengths(Path(question.value["path"])), ""
        except DataError as error:
            failure = str(error)
    st.session_state[_COUNTED_LENGTHS] = (key, lengths, failure)
    return lengths, "", failure


def _lengths_question(table: Table, draft: Mapping[str, Any]) -> dict[str, Any]:
    body = token_question_body(draft, table)
    body["config"].pop("training")  # a row's length does not depend on the length limit
    return body


def known_row_lengths(table: Table, draft: Mapping[str, Any]) -> RowLengths | None:
    """Return the lengths if the session has counted them for this table and these settings; asks no question."""
    cached = st.session_state.get(_COUNTED_LENGTHS)
    if cached is None or cached[0] != json.dumps(_lengths_question(table, draft), sort_keys=True, default=str):
        return None
    lengths: RowLengths | None = cached[1]
    return lengths


def recount_token_lengths() -> None:
    """Count the tokens again after counting failed."""
    st.session_state.pop(_COUNTED_LENGTHS, None)
