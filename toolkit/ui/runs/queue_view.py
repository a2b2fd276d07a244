"""The queue on the Runs page: the queued runs in their order, with buttons to move or cancel them."""

from __future__ import annotations

import streamlit as st

from toolkit.lifecycle.queue import QueueMove, list_queued_runs, move_queued_run
from toolkit.runs.run_dir import RunDir, is_run_approved, request_run_stop
from toolkit.ui.elements.error_boundary import error_boundary
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.run_facts import read_run_summary

QUEUE_REFRESH_SECONDS = 2
QUEUE_MOVES: tuple[tuple[QueueMove, str, str], ...] = (
    ("first", "vertical_align_top", "Move to the front"),
    ("up", "arrow_upward", "Move up"),
    ("down", "arrow_downward", "Move down"),
)


def draw_queue_panel() -> None:
    """Draw the queue, refreshed because runs leave it by themselves; nothing while it is empty."""
    if list_queued_runs(workspace.current_save_dir()):
        st.header("Queue", anchor=False)
        st.fragment(_draw_queued_runs, run_every=QUEUE_REFRESH_SECONDS, key="queue_fragment")()


def _draw_queued_runs() -> None:
    with error_boundary():
        queued = list_queued_runs(workspace.current_save_dir())
        if not queued:
            st.rerun()
        with st.container(border=True, gap="xsmall"):
            for position, run in enumerate(queued):
                _draw_run(run, position, len(queued))


def _draw_run(run: RunDir, position: int, count: int) -> None:
    name, buttons = st.columns([3, 1], vertical_alignment="center")
    waits = "" if is_run_approved(run) else " :orange[:material/front_hand: waits for your approval]"
    name.markdown(f":gray[{position + 1}.] {escape_text(read_run_summary(run).name, 80)}{waits}")
    with buttons.container(horizontal=True, horizontal_alignment="right", gap="xsmall"):
        for move, icon, tooltip in QUEUE_MOVES if count > 1 else ():
            is_possible = position < count - 1 if move == "down" else position > 0
            if _draw_button(icon, tooltip, f"{move}_{run.id}", is_possible):
                move_queued_run(run, move)
                st.rerun()
        if _draw_button("close", "Cancel this run", f"cancel_{run.id}"):
            request_run_stop(run)
            st.rerun()


def _draw_button(icon: str, tooltip: str, key: str, is_possible: bool = True) -> bool:
    return st.button("", icon=f":material/{icon}:", key=key, help=tooltip, disabled=not is_possible, type="tertiary")
