"""State of the inference engine for the chosen run: load the model, show the progress, unload it."""

from __future__ import annotations

import streamlit as st

from toolkit.errors import EngineError
from toolkit.runs.model_names import short_model_name
from toolkit.services import engine_client
from toolkit.services.engine_client import EngineStatus
from toolkit.services.engine_process import EngineInfo, find_engine, write_client_code, write_curl_command
from toolkit.system.printable import format_bytes, format_duration, format_plural
from toolkit.ui.elements.error_boundary import error_boundary, show_error
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.frame.status_strip import list_live_runs
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.run_entries import RunEntry

ENGINE_REFRESH_SECONDS = 0.5
TRAINING_STATES = ("starting", "running", "stopping")


def is_engine_ready(info: EngineInfo | None, status: EngineStatus | None, run_id: str) -> bool:
    """Return whether the engine can answer for this run now."""
    return info is not None and status is not None and status.status == "ready" and run_id in status.runs


def draw_engine_bar(entry: RunEntry) -> EngineInfo | None:
    """Draw the state of the engine with its button; return the engine once it can answer for this run."""
    info = find_engine(workspace.current_save_dir())
    status = engine_client.read_engine_status(info) if info else None
    if st.session_state.get("want_engine") == entry.run.id and not is_engine_ready(info, status, entry.run.id):
        _load_engine(entry, info, status)
        return None
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if is_engine_ready(info, status, entry.run.id) and info is not None and status is not None:
            st.badge("Loaded", icon=":material/memory:", color="green")
            st.caption(_engine_summary(status), width="content")
            with st.popover("Use as API", icon=":material/api:", type="tertiary"):
                _draw_api_access(info, entry.run.id, status)
            _draw_unload_button(info)
            return info
        st.badge("Not loaded", icon=":material/memory:", color="gray")
        note = "The model loads with your first question. It is unloaded after 30 minutes without a question."
        if any(run_status.state in TRAINING_STATES for _, run_status in list_live_runs()):
            note += " A run is training now and shares the memory with it."
        st.caption(note, width="content")
        if st.button("Load model", icon=":material/download_for_offline:", type="tertiary"):
            request_engine(entry.run.id)
            st.rerun()
    return None


def _draw_api_access(info: EngineInfo, run_id: str, status: EngineStatus) -> None:
    """Draw how other programs on this machine reach the loaded model."""
    st.caption("OpenAI-compatible API. Only programs on this machine can reach it, while the model is loaded.")
    models = ", ".join(sorted(status.runs, key=lambda name: name != run_id))
    for title, text, language in (
        ("URL", f"{info.url}/v1", None),
        ("Key", info.token, None),
        ("Models", models, None),
        ("curl", write_curl_command(info, run_id), "bash"),
        ("Python", write_client_code(info, run_id), "python"),
    ):
        st.markdown(f"**{title}**")
        st.code(text, language=language, wrap_lines=True)


def _engine_summary(status: EngineStatus) -> str:
    """Return the name of the loaded model, the number of adapters and the memory in use."""
    memory = [f"{format_bytes(status.memory_bytes)} of memory"] if status.memory_bytes else []
    gpu_memory = [f"{format_bytes(status.gpu_memory_bytes)} of GPU memory"] if status.gpu_memory_bytes else []
    model = f"{escape_text(short_model_name(status.base))} with {format_plural(len(status.runs), 'adapter')}"
    return " · ".join([model, *memory, *gpu_memory])


def draw_engine_memory_note() -> None:
    """Draw that the playground has a model loaded, with a button to unload it, while a run is active or queued."""
    info = find_engine(workspace.current_save_dir()) if list_live_runs() else None
    status = engine_client.read_engine_status(info) if info else None
    if info is None or status is None or status.status != "ready":
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.caption(f":material/memory: Loaded in the Playground: {_engine_summary(status)}", width="content")
        _draw_unload_button(info)


def _draw_unload_button(info: EngineInfo) -> None:
    about = "Stops the inference engine and frees its memory."
    if st.button("Unload model", icon=":material/eject:", type="tertiary", help=about):
        free_engine(info)


def request_engine(run_id: str) -> None:
    """Request the engine for a run; the next rerun of the page starts it and shows its progress."""
    st.session_state["want_engine"] = run_id


def free_engine(info: EngineInfo) -> None:
    """Stop the engine and drop a question that waits for it."""
    st.session_state.pop("want_engine", None)
    st.session_state.pop("pending_ask", None)
    with st.spinner("Unloading the model…"):
        engine_client.stop_engine(info)
    st.rerun()


def _load_engine(entry: RunEntry, info: EngineInfo | None, status: EngineStatus | None) -> None:
    """Start the engine or load the adapter into it, then show the progress; an error drops the request."""
    try:
        if info is None or status is None or status.status in ("failed", "stopped"):
            with st.spinner("Starting the engine…"):
                engine_client.start_engine(workspace.current_save_dir(), entry.run.id)
        elif status.status == "ready":
            with st.spinner("Loading the adapter…"):
                engine_client.start_engine(workspace.current_save_dir(), entry.run.id)
    except EngineError as error:
        _abandon_request(error)
        return
    st.fragment(_watch_loading, run_every=ENGINE_REFRESH_SECONDS)(entry.run.id, entry.facts.model)


def _watch_loading(run_id: str, model: str) -> None:
    with error_boundary():
        info = find_engine(workspace.current_save_dir())
        status = (
            engine_client.read_engine_status(info)
            if info
            else EngineStatus("stopped", message="The inference engine has ended.")
        )
        if is_engine_ready(info, status, run_id):
            st.rerun()
        if status.status in ("failed", "stopped"):
            _abandon_request(EngineError(status.message or "The inference engine has ended.", status.hint))
            return
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.badge("Loading", icon=":material/hourglass_top:", color="blue")
            st.caption(
                f"{escape_text(model)} · {escape_text(status.phase or 'starting')} · {format_duration(status.seconds)}",
                width="content",
            )
            if info is not None and st.button("Cancel", icon=":material/close:", type="tertiary"):
                free_engine(info)
        # without a reported share the bar fills with time: half of it in 8 s, but never completely
        st.progress(status.progress if status.progress is not None else 1 - 1 / (1 + status.seconds / 8))


def _abandon_request(error: EngineError) -> None:
    st.session_state.pop("want_engine", None)
    st.session_state.pop("pending_ask", None)
    show_error(error)
