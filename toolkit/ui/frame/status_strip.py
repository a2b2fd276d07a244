"""One line on every page: what is running, how far, how long still. It refreshes itself while something lives."""

from __future__ import annotations

import streamlit as st

from toolkit.evaluation.busy import evaluating
from toolkit.runs.run_dir import RunDir, list_runs
from toolkit.runs.status import RunStatus, read_status
from toolkit.ui.elements.error_boundary import boundary
from toolkit.ui.elements.escape import plain
from toolkit.ui.elements.words import LIVING, STATES, duration, plural
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.run_facts import facts

PERIOD_S, SELDOM_S = 2, 4
FAR_S = 600.0
"""Whatever goes on for so long is looked at less often: a tick costs the browser more than the app."""


def living() -> list[tuple[RunDir, RunStatus]]:
    """Runs that are going or waiting, oldest first."""
    found = [(run, read_status(run)) for run in reversed(list_runs(workspace.save_dir()))]
    return [(run, status) for run, status in found if status.state in LIVING]


def strip() -> None:
    """Draw the line. It ticks only while something lives, and reruns the page once when the last run ended."""
    now = living()
    st.session_state["strip_living"] = [run.id for run, _ in now]
    ends = [status.remaining_s for _, status in now if status.living]
    period = SELDOM_S if ends and all(left is not None and left > FAR_S for left in ends) else PERIOD_S
    st.fragment(_line, run_every=period if now or evaluating(workspace.save_dir()) else None)()


def _line() -> None:
    with boundary():
        now = living()
        known = st.session_state.get("strip_living", [])
        if [run.id for run, _ in now] != known:
            st.session_state["strip_living"] = [run.id for run, _ in now]
            st.rerun()
        with st.container(
            horizontal=True, horizontal_alignment="right", vertical_alignment="center", key="strip", wrap=True
        ):
            _words(now)


def _words(now: list[tuple[RunDir, RunStatus]]) -> None:
    if not now:
        busy = evaluating(workspace.save_dir())
        words = ":material/balance: An evaluation is going" if busy else ":material/bedtime: Nothing is running"
        st.caption(words, width="content")
        return
    first = next(((run, s) for run, s in now if s.state != "queued"), now[0])
    _going(*first)
    waiting = sum(status.state == "queued" and run.id != first[0].id for run, status in now)
    if waiting:
        st.caption(f":material/hourglass_top: {plural(waiting, 'run')} waiting", width="content")


def _going(run: RunDir, status: RunStatus) -> None:
    word, icon, colour = STATES[status.state]
    name = plain(facts(run).name, 40)
    parts = [f":{colour}[{icon} {word}] **{name}**"]
    if status.state == "running":
        parts.append(plain(status.phase))
    if status.total_steps:
        parts.append(f"step {status.step} of {status.total_steps}")
    if status.remaining_s:
        parts.append(f"{duration(status.remaining_s)} left")
    st.markdown(f":small[{' · '.join(part for part in parts if part)}]", width="content")
    if status.total_steps:
        st.progress(min(1.0, status.step / status.total_steps), width=160)
