"""The table on screen: text as text, a page at a time, whole or only some rows, with what the reader decided."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from toolkit.data.findings import Rows
from toolkit.data.table import Table
from toolkit.ui.elements.escape import plain

PAGE_ROWS = 100
CELL = 2000
"""Characters of a cell that the table shows; the row's own view has the rest."""
_ONLY = "rows_shown"


def table_preview(table: Table) -> None:
    """A page of rows; the pagination appears when there is more than one."""
    chosen = _chosen(table)
    total = table.rows if chosen is None else len(chosen)
    pages = -(-total // PAGE_ROWS)
    held = st.container()
    turn = "" if chosen is None else f"_{st.session_state[_ONLY][1]}_{total}"
    page = st.pagination(pages, key=f"page_{table.sha256[:12]}{turn}") if pages > 1 else 1
    start = (page - 1) * PAGE_ROWS
    if chosen is None:
        numbers = np.arange(start, min(start + PAGE_ROWS, total))
        rows = table.page(start, PAGE_ROWS)
    else:
        numbers = np.asarray(chosen[start : start + PAGE_ROWS])
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


def show_only(table: Table, title: str, rows: Rows) -> None:
    """Let the preview show these rows alone, until told otherwise or until another table comes."""
    st.session_state[_ONLY] = (table.path, title, rows)


def _chosen(table: Table) -> Rows | None:
    """The rows that the preview is limited to, with the way back to all of them."""
    path, title, rows = st.session_state.get(_ONLY, (None, "", None))
    if path != table.path or rows is None:  # the same file read another way has other rows
        return None
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f":orange-badge[:material/filter_alt: {plain(title)}] :gray[{len(rows):,} of {table.rows:,} rows]",
                    width="content")  # fmt: skip
        st.button("Show all rows", type="tertiary", icon=":material/close:", key="show_all_rows", on_click=_show_all)
    return rows  # type: ignore[no-any-return]


def _show_all() -> None:
    st.session_state.pop(_ONLY, None)


def _cell(value: str | None) -> str | None:
    return value if value is None or len(value) <= CELL else value[:CELL] + "…"


def notices(table: Table) -> None:
    """What the reader noticed on the way in."""
    for sentence in table.notices:
        st.caption(f":material/info: {plain(sentence, 500)}")
