"""Try it now: the default demo, from nothing to a run, with one click."""

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
    """Queue a run of the default settings; raises DataError or RunError."""
    config = Config(save_dir=str(workspace.current_save_dir()))
    table = open_cached_table(config.data.model_dump(mode="json"), workspace.current_save_dir())
    final = decide_open_settings(
        config, table, read_known_machine(workspace.current_save_dir()), workspace.current_save_dir()
    )
    run = create_run(final.config, table, name="First try: orders to JSON", chosen=final.reasons)
    page.get_supervisor(str(workspace.current_save_dir())).check_now()
    return run


def show_first_visit() -> None:
    """Shown until there is a run, or data of one's own."""
    if list_runs(workspace.current_save_dir()) or not str(workspace.current_setting("data.path")).startswith(BUNDLED):
        return
    with st.container(border=True):
        words, button = st.columns([4, 1], vertical_alignment="center")
        words.markdown("##### :material/bolt: See it work, in about a minute")
        words.markdown(
            "A tiny bundled model learns to turn order messages into JSON, on this machine and without a network. "
            "You watch it learn, then ask it, and the untrained model beside it, about a message it has never seen."
        )
        if button.button("Try it now", type="primary", icon=":material/play_arrow:", width="stretch"):
            with st.spinner("Preparing the sample…"):
                run = start_demo_run()
            page.go_to_page("runs", run.id)
