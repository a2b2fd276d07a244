"""Talk to a finished run, beside the base model it came from."""

from __future__ import annotations

import streamlit as st

from toolkit.runs.run_dir import list_runs
from toolkit.ui.frame import page
from toolkit.ui.frame.first_visit import show_first_visit
from toolkit.ui.frame.status_strip import list_live_runs
from toolkit.ui.playground.playground_view import draw_playground
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.run_entries import read_run_entries

with page.page_frame("playground"):
    found, _ = read_run_entries(list_runs(workspace.current_save_dir()))
    usable = [entry for entry in found if entry.status.adapter_ready]
    if usable:
        draw_playground(usable, found)
        page.show_next_step("configure", "Change a setting and train again")
    elif list_live_runs():
        with st.container(border=True):
            st.markdown("##### :material/forum: Nobody to talk to yet")
            st.markdown("A run is being trained: when it has finished, you talk to it here.")
            if st.button("Watch it", type="primary", icon=":material/show_chart:"):
                page.go_to_page("runs")
    else:
        st.caption("Here you talk to what a run has learned, beside its base model. No run has finished yet.")
        show_first_visit()
        page.show_next_step("data", "Choose data of your own")
