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
from toolkit.ui.elements.escape import plain
from toolkit.ui.elements.large_uploads import read_once
from toolkit.ui.workspace import workspace

PROMPT, EXPECTED = "Prompt", "Expected answer"


def editor_button(chosen: PromptSet | None) -> None:
    """Buttons that open the editor: for a new set, and for the chosen one."""
    if st.button("New set", icon=":material/add:", key="new_set"):
        editor(None)
    if chosen is not None and st.button("Edit", icon=":material/edit:", key="edit_set"):
        editor(chosen)


@st.dialog("Prompt set", width="large", icon=":material/list_alt:")
def editor(chosen: PromptSet | None) -> None:
    """Type, paste from a spreadsheet, or take over a CSV; saved only by Save."""
    key = chosen.id if chosen else "new"
    name = st.text_input("Name", value=chosen.name if chosen else "", key=f"set_name_{key}", max_chars=100)
    items = list(chosen.items) if chosen else []
    given = st.file_uploader("A CSV with the columns prompt and expected", type=["csv"], key=f"set_file_{key}")
    failed: ToolkitError | None = None
    if given is not None:
        try:
            items = list(prompt_sets.from_table(name or "set", read_once(given, workspace.save_dir(), _read)).items)
        except ToolkitError as error:
            failed = error
    rows = [(item.prompt, item.expected) for item in items] or [("", "")]
    table = st.data_editor(
        pd.DataFrame(rows, columns=[PROMPT, EXPECTED], dtype="object"), num_rows="dynamic", hide_index=True,
        key=f"set_rows_{key}_{given.file_id if given else ''}", height=320,
        column_config={
            PROMPT: st.column_config.TextColumn(width="large"),
            EXPECTED: st.column_config.TextColumn(width="medium", help="Leave it empty when nobody knows."),
        },
    )  # fmt: skip
    st.caption("The prompt is what a user would write; the run's chat template, if any, is put around it.")
    if failed is not None:
        show_error(failed)
    _buttons(chosen, name, table)


def _buttons(chosen: PromptSet | None, name: str, table: pd.DataFrame) -> None:
    with st.container(horizontal=True):
        if st.button("Save", type="primary", icon=":material/save:", key="save_set"):
            try:
                pairs = [(_text(p), _text(e) or None) for p, e in zip(table[PROMPT], table[EXPECTED], strict=True)]
                made = prompt_sets.made(name, pairs, set_id=chosen.id if chosen else "")
                prompt_sets.save(workspace.save_dir(), made)
            except ToolkitError as error:
                show_error(error)
            else:
                st.rerun()
        if chosen is not None and st.button("Delete this set", icon=":material/delete:", key="delete_set"):
            prompt_sets.delete(workspace.save_dir(), chosen.id)
            st.rerun()


def _read(path: Path) -> Table:
    with st.spinner(f"Reading {plain(path.name)}…"):
        return open_table(DataConfig(file_type="csv", path=str(path)), workspace.save_dir())


def _text(cell: object) -> str:
    return "" if cell is None or cell is pd.NA or cell != cell else str(cell)
