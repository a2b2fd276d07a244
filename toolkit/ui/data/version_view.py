"""Versions of a dataset: the current one, undo and redo, and the history of changes since the original."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from toolkit.data.storage import versions
from toolkit.data.table import Table
from toolkit.errors import DataError
from toolkit.ui.data import opening_view
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.workspace import workspace


def show_version_line(table: Table, key_prefix: str) -> None:
    """Draw the version of the dataset with its buttons; nothing for an original without later versions.

    key_prefix: distinguishes the widgets of several such lines on one page.
    """
    reference = versions.DatasetReference(
        str(workspace.current_setting("data.file_type")), str(workspace.current_setting("data.path"))
    )
    next_version = versions.find_next_version(table, reference, workspace.current_save_dir())
    steps = table.version.steps if table.version else ()
    if not steps and next_version is None:
        return
    with st.container(
        horizontal=True, vertical_alignment="center", gap="small", key=f"versions_{key_prefix}", width="content"
    ):
        if steps:
            st.markdown(
                f":green-badge[:material/history: Version {len(steps) + 1}] :gray[{escape_text(steps[-1])}]",
                width="content",
            )
        else:
            st.markdown(":gray-badge[:material/history: Original]", width="content")
        _version_button(key_prefix, "Undo", ":material/undo:", versions.find_previous_version(table))
        _version_button(key_prefix, "Redo", ":material/redo:", next_version)
        if len(steps) > 1:
            _version_button(key_prefix, "Original", ":material/restart_alt:", versions.find_original_dataset(table))
            with st.popover("History", icon=":material/list:", type="tertiary", key=f"version_{key_prefix}_history"):
                _show_history(steps)


def show_run_version(dataset: Mapping[str, Any]) -> None:
    """Draw which version of its dataset a run was trained on."""
    version = dataset.get("version")
    if not version:
        return
    st.caption(
        f":material/history: Trained on version {len(version['steps']) + 1} of {escape_text(dataset.get('label'))}:"
    )
    _show_history(tuple(version["steps"]))


def _show_history(steps: tuple[str, ...]) -> None:
    st.markdown("\n".join(f"{number}. {escape_text(step)}" for number, step in enumerate(("Original file", *steps), 1)))


def _version_button(key_prefix: str, label: str, icon: str, reference: versions.DatasetReference | None) -> None:
    if (
        st.button(label, key=f"version_{key_prefix}_{label}", icon=icon, type="tertiary", disabled=reference is None)
        and reference
    ):
        try:
            opening_view.request_dataset(reference.file_type, reference.path)
            st.session_state.pop("source_error", None)
        except DataError as error:
            st.session_state["source_error"], st.session_state["source_wanted"] = (
                error,
                (reference.file_type, reference.path),
            )
        st.rerun()
