"""The queue on screen: the waiting runs in their order, each to be moved or cancelled."""

from __future__ import annotations

import streamlit as st

from toolkit.lifecycle.queue import QueueMove, list_queued_runs, move_queued_run
from toolkit.runs.run_dir import RunDir, request_run_stop
from toolkit.ui.elements.error_boundary import error_boundary
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.run_facts import read_run_summary

QUEUE_REFRESH_SECONDS = 2
QUEUE_MOVES: tuple[tuple[QueueMove, str, str], ...] = (
    ("first", "vertical_align_top", "First"),
    ("up", "arrow_upward", "Earlier"),
    ("down", "arrow_downward", "Later"),
)


def draw_queue_panel() -> None:
    """Nothing while no run waits. Ticks, because runs leave the queue by themselves."""
    if list_queued_runs(workspace.current_save_dir()):
        st.subheader("Queue", anchor=False)
        st.fragment(_draw_waiting_runs, run_every=QUEUE_REFRESH_SECONDS, key="queue_fragment")()


def _draw_waiting_runs() -> None:
    with error_boundary():
        waiting = list_queued_runs(workspace.current_save_dir())
        if not waiting:
            st.rerun()
        with st.container(border=True, gap="xsmall"):
            for place, run in enumerate(waiting):
                _draw_run(run, place, len(waiting))


def _draw_run(run: RunDir, place: int, count: int) -> None:
    name, buttons = st.columns([3, 1], vertical_alignment="center")
    name.markdown(f":gray[{place + 1}.] {escape_text(read_run_summary(run).name, 80)}")
    with buttons.container(horizontal=True, horizontal_alignment="right", gap="xsmall"):
        for where, icon, word in QUEUE_MOVES if count > 1 else ():
            possible = place < count - 1 if where == "down" else place > 0
            if _draw_button(icon, word, f"{where}_{run.id}", possible):
                move_queued_run(run, where)
                st.rerun()
        if _draw_button("close", "Cancel: take it out of the queue", f"cancel_{run.id}"):
            request_run_stop(run)
            st.rerun()


def _draw_button(icon: str, word: str, key: str, possible: bool = True) -> bool:
    return st.button("", icon=f":material/{icon}:", key=key, help=word, disabled=not possible, type="tertiary")
