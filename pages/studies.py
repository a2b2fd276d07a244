"""The Studies page: compare runs that differ in a few settings."""

from __future__ import annotations

import streamlit as st

from toolkit.settings import form_layout
from toolkit.studies.outcomes import list_study_names
from toolkit.ui.elements.error_boundary import show_error
from toolkit.ui.forms.form import show_section
from toolkit.ui.frame import page
from toolkit.ui.studies.run_comparison_view import draw_run_comparison, read_compared_runs
from toolkit.ui.studies.study_view import draw_growth_study, draw_live_study
from toolkit.ui.workspace import workspace

with page.page_frame("studies"):
    compared = read_compared_runs()
    names, errors = list_study_names(workspace.current_save_dir())
    for error in errors:
        show_error(error)
    if compared:
        draw_run_comparison(compared)
    elif not names:
        with st.container(border=True):
            st.header(":material/science: No study yet", anchor=False)
            st.markdown(
                "A study trains one run for each value of a setting and compares the results. "
                "On the next page, press **Try several values** next to a setting, and Start."
            )
            if st.button("Set up a study", type="primary", icon=":material/tune:"):
                workspace.replace_settings({"ablation.use_ablate": True})
                show_section(form_layout.BASICS.key)
                page.go_to_page("configure")
            draw_growth_study()
    else:
        name = st.selectbox("Study", names, key="study", bind="query-params")
        draw_live_study(name if name in names else names[0])
        draw_growth_study()
        page.show_next_step("runs", "Open the runs")
