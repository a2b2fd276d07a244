"""What one can do with a run: stop, kill, delete, rename, use its settings again, download its adapter."""

from __future__ import annotations

import io
import json
import zipfile

import streamlit as st

from toolkit.errors import ToolkitError
from toolkit.export.export_state import TOKENIZER_FILES, WEIGHT_FILES
from toolkit.export.prompt_contract import CONTRACT_FILE
from toolkit.lifecycle.continue_run import StartCheckpoint, continue_run, list_start_checkpoints
from toolkit.lifecycle.resume_policy import can_resume, request_resume
from toolkit.runs.run_dir import MAX_RUN_NAME_LENGTH, RunDir, delete_run, kill_run, read_run_meta, request_run_stop
from toolkit.runs.status import RunStatus, read_run_status
from toolkit.system.durable import durable_write, verify_commit
from toolkit.ui.elements.error_boundary import error_boundary
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.frame import page
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.run_facts import read_run_summary

EVALUATE_NOW = "evaluate_now"
"""Session key: the run whose evaluation shall begin when the Evaluate page opens."""
ADAPTER_ZIP_FILES = (*WEIGHT_FILES, "README.md", CONTRACT_FILE, "generation_config.json", *TOKENIZER_FILES)
"""What a downloaded adapter may hold, under these names and no others."""


def draw_stop_buttons(run: RunDir, status: RunStatus) -> None:
    """Pause, stop politely, or at once after a question; for a run that is over, Resume where that can be."""
    if status.has_ended:
        _resume_button(run, status)
        return
    queued = status.state == "queued"
    with st.container(horizontal=True, horizontal_alignment="right", gap="small"):
        if not queued and st.button(
            "Pause", icon=":material/pause:", key=f"pause_{run.id}", disabled=status.state == "stopping",
            help="Finish the step, write a checkpoint, and leave. Resume goes on from there, as if nothing had been.",
        ):  # fmt: skip
            request_run_stop(run, pause=True)
            st.rerun(scope="fragment")
        if st.button(
            "Cancel" if queued else "Stop", icon=":material/stop_circle:", key=f"stop_{run.id}",
            disabled=status.state == "stopping",
            help="Take it out of the queue." if queued else "Finish the step, keep the adapter, and end.",
        ):  # fmt: skip
            request_run_stop(run)
            st.rerun(scope="app" if queued else "fragment")
        if not queued and st.button(
            "Kill", icon=":material/bolt:", key=f"kill_{run.id}", help="End it at once. Asks first."
        ):
            kill_dialog(run)


def _resume_button(run: RunDir, status: RunStatus) -> None:
    if not can_resume(status):
        return
    what = f"Go on from step {status.saved_step}." if status.saved_step else "It has no checkpoint: start it over."
    with st.container(horizontal=True, horizontal_alignment="right", gap="small"):
        if st.button("Resume", icon=":material/resume:", key=f"resume_{run.id}", type="primary", help=what):
            with error_boundary():
                request_resume(run)
                st.rerun(scope="app")


@st.dialog("Kill this run?", icon=":material/bolt:")
def kill_dialog(run: RunDir) -> None:
    st.markdown(
        f"**{escape_text(read_run_summary(run).name)}** ends at once. What it learned since its last checkpoint is lost."
    )
    st.caption("Stop is gentler: it finishes the step and keeps the adapter.")
    with st.container(horizontal=True):
        if st.button("Kill it", type="primary", icon=":material/bolt:"):
            with st.spinner("Ending its processes…"):
                kill_run(run)
            st.rerun()
        if st.button("Keep it running"):
            st.rerun()


@st.dialog("Delete this run?", icon=":material/delete:")
def delete_dialog(run: RunDir) -> None:
    st.markdown(
        f"**{escape_text(read_run_summary(run).name)}** with its adapter, checkpoints, curves and log is removed from the disk."
    )
    with st.container(horizontal=True):
        if st.button("Delete it", type="primary", icon=":material/delete:"):
            with error_boundary():
                delete_run(run)
                workspace.choose_run(None)
                st.rerun()
        if st.button("Keep it"):
            st.rerun()


def draw_run_actions(run: RunDir) -> None:
    """Everything that can be done with the chosen run, in one row."""
    status = read_run_status(run)
    with st.container(horizontal=True, gap="small"):
        if status.adapter_ready and st.button(
            "Talk to it", type="primary", icon=":material/forum:", help="Open it in the playground."
        ):
            page.go_to_page("playground", run.id)
        if status.adapter_ready and st.button(
            "Is it better?", icon=":material/balance:", help="Base model and adapter on the held-out rows, in figures."
        ):
            st.session_state[EVALUATE_NOW] = run.id
            page.go_to_page("evaluate", run.id)
        if st.button("Use these settings again", icon=":material/replay:", help="Loads them into Data and Configure."):
            workspace.replace_draft(read_run_summary(run).config)
            page.go_to_page("configure")
        if status.adapter_ready:
            st.download_button(
                "Download adapter", lambda: zip_adapter(run), file_name=f"adapter-{run.id}.zip", mime="application/zip",
                icon=":material/download:", on_click="ignore",
            )  # fmt: skip
        kept = list_start_checkpoints(run, status) if status.has_ended else []
        if kept and st.button(
            "Train on", icon=":material/fast_forward:", help="A new run that begins with what this one has learned."
        ):
            continue_dialog(run, kept)
        _draw_rename_form(run)
        if st.button("Delete", icon=":material/delete:", disabled=not status.has_ended, help=_delete_help(status)):
            delete_dialog(run)


@st.dialog("Train on", icon=":material/fast_forward:")
def continue_dialog(run: RunDir, kept: list[StartCheckpoint]) -> None:
    """A new run from one of this run's checkpoints."""
    st.markdown(
        f"A new run with the settings of **{escape_text(read_run_summary(run).name)}**, beginning with its weights."
    )
    chosen = st.selectbox("From", kept, format_func=_checkpoint_name)
    before = read_run_summary(run).config["training"]["training_args"].get("num_train_epochs") or 1
    epochs = st.number_input("Epochs", min_value=1, max_value=10_000, value=int(before))
    st.caption(
        "Learning rate schedule and optimizer begin anew: the first run's schedule has come to its end. Nothing of the "
        "first run is changed."
    )
    if st.button("Start", type="primary", icon=":material/play_arrow:") and chosen is not None:
        with error_boundary():
            workspace.choose_run(continue_run(run, chosen, int(epochs)).id)
            st.rerun()


def _checkpoint_name(checkpoint: StartCheckpoint) -> str:
    marks = [word for word, is_so in (("the last", checkpoint.last), ("lowest test loss", checkpoint.best)) if is_so]
    return f"Step {checkpoint.step:,}" + (f" ({', '.join(marks)})" if marks else "")


def _delete_help(status: RunStatus) -> str:
    return "Asks first." if status.has_ended else "Stop it first."


def _draw_rename_form(run: RunDir) -> None:
    with st.popover("Rename", icon=":material/edit:"), st.form(f"rename_{run.id}", border=False):
        name = st.text_input("Label", value=read_run_summary(run).name, max_chars=MAX_RUN_NAME_LENGTH)
        if st.form_submit_button("Save", type="primary"):
            rename_run(run, name or "")
            st.rerun()


def rename_run(run: RunDir, name: str) -> None:
    """Change the run's label; its id and folder stay."""
    meta = read_run_meta(run)
    meta["name"] = name.strip()[:MAX_RUN_NAME_LENGTH]
    durable_write(run.meta_path, json.dumps(meta, indent=1, ensure_ascii=False))


def zip_adapter(run: RunDir) -> bytes:
    """The adapter as a zip of files with fixed names, after its commit was verified. Raises RunError."""
    try:
        whole = verify_commit(run.adapter_dir, own=False)
    except ToolkitError as error:
        raise type(error)(error.message, "Train the run again.") from error
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in ADAPTER_ZIP_FILES:
            if name in whole["files"]:
                archive.write(run.adapter_dir / name, name)
        archive.write(run.config_path, "finetuning-toolkit.yml")
    return buffer.getvalue()
