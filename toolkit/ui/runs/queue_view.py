"""The queue on the Runs page: the queued runs in their order, with buttons to move or cancel them."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from toolkit.cluster.setting import read_cluster
from toolkit.lifecycle.claims import read_claim
from toolkit.lifecycle.queue import QueueMove, list_queued_runs, move_queued_run
from toolkit.lifecycle.slots import explain_wait, list_slot_holders
from toolkit.runs.run_dir import RunDir, is_run_approved, request_run_stop
from toolkit.runs.slots import count_slots, save_slot_count, slot_limit
from toolkit.system.machine import read_known_machine
from toolkit.ui.elements.error_boundary import error_boundary
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.frame import page
from toolkit.ui.frame.viewers import slow_down_refreshes
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
        with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="bottom"):
            st.header("Queue", anchor=False, width="content")
            _draw_slot_count()
        every = QUEUE_REFRESH_SECONDS * slow_down_refreshes()
        st.fragment(_draw_queued_runs, run_every=every, key="queue_fragment")()


def _draw_slot_count() -> None:
    """Draw the number of runs that train at the same time; nothing on a machine that can train only one."""
    save_dir = workspace.current_save_dir()
    machine = read_known_machine(save_dir)
    count, most = count_slots(save_dir, machine), slot_limit(save_dir, machine)
    if most == 1:
        return
    shared = (
        "Ray gives each run its node. What does not fit waits for one."
        if read_cluster(save_dir) is not None
        else "Each run gets a GPU of its own; one that needs several waits for them."
        if machine is not None and machine.gpus
        else "The runs share the cores. A run that is training keeps its threads. While memory is short, none starts."
    )
    # a key for each value: a change by another program then shows, instead of being undone by the widget's old value
    chosen = st.number_input("Runs at the same time", 1, most, count, key=f"slot_count_{count}", help=shared, width=160)
    if chosen != count:
        save_slot_count(save_dir, int(chosen))
        page.get_supervisor(str(save_dir)).check_now()
        st.rerun()


def _draw_training_runs(save_dir: Path) -> None:
    """Draw which run trains in which slot, if several may."""
    for _, holder in list_slot_holders(save_dir) if count_slots(save_dir) > 1 else ():
        run = RunDir(save_dir / "runs" / holder.run)
        if not run.path.is_dir():
            continue
        claim = read_claim(run, holder.attempt)
        where = escape_text(claim.where) if claim is not None else ""
        st.markdown(f":gray[:material/memory: {where or 'training'}] {escape_text(read_run_summary(run).name, 80)}")


def _draw_queued_runs() -> None:
    with error_boundary():
        queued = list_queued_runs(workspace.current_save_dir())
        if not queued:
            st.rerun()
        with st.container(border=True, gap="xsmall"):
            _draw_training_runs(workspace.current_save_dir())
            for position, run in enumerate(queued):
                _draw_run(run, position, len(queued))


def _draw_run(run: RunDir, position: int, count: int) -> None:
    name, buttons = st.columns([3, 1], vertical_alignment="center")
    waits = "" if is_run_approved(run) else " :orange[:material/front_hand: waits for your approval]"
    if not waits and position == 0 and (reason := explain_wait(run)):
        waits = f" :gray[· {escape_text(reason)}]"
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
