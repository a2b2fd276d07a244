"""The Playground page: ask a trained model, next to its base model."""

from __future__ import annotations

import streamlit as st

from toolkit.ui.frame import page
from toolkit.ui.frame.first_visit import show_first_visit
from toolkit.ui.frame.status_strip import list_live_runs
from toolkit.ui.playground.playground_view import draw_playground
from toolkit.ui.workspace.run_entries import read_runs_with_adapter

with page.page_frame("playground"):
    runs_with_adapter, all_runs = read_runs_with_adapter()
    if runs_with_adapter:
        draw_playground(runs_with_adapter, all_runs)
        page.show_next_step("configure", "Change a setting and train again")
    elif list_live_runs():
        with st.container(border=True):
            st.header(":material/forum: No trained model yet", anchor=False)
            st.markdown("A run is training. When it has finished, you can chat with its model here.")
            if st.button("View run", type="primary", icon=":material/show_chart:"):
                page.go_to_page("runs")
    else:
        st.caption("Chat with a trained model and its base model side by side. No run has finished yet.")
        show_first_visit()
        page.show_next_step("data", "Use your own data")
