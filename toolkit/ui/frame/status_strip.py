"""One line on every page: what is running, how far, how long still. It refreshes itself while something lives."""

from __future__ import annotations

import streamlit as st

from toolkit.evaluation.evaluation_dir import is_evaluating
from toolkit.runs.run_dir import RunDir, list_runs
from toolkit.runs.status import UNFINISHED, RunStatus, read_run_status
from toolkit.ui.elements.error_boundary import error_boundary
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.words import STATE_LABELS, format_duration, format_plural
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.run_facts import read_run_summary

STATUS_REFRESH_S, SLOW_STATUS_REFRESH_S = 2, 4
SLOW_REFRESH_FROM_S = 600.0
"""Whatever goes on for so long is looked at less often: a tick costs the browser more than the app."""


def list_live_runs() -> list[tuple[RunDir, RunStatus]]:
    """Runs that are going or waiting, oldest first."""
    found = [(run, read_run_status(run)) for run in reversed(list_runs(workspace.current_save_dir()))]
    return [(run, status) for run, status in found if status.state in UNFINISHED]


def show_status_line() -> None:
    """Draw the line. It ticks only while something lives, and reruns the page once when the last run ended."""
    now = list_live_runs()
    st.session_state["strip_living"] = [run.id for run, _ in now]
    ends = [status.remaining_s for _, status in now if status.is_active]
    period = (
        SLOW_STATUS_REFRESH_S
        if ends and all(left is not None and left > SLOW_REFRESH_FROM_S for left in ends)
        else STATUS_REFRESH_S
    )
    st.fragment(_line, run_every=period if now or is_evaluating(workspace.current_save_dir()) else None)()


def _line() -> None:
    with error_boundary():
        now = list_live_runs()
        known = st.session_state.get("strip_living", [])
        if [run.id for run, _ in now] != known:
            st.session_state["strip_living"] = [run.id for run, _ in now]
            st.rerun()
        with st.container(
            horizontal=True, horizontal_alignment="right", vertical_alignment="center", key="strip", wrap=True
        ):
            _show_status(now)


def _show_status(now: list[tuple[RunDir, RunStatus]]) -> None:
    if not now:
        busy = is_evaluating(workspace.current_save_dir())
        words = ":material/balance: An evaluation is going" if busy else ":material/bedtime: Nothing is running"
        st.caption(words, width="content")
        return
    first = next(((run, s) for run, s in now if s.state != "queued"), now[0])
    _show_run(*first)
    waiting = sum(status.state == "queued" and run.id != first[0].id for run, status in now)
    if waiting:
        st.caption(f":material/hourglass_top: {format_plural(waiting, 'run')} waiting", width="content")


def _show_run(run: RunDir, status: RunStatus) -> None:
    word, icon, colour = STATE_LABELS[status.state]
    name = escape_text(read_run_summary(run).name, 40)
    parts = [f":{colour}[{icon} {word}] **{name}**"]
    if status.state == "running":
        parts.append(escape_text(status.phase))
    if status.total_steps:
        parts.append(f"step {status.step} of {status.total_steps}")
    if status.remaining_s:
        parts.append(f"{format_duration(status.remaining_s)} left")
    st.markdown(f":small[{' · '.join(part for part in parts if part)}]", width="content")
    if status.total_steps:
        st.progress(min(1.0, status.step / status.total_steps), width=160)
