"""The demo for a first visit: one click starts a run of the default settings."""

from __future__ import annotations

import streamlit as st

from toolkit.config import BUNDLED, Config
from toolkit.forecast.decisions import decide_open_settings
from toolkit.runs.run_dir import RunDir, create_run, list_runs
from toolkit.system.machine import read_known_machine
from toolkit.ui.frame import page
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.current_dataset import open_cached_table


def start_demo_run() -> RunDir:
    """Queue a run of the default settings. Raises: DataError or RunError."""
    save_dir = workspace.current_save_dir()
    config = Config(save_dir=str(save_dir))
    table = open_cached_table(config.data.model_dump(mode="json"), save_dir)
    decided = decide_open_settings(config, table, read_known_machine(save_dir), save_dir)
    run = create_run(decided.config, table, name="Demo: orders to JSON", chosen=decided.reasons)
    page.get_supervisor(str(save_dir)).check_now()
    return run


def is_first_visit() -> bool:
    """Return whether there is no run yet and the user has not chosen a dataset."""
    chosen = str(workspace.current_setting("data.path"))
    return not list_runs(workspace.current_save_dir()) and chosen.startswith(BUNDLED)


def show_first_visit() -> bool:
    """Offer the demo on a first visit; return whether it is one."""
    if not is_first_visit():
        return False
    with st.container(border=True):
        text, button = st.columns([4, 1], vertical_alignment="center")
        text.markdown("##### :material/bolt: Try a demo run (about one minute)")
        text.markdown(
            "A tiny bundled model learns to turn order messages into JSON, on this machine and without a network. "
            "Watch the training, then compare its answers with those of the base model on messages from the test set."
        )
        if button.button("Try it now", type="primary", icon=":material/play_arrow:", width="stretch"):
            with st.spinner("Preparing the demo…"):
                run = start_demo_run()
            page.go_to_page("runs", run.id)
    return True
