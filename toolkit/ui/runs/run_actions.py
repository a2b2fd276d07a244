"""Actions on a run: pause, stop, resume, kill, delete, rename, continue, reuse its settings."""

from __future__ import annotations

import json
from typing import Literal

import streamlit as st

from toolkit.lifecycle.continue_run import StartCheckpoint, continue_run, list_start_checkpoints
from toolkit.lifecycle.resume_policy import can_resume, request_resume
from toolkit.runs.run_dir import (
    MAX_RUN_NAME_LENGTH,
    RunDir,
    approve_run,
    delete_run,
    is_run_approved,
    kill_run,
    read_run_meta,
    request_run_stop,
)
from toolkit.runs.status import RunStatus, read_run_status
from toolkit.system.durable import durable_write
from toolkit.ui.elements.error_boundary import error_boundary
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.frame import page
from toolkit.ui.runs.run_outcome import find_remedy
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.run_facts import read_run_summary


def draw_stop_buttons(run: RunDir, status: RunStatus) -> None:
    """Draw Pause, Stop and Kill for a run that is not over, or Resume for one that can be resumed."""
    if status.has_ended:
        _resume_button(run, status)
        return
    queued = status.state == "queued"
    with st.container(horizontal=True, horizontal_alignment="right", gap="small"):
        if (
            queued
            and not is_run_approved(run)
            and st.button(
                "Approve",
                icon=":material/front_hand:",
                key=f"approve_{run.id}",
                help="This run was queued in another folder or by another installation. It starts when you approve it.",
            )
        ):
            approve_run(run)
            st.rerun(scope="app")
        if not queued and st.button(
            "Pause",
            icon=":material/pause:",
            key=f"pause_{run.id}",
            disabled=status.state == "stopping",
            help="Finish the current step, save a checkpoint and end the worker. Resume continues from there.",
        ):
            request_run_stop(run, pause=True)
            st.rerun(scope="fragment")
        if st.button(
            "Cancel" if queued else "Stop",
            icon=":material/stop_circle:",
            key=f"stop_{run.id}",
            disabled=status.state == "stopping",
            help="Remove this run from the queue."
            if queued
            else "Finish the current step, save the adapter and end the run.",
        ):
            request_run_stop(run)
            st.rerun(scope="app" if queued else "fragment")
        if not queued and st.button(
            "Kill",
            icon=":material/bolt:",
            key=f"kill_{run.id}",
            help="End the worker immediately. Asks for confirmation.",
        ):
            kill_dialog(run)


def _resume_button(run: RunDir, status: RunStatus) -> None:
    if not can_resume(status):
        return
    tooltip = (
        f"Continue from the checkpoint at step {status.saved_step:,}."
        if status.saved_step
        else "There is no checkpoint: training starts again from step 0."
    )
    with st.container(horizontal=True, horizontal_alignment="right", gap="small"):
        kind: Literal["primary", "secondary"] = "secondary" if find_remedy(status) else "primary"
        if st.button("Resume", icon=":material/resume:", key=f"resume_{run.id}", type=kind, help=tooltip):
            with error_boundary():
                request_resume(run)
                st.rerun(scope="app")


@st.dialog("Kill this run?", icon=":material/bolt:")
def kill_dialog(run: RunDir) -> None:
    st.markdown(
        f"**{escape_text(read_run_summary(run).name)}** ends immediately. "
        "The training since its last checkpoint is lost."
    )
    st.caption("To keep the adapter, use Stop: it finishes the current step and saves.")
    with st.container(horizontal=True):
        if st.button("Kill run", type="primary", icon=":material/bolt:"):
            with st.spinner("Ending the processes of the run…"):
                kill_run(run)
            st.rerun()
        if st.button("Cancel"):
            st.rerun()


@st.dialog("Delete this run?", icon=":material/delete:")
def delete_dialog(run: RunDir) -> None:
    st.markdown(
        f"**{escape_text(read_run_summary(run).name)}** is removed from the disk with its adapter, exports, "
        "checkpoints, evaluations, curves and log. This can't be undone."
    )
    with st.container(horizontal=True):
        if st.button("Delete run", type="primary", icon=":material/delete:"):
            with error_boundary():
                delete_run(run)
                workspace.choose_run(None)
                st.rerun()
        if st.button("Cancel"):
            st.rerun()


def draw_run_actions(run: RunDir) -> None:
    """Draw the actions for the chosen run that are not the next step after its result."""
    status = read_run_status(run)
    with st.container(horizontal=True, gap="small"):
        if st.button(
            "Reuse settings", icon=":material/replay:", help="Load this run's settings into Data and Configure."
        ):
            workspace.replace_draft(read_run_summary(run).config)
            page.go_to_page("configure")
        checkpoints = list_start_checkpoints(run, status) if status.has_ended else []
        if checkpoints and st.button(
            "Continue training", icon=":material/fast_forward:", help="Start a new run from this run's weights."
        ):
            continue_dialog(run, checkpoints)
        _draw_rename_form(run)
        if st.button("Delete", icon=":material/delete:", disabled=not status.has_ended, help=_delete_help(status)):
            delete_dialog(run)


@st.dialog("Continue training", icon=":material/fast_forward:")
def continue_dialog(run: RunDir, checkpoints: list[StartCheckpoint]) -> None:
    """Ask for a checkpoint and a number of epochs, and queue a new run that starts from there."""
    st.markdown(f"Starts a new run with the settings and the weights of **{escape_text(read_run_summary(run).name)}**.")
    chosen = st.selectbox("Checkpoint", checkpoints, format_func=_checkpoint_name)
    previous_epochs = read_run_summary(run).config["training"]["training_args"].get("num_train_epochs") or 1
    epochs = st.number_input("Epochs", min_value=1, max_value=10_000, value=int(previous_epochs))
    st.caption(
        "The learning rate schedule and the optimizer start from the beginning, because the schedule of the first run "
        "has ended. The first run is not changed."
    )
    if st.button("Start", type="primary", icon=":material/play_arrow:") and chosen is not None:
        with error_boundary():
            workspace.choose_run(continue_run(run, chosen, int(epochs)).id)
            st.rerun()


def _checkpoint_name(checkpoint: StartCheckpoint) -> str:
    marks = [mark for mark, applies in (("last", checkpoint.last), ("lowest test loss", checkpoint.best)) if applies]
    return f"Step {checkpoint.step:,}" + (f" ({', '.join(marks)})" if marks else "")


def _delete_help(status: RunStatus) -> str:
    return "Asks for confirmation." if status.has_ended else "Stop the run first."


def _draw_rename_form(run: RunDir) -> None:
    with st.popover("Rename", icon=":material/edit:"), st.form(f"rename_{run.id}", border=False):
        name = st.text_input("Name", value=read_run_summary(run).name, max_chars=MAX_RUN_NAME_LENGTH)
        if st.form_submit_button("Save"):
            rename_run(run, name or "")
            st.rerun()


def rename_run(run: RunDir, name: str) -> None:
    """Change the name of a run; its id and folder stay the same."""
    meta = read_run_meta(run)
    meta["name"] = name.strip()[:MAX_RUN_NAME_LENGTH]
    durable_write(run.meta_path, json.dumps(meta, indent=1, ensure_ascii=False))
