"""The Data page in three steps: the source, the template with examples, and the split with the data checks."""

from __future__ import annotations

from functools import partial

import streamlit as st

from toolkit.data.read_options import UnreadableError
from toolkit.data.storage.background_open import StillOpeningError
from toolkit.ui.data import opening_view, table_view
from toolkit.ui.data.doctor_view import apply_finding_fix, show_data_checks
from toolkit.ui.data.next_step import TEMPLATE_SECTION, data_missing, draw_data_summary
from toolkit.ui.data.reading_view import (
    ask_who_answers,
    offer_read_options,
    show_doubtful_reading,
    show_other_read_options,
)
from toolkit.ui.data.source_view import choose_source, reread_dataset, show_source_line
from toolkit.ui.data.test_rows_view import show_split
from toolkit.ui.data.version_view import show_version_line
from toolkit.ui.elements.error_boundary import show_error
from toolkit.ui.elements.scroll import scroll_if_requested
from toolkit.ui.examples import conversation_view
from toolkit.ui.frame import page
from toolkit.ui.frame.first_visit import show_first_visit
from toolkit.ui.workspace import workspace

with page.page_frame(
    "data", "Choose a dataset and write the two templates that turn each row into a training example."
):
    first_visit = show_first_visit()
    if first_visit:
        st.caption("Or use your own data in three steps:")
    st.header("1. Source", anchor=False)
    is_unread = choose_source()
    table = None if is_unread else workspace.current_table()
    missing = ["Choose how to read the file."] if is_unread else data_missing(table)
    error = None if is_unread else workspace.table_error()
    if isinstance(error, StillOpeningError):
        opening_view.show_opening_progress(error.opening)
    elif error is not None:
        show_error(error)
        if isinstance(error, UnreadableError):
            offer_read_options(error.offers, reread_dataset)
    if table is not None:
        with st.container(key="dataset"):
            with st.container(horizontal=True, vertical_alignment="center"):
                show_source_line(table.label, table.rows, len(table.columns))
                show_version_line(table, "dataset")
            table_view.show_table_notices(table)
            show_doubtful_reading(table, reread_dataset)
            ask_who_answers(table, reread_dataset)
            show_other_read_options(table, reread_dataset)
            table_view.show_table(table)

        with st.container(key=TEMPLATE_SECTION):
            st.header("2. Template", anchor=False)
            conversation_view.show_examples(table, partial(apply_finding_fix, table))

        st.header("3. Checks", anchor=False)
        show_split(table)
        show_data_checks(table)
        scroll_if_requested()
    draw_data_summary(table, missing, is_next=not first_visit)
