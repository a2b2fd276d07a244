"""The findings of the data checks in the Start panel. They are warnings and do not block Start."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from toolkit.data.findings import Finding
from toolkit.errors import Problem
from toolkit.runs.preflight import SKIPPED_BECAUSE
from toolkit.system.printable import format_plural
from toolkit.ui.data.doctor_view import CHECKS_REFRESH_S
from toolkit.ui.elements import scroll
from toolkit.ui.elements.error_boundary import error_boundary
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.frame import page
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.checkup import read_checkup

SHOWN_FINDINGS = 4
"""Findings that are listed by title; the others are counted."""


def draw_data_checks_note(*, start_is_waiting: bool = False) -> None:
    """Draw the findings and the progress of the data checks; nothing while the data or its templates are invalid.

    start_is_waiting: the panel already shows the progress of the background worker.
    """
    st.fragment(_draw_note, run_every=CHECKS_REFRESH_S)(start_is_waiting)


def without_found_gaps(problems: Sequence[Problem]) -> tuple[Problem, ...]:
    """Leave out the warning on rows with missing cells once the data checks list them: the note says it."""
    table = workspace.current_table()
    checkup = read_checkup(table) if table is not None else None
    kinds = {finding.kind for finding in (*checkup.findings, *checkup.accepted)} if checkup is not None else set()
    if "missing" not in kinds or workspace.current_grid():  # a study may read other tables
        return tuple(problems)
    return tuple(one for one in problems if one.severity == "error" or SKIPPED_BECAUSE not in one.message)


def _draw_note(start_is_waiting: bool) -> None:
    with error_boundary():
        table = workspace.current_table()
        checkup = read_checkup(table) if table is not None else None
        if checkup is None:
            return
        _draw_open_findings(checkup.findings)
        if checkup.accepted:
            st.caption(f":material/visibility: Accepted findings: {_list_findings(checkup.accepted)}")
        if checkup.examined.error is not None:
            st.caption(":material/info: The data could not be checked. The Data page shows the reason.")
        elif checkup.examined.over and checkup.counting and start_is_waiting:
            return
        elif checkup.is_running:
            phase = checkup.examined.progress[1] if not checkup.examined.over else checkup.counting
            st.caption(f":material/hourglass_top: Checking the data: {escape_text(phase)}")
        elif not checkup.findings and not checkup.accepted:
            st.markdown(":small[:green[:material/check_circle:] Data checks: no findings.]")


def _draw_open_findings(findings: Sequence[Finding]) -> None:
    if not findings:
        return
    weight = findings[0].weight  # the most serious finding is first
    color = "red" if weight == "serious" else "orange" if weight == "warning" else "gray"
    with st.container(gap=None):
        count = format_plural(len(findings), "finding")
        st.markdown(f":{color}[:material/warning: **{count} in the data**] {_list_findings(findings)}")
        if st.button("Review and repair", type="tertiary", key="to_doctor", icon=":material/healing:"):
            scroll.request_scroll("doctor")
            page.go_to_page("data")


def _list_findings(findings: Sequence[Finding]) -> str:
    titles = [
        escape_text(finding.title) + (f" ({format_plural(finding.count, 'row')})" if finding.count else "")
        for finding in findings[:SHOWN_FINDINGS]
    ]
    others = len(findings) - SHOWN_FINDINGS
    return ", ".join(titles) + (f" and {others} more" if others > 0 else "") + "."
