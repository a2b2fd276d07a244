"""Making and changing a prompt set: a table to type and paste into, or a CSV."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import streamlit as st

from toolkit.config import DataConfig
from toolkit.data.storage.open_table import open_table
from toolkit.data.table import Table
from toolkit.errors import ToolkitError
from toolkit.evaluation import prompt_sets
from toolkit.evaluation.prompt_sets import PromptSet
from toolkit.ui.elements.error_boundary import show_error
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.large_uploads import read_upload_once
from toolkit.ui.workspace import workspace

PROMPT_COLUMN, EXPECTED_COLUMN = "Prompt", "Expected answer"


def draw_prompt_set_buttons(chosen: PromptSet | None) -> None:
    """Buttons that open the editor: for a new set, and for the chosen one."""
    if st.button("New set", icon=":material/add:", key="new_set"):
        edit_prompt_set(None)
    if chosen is not None and st.button("Edit", icon=":material/edit:", key="edit_set"):
        edit_prompt_set(chosen)


@st.dialog("Prompt set", width="large", icon=":material/list_alt:")
def edit_prompt_set(chosen: PromptSet | None) -> None:
    """Type, paste from a spreadsheet, or take over a CSV; saved only by Save."""
    key = chosen.id if chosen else "new"
    name = st.text_input("Name", value=chosen.name if chosen else "", key=f"set_name_{key}", max_chars=100)
    items = list(chosen.items) if chosen else []
    given = st.file_uploader("A CSV with the columns prompt and expected", type=["csv"], key=f"set_file_{key}")
    failed: ToolkitError | None = None
    if given is not None:
        try:
            items = list(
                prompt_sets.prompt_set_from_table(
                    name or "set", read_upload_once(given, workspace.current_save_dir(), _read_csv)
                ).items
            )
        except ToolkitError as error:
            failed = error
    rows = [(item.prompt, item.expected) for item in items] or [("", "")]
    table = st.data_editor(
        pd.DataFrame(rows, columns=[PROMPT_COLUMN, EXPECTED_COLUMN], dtype="object"), num_rows="dynamic", hide_index=True,
        key=f"set_rows_{key}_{given.file_id if given else ''}", height=320,
        column_config={
            PROMPT_COLUMN: st.column_config.TextColumn(width="large"),
            EXPECTED_COLUMN: st.column_config.TextColumn(width="medium", help="Leave it empty when nobody knows."),
        },
    )  # fmt: skip
    st.caption("The prompt is what a user would write; the run's chat template, if any, is put around it.")
    if failed is not None:
        show_error(failed)
    _draw_buttons(chosen, name, table)


def _draw_buttons(chosen: PromptSet | None, name: str, table: pd.DataFrame) -> None:
    with st.container(horizontal=True):
        if st.button("Save", type="primary", icon=":material/save:", key="save_set"):
            try:
                pairs = [
                    (_cell_text(p), _cell_text(e) or None)
                    for p, e in zip(table[PROMPT_COLUMN], table[EXPECTED_COLUMN], strict=True)
                ]
                made = prompt_sets.make_prompt_set(name, pairs, set_id=chosen.id if chosen else "")
                prompt_sets.save_prompt_set(workspace.current_save_dir(), made)
            except ToolkitError as error:
                show_error(error)
            else:
                st.rerun()
        if chosen is not None and st.button("Delete this set", icon=":material/delete:", key="delete_set"):
            prompt_sets.delete_prompt_set(workspace.current_save_dir(), chosen.id)
            st.rerun()


def _read_csv(path: Path) -> Table:
    with st.spinner(f"Reading {escape_text(path.name)}…"):
        return open_table(DataConfig(file_type="csv", path=str(path)), workspace.current_save_dir())


def _cell_text(cell: object) -> str:
    return "" if cell is None or cell is pd.NA or cell != cell else str(cell)
