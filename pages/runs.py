"""Watch a run, and find every other one."""

from __future__ import annotations

import streamlit as st

from toolkit.runs.rundir import list_runs
from toolkit.ui import chrome, state
from toolkit.ui.engine_view import loaded_beside_training
from toolkit.ui.export_view import export_section
from toolkit.ui.first_visit import hero
from toolkit.ui.queue_view import queue_panel
from toolkit.ui.run_actions import action_row
from toolkit.ui.run_entries import entries
from toolkit.ui.run_pick import run_chooser
from toolkit.ui.run_settings import settings_view
from toolkit.ui.run_table import live_table
from toolkit.ui.run_view import live_view
from toolkit.ui.scroll import scroll_if_asked
from toolkit.ui.steps import playground_missing

with chrome.page("runs"):
    found, broken = entries(list_runs(state.save_dir()))
    hero()
    if found:
        chosen = run_chooser(found, "Run")
        loaded_beside_training()
        live_view(chosen.run)
        action_row(chosen.run)
        if chosen.status.adapter_ready:
            export_section(chosen.run)
        with st.expander("Settings of this run", icon=":material/tune:"):
            settings_view(chosen.run, found)
        queue_panel()
        st.subheader("All runs", anchor=False)
        live_table(found, chosen.run.id)
        chrome.next_step("playground", "Talk to it in the playground", playground_missing(chosen.status))
        scroll_if_asked()
    else:
        chrome.next_step("data", "Choose data of your own")
    for error in broken:
        chrome.show_error(error)
