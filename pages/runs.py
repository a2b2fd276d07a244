"""Watch a run, and find every other one."""

from __future__ import annotations

import streamlit as st

from toolkit.runs.run_dir import list_runs
from toolkit.ui.data.next_step import playground_missing
from toolkit.ui.elements.error_boundary import show_error
from toolkit.ui.elements.scroll import scroll_if_asked
from toolkit.ui.frame import page
from toolkit.ui.frame.first_visit import hero
from toolkit.ui.playground.engine_bar import loaded_beside_training
from toolkit.ui.runs.export_view import export_section
from toolkit.ui.runs.queue_view import queue_panel
from toolkit.ui.runs.run_actions import action_row
from toolkit.ui.runs.run_settings import settings_view
from toolkit.ui.runs.run_table import live_table
from toolkit.ui.runs.run_view import live_view
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.run_chooser import run_chooser
from toolkit.ui.workspace.run_entries import entries

with page.page("runs"):
    found, broken = entries(list_runs(workspace.save_dir()))
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
        page.next_step("playground", "Talk to it in the playground", playground_missing(chosen.status))
        scroll_if_asked()
    else:
        page.next_step("data", "Choose data of your own")
    for error in broken:
        show_error(error)
