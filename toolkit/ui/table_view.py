"""The table on screen: text as text, a page at a time, with what the reader decided and the doctor found."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from toolkit.config import Config
from toolkit.data.checks import Finding, findings
from toolkit.data.table import Table
from toolkit.ui.plain import plain

PAGE_ROWS = 100
CELL = 2000
"""Characters of a cell that the table shows; the row's own view has the rest."""


def table_preview(table: Table) -> None:
    """A page of rows; the pagination appears when there is more than one."""
    pages = -(-table.rows // PAGE_ROWS)
    held = st.container()
    page = st.pagination(pages, key=f"page_{table.sha256[:12]}") if pages > 1 else 1
    start = (page - 1) * PAGE_ROWS
    rows = table.page(start, PAGE_ROWS)
    frame = pd.DataFrame(
        {name: [_cell(row[name]) for row in rows] for name in table.columns},
        index=pd.RangeIndex(start + 1, start + len(rows) + 1, name="row"),
        dtype="str",
    )
    held.dataframe(
        frame, height=250, alt="The rows of the dataset", row_height=32,
        column_config={name: st.column_config.TextColumn(name, help=None) for name in table.columns},
    )  # fmt: skip


def _cell(value: str | None) -> str | None:
    return value if value is None or len(value) <= CELL else value[:CELL] + "…"


def notices(table: Table) -> None:
    """What the reader noticed on the way in."""
    for sentence in table.notices:
        st.caption(f":material/info: {plain(sentence, 500)}")


def doctor(table: Table, config: Config) -> None:
    """The findings on the data as the config uses it, each with a few of its rows."""
    found = _findings(table, config)
    if not found:
        st.caption(":material/check: No missing cells, empty answers, duplicates or test rows in the training set.")
    for finding in found:
        colour, icon = ("red", "error") if finding.severity == "error" else ("orange", "warning")
        where = ""
        if finding.rows:
            listed = ", ".join(str(row + 1) for row in finding.rows[:8])
            where = f" Rows {listed}{'…' if finding.count > 8 else ''}."
        st.markdown(
            f":{colour}[:material/{icon}:] {plain(finding.message, 500)} "
            f":gray[{plain(where + (' ' + finding.hint if finding.hint else ''), 500)}]"
        )


def _findings(table: Table, config: Config) -> list[Finding]:
    """Once for each table and data section: a rerun for another reason must not read the data again."""
    key = (table.sha256, config.data.model_dump_json())
    held = st.session_state.get("findings")
    if held is None or held[0] != key:
        st.session_state["findings"] = held = (key, findings(table, config))
    return list(held[1])
