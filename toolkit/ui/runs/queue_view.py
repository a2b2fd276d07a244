"""The queue on screen: the waiting runs in their order, each to be moved or cancelled."""

from __future__ import annotations

import streamlit as st

from toolkit.lifecycle.queue import Where, move, queue
from toolkit.runs.run_dir import RunDir, request_stop
from toolkit.ui.elements.error_boundary import boundary
from toolkit.ui.elements.escape import plain
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.run_facts import facts

PERIOD_S = 2
MOVES: tuple[tuple[Where, str, str], ...] = (
    ("first", "vertical_align_top", "First"),
    ("up", "arrow_upward", "Earlier"),
    ("down", "arrow_downward", "Later"),
)


def queue_panel() -> None:
    """Nothing while no run waits. Ticks, because runs leave the queue by themselves."""
    if queue(workspace.save_dir()):
        st.subheader("Queue", anchor=False)
        st.fragment(_panel, run_every=PERIOD_S, key="queue_fragment")()


def _panel() -> None:
    with boundary():
        waiting = queue(workspace.save_dir())
        if not waiting:
            st.rerun()
        with st.container(border=True, gap="xsmall"):
            for place, run in enumerate(waiting):
                _line(run, place, len(waiting))


def _line(run: RunDir, place: int, count: int) -> None:
    name, buttons = st.columns([3, 1], vertical_alignment="center")
    name.markdown(f":gray[{place + 1}.] {plain(facts(run).name, 80)}")
    with buttons.container(horizontal=True, horizontal_alignment="right", gap="xsmall"):
        for where, icon, word in MOVES if count > 1 else ():
            possible = place < count - 1 if where == "down" else place > 0
            if _button(icon, word, f"{where}_{run.id}", possible):
                move(run, where)
                st.rerun()
        if _button("close", "Cancel: take it out of the queue", f"cancel_{run.id}"):
            request_stop(run)
            st.rerun()


def _button(icon: str, word: str, key: str, possible: bool = True) -> bool:
    return st.button("", icon=f":material/{icon}:", key=key, help=word, disabled=not possible, type="tertiary")
