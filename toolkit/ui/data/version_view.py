"""The versions of a dataset on screen: which one this is, undo, redo, and what was done since the original."""

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


def show_version_line(table: Table, where: str) -> None:
    """Nothing for an original that has no version; `where` tells two such lines of a page apart."""
    here = versions.DatasetReference(
        str(workspace.current_setting("data.file_type")), str(workspace.current_setting("data.path"))
    )
    after = versions.find_next_version(table, here, workspace.current_save_dir())
    steps = table.version.steps if table.version else ()
    if not steps and after is None:
        return
    with st.container(
        horizontal=True, vertical_alignment="center", gap="small", key=f"versions_{where}", width="content"
    ):
        if steps:
            st.markdown(f":green-badge[:material/history: Version {len(steps) + 1}] :gray[{escape_text(steps[-1])}]",
                        width="content")  # fmt: skip
        else:
            st.markdown(":gray-badge[:material/history: Original]", width="content")
        _version_button(where, "Undo", ":material/undo:", versions.find_previous_version(table))
        _version_button(where, "Redo", ":material/redo:", after)
        if len(steps) > 1:
            _version_button(where, "Original", ":material/restart_alt:", versions.find_original_dataset(table))
            with st.popover("History", icon=":material/list:", type="tertiary", key=f"version_{where}_history"):
                _show_history(steps)


def show_run_version(dataset: Mapping[str, Any]) -> None:
    """Which version of its dataset a run was trained on."""
    made = dataset.get("version")
    if not made:
        return
    st.caption(
        f":material/history: Trained on version {len(made['steps']) + 1} of {escape_text(dataset.get('label'))}:"
    )
    _show_history(tuple(made["steps"]))


def _show_history(steps: tuple[str, ...]) -> None:
    st.markdown(
        "\n".join(f"{at}. {escape_text(step)}" for at, step in enumerate(("the original, as given", *steps), 1))
    )


def _version_button(where: str, label: str, icon: str, place: versions.DatasetReference | None) -> None:
    if st.button(label, key=f"version_{where}_{label}", icon=icon, type="tertiary", disabled=place is None) and place:
        try:
            opening_view.request_dataset(place.file_type, place.path)
            st.session_state.pop("source_error", None)
        except DataError as error:
            st.session_state["source_error"], st.session_state["source_wanted"] = error, (place.file_type, place.path)
        st.rerun()
