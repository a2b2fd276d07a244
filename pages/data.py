"""Choose the data, write the two templates, see what each row becomes, and decide the split."""

from __future__ import annotations

import streamlit as st

from toolkit.data.read_options import UnreadableError
from toolkit.data.storage.background_open import StillOpening
from toolkit.ui.data import opening_view, split_view, table_view
from toolkit.ui.data.doctor_view import doctor, pointer
from toolkit.ui.data.next_step import data_missing
from toolkit.ui.data.reading_view import other_ways, ways_out
from toolkit.ui.data.source_view import reread, source_line, source_picker
from toolkit.ui.data.test_rows_view import split_settings
from toolkit.ui.data.version_view import version_line
from toolkit.ui.elements.error_boundary import show_error
from toolkit.ui.elements.scroll import scroll_if_asked
from toolkit.ui.examples import conversation_view
from toolkit.ui.frame import page
from toolkit.ui.frame.first_visit import hero
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.current_dataset import config_of

with page.page(
    "data", "What the model will learn from: a table, and two templates that turn each row into an example."
):
    hero()
    st.subheader("Dataset", anchor=False)
    source_picker()
    table = workspace.table()
    missing = data_missing(table)
    error = workspace.table_error()
    if isinstance(error, StillOpening):
        opening_view.going(error.opening)
    elif error is not None:
        show_error(error)
        if isinstance(error, UnreadableError):
            ways_out(error.offers, reread)
    if table is not None:
        with st.container(key="dataset"):
            with st.container(horizontal=True, vertical_alignment="center"):
                source_line(table.label, table.rows, len(table.columns))
                version_line(table, "dataset")
                pointer(table)
            table_view.notices(table)
            other_ways(table, reread)
            table_view.table_preview(table)

        st.subheader("Examples", anchor=False)
        conversation_view.workbench(table)

        st.subheader("Train and test", anchor=False)
        config = config_of(workspace.draft()["data"])
        problems = split_view.problems(table, config) if config else []
        split_settings(table, config, problems)
        if config is not None:
            split_view.split_bar(table, config)

        st.subheader("Checks", anchor=False)
        doctor(table)
        scroll_if_asked()
    page.next_step("configure", "Configure the training", missing)
