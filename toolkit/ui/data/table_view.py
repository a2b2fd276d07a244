"""The table on screen: text as text, a page at a time, whole or only some rows, with what the reader decided."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from toolkit.data.findings import RowNumbers
from toolkit.data.table import Table
from toolkit.ui.elements.escape import escape_text

ROWS_PER_PAGE = 100
MAX_PREVIEW_CHARACTERS = 2000
"""Characters of a cell that the table shows; the row's own view has the rest."""
_SHOWN_ROWS = "rows_shown"


def show_table(table: Table) -> None:
    """A page of rows; the pagination appears when there is more than one."""
    chosen = _filtered_rows(table)
    total = table.rows if chosen is None else len(chosen)
    pages = -(-total // ROWS_PER_PAGE)
    held = st.container()
    turn = "" if chosen is None else f"_{st.session_state[_SHOWN_ROWS][1]}_{total}"
    page = st.pagination(pages, key=f"page_{table.sha256[:12]}{turn}") if pages > 1 else 1
    start = (page - 1) * ROWS_PER_PAGE
    if chosen is None:
        numbers = np.arange(start, min(start + ROWS_PER_PAGE, total))
        rows = table.page(start, ROWS_PER_PAGE)
    else:
        numbers = np.asarray(chosen[start : start + ROWS_PER_PAGE])
        rows = list(table.take(numbers))
    frame = pd.DataFrame(
        {name: [_cell(row[name]) for row in rows] for name in table.columns},
        index=pd.Index(numbers + 1, name="row"),
        dtype="str",
    )
    held.dataframe(
        frame, height=250, alt="The rows of the dataset", row_height=32,
        column_config={name: st.column_config.TextColumn(name, help=None) for name in table.columns},
    )  # fmt: skip


def show_only_rows(table: Table, title: str, rows: RowNumbers) -> None:
    """Let the preview show these rows alone, until told otherwise or until another table comes."""
    st.session_state[_SHOWN_ROWS] = (table.path, title, rows)


def _filtered_rows(table: Table) -> RowNumbers | None:
    """The rows that the preview is limited to, with the way back to all of them."""
    path, title, rows = st.session_state.get(_SHOWN_ROWS, (None, "", None))
    if path != table.path or rows is None:  # the same file read another way has other rows
        return None
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f":orange-badge[:material/filter_alt: {escape_text(title)}] :gray[{len(rows):,} of {table.rows:,} rows]",
                    width="content")  # fmt: skip
        st.button("Show all rows", type="tertiary", icon=":material/close:", key="show_all_rows", on_click=_show_all)
    return rows  # type: ignore[no-any-return]


def _show_all() -> None:
    st.session_state.pop(_SHOWN_ROWS, None)


def _cell(value: str | None) -> str | None:
    return value if value is None or len(value) <= MAX_PREVIEW_CHARACTERS else value[:MAX_PREVIEW_CHARACTERS] + "…"


def show_table_notices(table: Table) -> None:
    """What the reader noticed on the way in."""
    for sentence in table.notices:
        st.caption(f":material/info: {escape_text(sentence, 500)}")
