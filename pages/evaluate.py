"""The Evaluate page: whether a run is better than its base model, with every test row."""

from __future__ import annotations

import streamlit as st

from toolkit.ui.evaluate.evaluate_view import draw_evaluate_page
from toolkit.ui.frame import page
from toolkit.ui.frame.first_visit import show_first_visit
from toolkit.ui.frame.status_strip import list_live_runs
from toolkit.ui.workspace.run_entries import read_runs_with_adapter

with page.page_frame("evaluate"):
    runs_with_adapter, all_runs = read_runs_with_adapter()
    if runs_with_adapter:
        draw_evaluate_page(runs_with_adapter, all_runs)
        page.show_next_step("playground", "Open in Playground")
    elif list_live_runs():
        with st.container(border=True):
            st.header(":material/balance: No trained model yet", anchor=False)
            st.markdown("A run is training. When it has finished, you can compare it with its base model here.")
            if st.button("View run", type="primary", icon=":material/show_chart:"):
                page.go_to_page("runs")
    else:
        st.caption("Measure whether a run is better than its base model. No run has finished yet.")
        show_first_visit()
        page.show_next_step("data", "Use your own data")
