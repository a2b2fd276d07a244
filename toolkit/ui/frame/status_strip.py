"""The status line on every page: the current run, its progress and remaining time, refreshed while runs are active."""

from __future__ import annotations

import streamlit as st

from toolkit.evaluation.evaluation_dir import is_evaluating
from toolkit.runs.run_dir import RunDir, list_runs
from toolkit.runs.status import UNFINISHED, RunStatus, read_open_statuses
from toolkit.system.printable import format_duration, format_plural
from toolkit.ui.elements.error_boundary import error_boundary
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.words import STATE_LABELS
from toolkit.ui.frame.viewers import slow_down_refreshes
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.run_facts import read_run_summary

STATUS_REFRESH_S, SLOW_STATUS_REFRESH_S = 2, 4
SLOW_REFRESH_FROM_S = 600.0
"""Remaining seconds from which runs are refreshed more slowly: each refresh costs the browser CPU time."""


def list_live_runs() -> list[tuple[RunDir, RunStatus]]:
    """Return the active and queued runs, oldest first."""
    found = read_open_statuses(reversed(list_runs(workspace.current_save_dir())))
    return [(run, status) for run, status in found if status.state in UNFINISHED]


def show_status_line(*, brief: bool = False) -> None:
    """Draw the status line. It refreshes while runs are live, and reruns the page when the list of them changes.

    brief: without steps and time, on a page that shows them itself and is refreshed at other moments.
    """
    live = list_live_runs()
    st.session_state["strip_living"] = [run.id for run, _ in live]
    remaining = [status.remaining_s for _, status in live if status.is_active]
    all_long = bool(remaining) and all(left is not None and left > SLOW_REFRESH_FROM_S for left in remaining)
    period = SLOW_STATUS_REFRESH_S if all_long else STATUS_REFRESH_S
    st.session_state["strip_factor"] = factor = slow_down_refreshes()
    period *= factor
    st.session_state["strip_live"] = live
    st.fragment(_line, run_every=period if live or is_evaluating(workspace.current_save_dir()) else None)(brief)


def _line(brief: bool = False) -> None:
    with error_boundary():
        live = st.session_state.pop("strip_live", None)  # of this run of the page; a refresh reads them again
        live = list_live_runs() if live is None else live
        ids = [run.id for run, _ in live]
        if ids != st.session_state.get("strip_living", []):
            st.session_state["strip_living"] = ids
            st.rerun()
        if live and slow_down_refreshes() != st.session_state.get("strip_factor", 1):
            st.rerun()  # with another interval
        with st.container(
            horizontal=True, horizontal_alignment="right", vertical_alignment="center", key="strip", wrap=True
        ):
            _show_status(live, brief)


def _show_status(live: list[tuple[RunDir, RunStatus]], brief: bool) -> None:
    if not live:
        evaluating = is_evaluating(workspace.current_save_dir())
        text = ":material/balance: An evaluation is running" if evaluating else ":material/bedtime: Nothing is running"
        st.caption(text, width="content")
        return
    first = next(((run, status) for run, status in live if status.state != "queued"), live[0])
    _show_run(*first, brief)
    others = sum(status.is_active and run.id != first[0].id for run, status in live)
    if others:
        st.caption(f":material/play_circle: {others} more running", width="content")
    queued = sum(status.state == "queued" and run.id != first[0].id for run, status in live)
    if queued:
        st.caption(f":material/hourglass_top: {format_plural(queued, 'run')} queued", width="content")


def _show_run(run: RunDir, status: RunStatus, brief: bool) -> None:
    label, icon, color = STATE_LABELS[status.state]
    name = escape_text(read_run_summary(run).name, 40)
    parts = [f":{color}[{icon} {label}] **{name}**"]
    if status.state == "running" and not brief:
        parts.append(escape_text(status.phase))
    if status.total_steps and not brief:
        parts.append(f"step {status.step:,} of {status.total_steps:,}")
    if status.remaining_s and not brief:
        parts.append(f"{format_duration(status.remaining_s)} left")
    st.markdown(f":small[{' · '.join(part for part in parts if part)}]", width="content")
    if status.total_steps and not brief:
        st.progress(min(1.0, status.step / status.total_steps), width=160)
