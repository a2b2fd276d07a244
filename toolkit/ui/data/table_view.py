"""Preview of the table, a page at a time: all rows or the rows of a finding, and the notices of the reader."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from toolkit.data.table import RowNumbers, Table
from toolkit.ui.elements.escape import escape_text

ROWS_PER_PAGE = 100
MAX_PREVIEW_CHARACTERS = 2000
"""Characters of a cell in the preview; the view of a single row shows the whole cell."""
_SHOWN_ROWS = "rows_shown"


def show_table(table: Table) -> None:
    """Draw one page of rows, with a page control where there are several pages."""
    filtered = _filtered_rows(table)
    total = table.rows if filtered is None else len(filtered)
    pages = -(-total // ROWS_PER_PAGE)
    preview = st.container()
    # a filter needs its own page number: page 7 of all rows is no page of a few
    suffix = "" if filtered is None else f"_{st.session_state[_SHOWN_ROWS][1]}_{total}"
    page = st.pagination(pages, key=f"page_{table.sha256[:12]}{suffix}") if pages > 1 else 1
    start = (page - 1) * ROWS_PER_PAGE
    if filtered is None:
        numbers = np.arange(start, min(start + ROWS_PER_PAGE, total))
        rows = table.page(start, ROWS_PER_PAGE)
    else:
        numbers = np.asarray(filtered[start : start + ROWS_PER_PAGE])
        rows = list(table.take(numbers))
    frame = pd.DataFrame(
        {name: [_cell(row[name]) for row in rows] for name in table.columns},
        index=pd.Index(numbers + 1, name="row"),
        dtype="str",
    )
    preview.dataframe(
        frame,
        height=196,
        alt="Rows of the dataset",
        placeholder="(missing)",
        row_height=32,
        column_config={name: st.column_config.TextColumn(name, help=None) for name in table.columns},
    )


def show_only_rows(table: Table, title: str, rows: RowNumbers) -> None:
    """Limit the preview to these rows until the user removes the filter or opens another table."""
    st.session_state[_SHOWN_ROWS] = (table.path, title, rows)


def _filtered_rows(table: Table) -> RowNumbers | None:
    """Draw the active filter with a button to remove it; return its rows, or None without a filter."""
    path, title, rows = st.session_state.get(_SHOWN_ROWS, (None, "", None))
    if path != table.path or rows is None:  # another file, or the same one read with other options
        return None
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(
            f":orange-badge[:material/filter_alt: {escape_text(title)}] :gray[{len(rows):,} of {table.rows:,} rows]",
            width="content",
        )
        st.button(
            "Show all rows", type="tertiary", icon=":material/close:", key="show_all_rows", on_click=_remove_filter
        )
    return rows  # type: ignore[no-any-return]


def _remove_filter() -> None:
    st.session_state.pop(_SHOWN_ROWS, None)


def _cell(value: str | None) -> str | None:
    return value if value is None or len(value) <= MAX_PREVIEW_CHARACTERS else value[:MAX_PREVIEW_CHARACTERS] + "…"


def show_table_notices(table: Table) -> None:
    """Draw what the reader of the file reported; a doubt has a card of its own."""
    doubts = [offer.doubt for offer in table.offers if offer.doubt]
    for notice in (notice for notice in table.notices if notice not in doubts):
        st.caption(f":material/info: {escape_text(notice, 500)}")
