"""Choose the data, write the two templates, see what each row becomes, and decide the split."""

from __future__ import annotations

import streamlit as st

from toolkit.data.limits import UnreadableError
from toolkit.data.opening import StillOpening
from toolkit.ui import chat_view, chrome, opening_view, split_view, state, table_view
from toolkit.ui.dataset import config_of
from toolkit.ui.doctor_view import doctor, pointer
from toolkit.ui.first_visit import hero
from toolkit.ui.reading_view import other_ways, ways_out
from toolkit.ui.scroll import scroll_if_asked
from toolkit.ui.source_view import reread, source_line, source_picker
from toolkit.ui.steps import data_missing
from toolkit.ui.test_file_view import split_settings
from toolkit.ui.version_view import version_line

with chrome.page(
    "data", "What the model will learn from: a table, and two templates that turn each row into an example."
):
    hero()
    st.subheader("Dataset", anchor=False)
    source_picker()
    table = state.table()
    missing = data_missing(table)
    error = state.table_error()
    if isinstance(error, StillOpening):
        opening_view.going(error.opening)
    elif error is not None:
        chrome.show_error(error)
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
        chat_view.workbench(table)

        st.subheader("Train and test", anchor=False)
        config = config_of(state.draft()["data"])
        problems = split_view.problems(table, config) if config else []
        split_settings(table, config, problems)
        if config is not None:
            split_view.split_bar(table, config)

        st.subheader("Checks", anchor=False)
        doctor(table)
        scroll_if_asked()
    chrome.next_step("configure", "Configure the training", missing)
