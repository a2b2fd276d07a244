"""The Studies page: compare runs that differ in a few settings."""

from __future__ import annotations

import streamlit as st

from toolkit.ui.frame import page
from toolkit.ui.runs.study_view import draw_live_study, list_studies

with page.page_frame("studies"):
    found = list_studies()
    if not found:
        with st.container(border=True):
            st.markdown("##### :material/science: No study yet")
            st.markdown(
                "A study trains one run for each value of a setting and compares the results. To set one up, open "
                "**Study** on the Configure page, turn it on, and give a setting more than one value."
            )
            if st.button("Set up a study", type="primary", icon=":material/tune:"):
                page.go_to_page("configure")
    else:
        names = list(found)
        name = st.selectbox("Study", names, key="study", bind="query-params")
        draw_live_study(found[name if name in found else names[0]])
        page.show_next_step("runs", "Open the runs")
