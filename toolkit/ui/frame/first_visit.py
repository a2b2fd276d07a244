"""The demo for a first visit: one click starts a run of the default settings."""

from __future__ import annotations

import streamlit as st

from toolkit.config import Config
from toolkit.data.table import Table
from toolkit.forecast.decisions import DecidedSettings, decide_open_settings
from toolkit.forecast.scene import NoForecast
from toolkit.runs.run_dir import RunDir, create_run
from toolkit.system.machine import read_known_machine
from toolkit.system.printable import about_duration
from toolkit.ui.frame import page
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.current_dataset import open_cached_table
from toolkit.ui.workspace.run_entries import is_first_visit


def _decide_demo() -> tuple[Table, DecidedSettings]:
    """Return the demo's table, and its settings with the forecast. Raises: DataError."""
    save_dir = workspace.current_save_dir()
    config = Config(save_dir=str(save_dir))
    table = open_cached_table(config.data.model_dump(mode="json"), save_dir)
    return table, decide_open_settings(config, table, read_known_machine(save_dir), save_dir)


def start_demo_run() -> RunDir:
    """Queue a run of the default settings. Raises: DataError or RunError."""
    table, decided = _decide_demo()
    run = create_run(
        decided.config,
        table,
        name="Demo: orders to JSON",
        chosen=decided.reasons,
        memory_bytes=decided.memory_bytes,
    )
    page.get_supervisor(str(workspace.current_save_dir())).check_now()
    return run


def show_first_visit() -> bool:
    """Offer the demo on a first visit; return whether it is one."""
    if not is_first_visit():
        return False
    with st.container(horizontal=True, vertical_alignment="center", key="first_visit"):
        if st.button("Try it now", type="primary", icon=":material/play_arrow:"):
            with st.spinner("Preparing the demo…"):
                run = start_demo_run()
            page.go_to_page("runs", run.id)
        found = _decide_demo()[1].found
        duration = "" if isinstance(found, NoForecast) else f" in {about_duration(found.seconds)}"
        st.markdown(
            f"The demo: a tiny bundled model learns to turn order messages into JSON{duration}, without a network.",
            width="content",
        )
    return True
