"""The Runs page: the chosen run, its export, its settings, the queue and the table of all runs."""

from __future__ import annotations

import streamlit as st

from toolkit.ui.elements.error_boundary import show_error
from toolkit.ui.elements.scroll import scroll_if_requested
from toolkit.ui.frame import page
from toolkit.ui.frame.cluster_choice import draw_cluster_choice
from toolkit.ui.frame.first_visit import show_first_visit
from toolkit.ui.playground.engine_bar import draw_engine_memory_note
from toolkit.ui.runs.export_view import draw_export_section
from toolkit.ui.runs.queue_view import draw_queue_panel
from toolkit.ui.runs.run_actions import draw_run_actions
from toolkit.ui.runs.run_outcome import draw_run_result
from toolkit.ui.runs.run_settings import draw_run_header, draw_run_settings
from toolkit.ui.runs.run_table import draw_live_run_table
from toolkit.ui.runs.run_view import draw_live_run
from toolkit.ui.workspace.run_chooser import choose_shown_run
from toolkit.ui.workspace.run_entries import list_offered_runs, read_run_entries

with page.page_frame("runs"):
    entries, unreadable = read_run_entries(list_offered_runs())
    show_first_visit()
    if entries:
        chosen = choose_shown_run(entries, "Run")
        draw_engine_memory_note()
        draw_run_header(chosen.run)
        if chosen.status.adapter_ready and chosen.status.has_ended:
            draw_run_result(chosen.run, chosen.status, entries)
        draw_live_run(chosen.run)
        draw_run_actions(chosen.run)
        if chosen.status.adapter_ready:
            draw_export_section(chosen.run)
        with st.expander("Settings of this run", icon=":material/tune:"):
            draw_run_settings(chosen.run, entries)
        draw_queue_panel()
        draw_cluster_choice()
        st.header("All runs", anchor=False)
        draw_live_run_table(entries, chosen.run.id)
        scroll_if_requested()
    else:
        page.show_next_step("data", "Use your own data")
    for error in unreadable:
        show_error(error)
