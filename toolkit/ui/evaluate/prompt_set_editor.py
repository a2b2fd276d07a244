"""Editor of a prompt set: a table to type or paste into, or a CSV file."""

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
    """Draw the buttons that open the editor for a new set and for the chosen one."""
    if st.button("New prompt set", icon=":material/add:", key="new_set"):
        edit_prompt_set(None)
    if chosen is not None and st.button("Edit", icon=":material/edit:", key="edit_set"):
        edit_prompt_set(chosen)


@st.dialog("Prompt set", width="large", icon=":material/list_alt:")
def edit_prompt_set(chosen: PromptSet | None) -> None:
    """Edit a prompt set in a dialog. Changes are stored only with Save."""
    key = chosen.id if chosen else "new"
    name = st.text_input("Name", value=chosen.name if chosen else "", key=f"set_name_{key}", max_chars=100)
    items = list(chosen.items) if chosen else []
    uploaded = st.file_uploader("A CSV file with the columns prompt and expected", type=["csv"], key=f"set_file_{key}")
    failed: ToolkitError | None = None
    if uploaded is not None:
        try:
            items = list(
                prompt_sets.prompt_set_from_table(
                    name or "set", read_upload_once(uploaded, workspace.current_save_dir(), _read_csv)
                ).items
            )
        except ToolkitError as error:
            failed = error
    rows = [(item.prompt, item.expected) for item in items] or [("", "")]
    table = st.data_editor(
        pd.DataFrame(rows, columns=[PROMPT_COLUMN, EXPECTED_COLUMN], dtype="object"),
        num_rows="dynamic",
        hide_index=True,
        key=f"set_rows_{key}_{uploaded.file_id if uploaded else ''}",
        height=320,
        column_config={
            PROMPT_COLUMN: st.column_config.TextColumn(width="large"),
            EXPECTED_COLUMN: st.column_config.TextColumn(width="medium", help="Leave empty if there is none."),
        },
    )
    st.caption("Enter prompts as a user would write them. The chat template of the run, if any, is added.")
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
                prompt_set = prompt_sets.make_prompt_set(name, pairs, set_id=chosen.id if chosen else "")
                prompt_sets.save_prompt_set(workspace.current_save_dir(), prompt_set)
            except ToolkitError as error:
                show_error(error)
            else:
                st.rerun()
        if chosen is not None and st.button("Delete prompt set", icon=":material/delete:", key="delete_set"):
            prompt_sets.delete_prompt_set(workspace.current_save_dir(), chosen.id)
            st.rerun()


def _read_csv(path: Path) -> Table:
    with st.spinner(f"Reading {escape_text(path.name)}…"):
        return open_table(DataConfig(file_type="csv", path=str(path)), workspace.current_save_dir())


def _cell_text(cell: object) -> str:
    return "" if cell is None or cell is pd.NA or cell != cell else str(cell)
