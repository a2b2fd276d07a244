"""The versions of a dataset on screen: which one this is, undo, redo, and what was done since the original."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from toolkit.data.storage import versions
from toolkit.data.table import Table
from toolkit.errors import DataError
from toolkit.ui.data import opening_view
from toolkit.ui.elements.escape import plain
from toolkit.ui.workspace import workspace


def version_line(table: Table, where: str) -> None:
    """Nothing for an original that has no version; `where` tells two such lines of a page apart."""
    here = versions.Place(str(workspace.value("data.file_type")), str(workspace.value("data.path")))
    after = versions.redone(table, here, workspace.save_dir())
    steps = table.version.steps if table.version else ()
    if not steps and after is None:
        return
    with st.container(
        horizontal=True, vertical_alignment="center", gap="small", key=f"versions_{where}", width="content"
    ):
        if steps:
            st.markdown(f":green-badge[:material/history: Version {len(steps) + 1}] :gray[{plain(steps[-1])}]",
                        width="content")  # fmt: skip
        else:
            st.markdown(":gray-badge[:material/history: Original]", width="content")
        _go(where, "Undo", ":material/undo:", versions.undone(table))
        _go(where, "Redo", ":material/redo:", after)
        if len(steps) > 1:
            _go(where, "Original", ":material/restart_alt:", versions.first(table))
            with st.popover("History", icon=":material/list:", type="tertiary", key=f"version_{where}_history"):
                _history(steps)


def run_line(dataset: Mapping[str, Any]) -> None:
    """Which version of its dataset a run was trained on."""
    made = dataset.get("version")
    if not made:
        return
    st.caption(f":material/history: Trained on version {len(made['steps']) + 1} of {plain(dataset.get('label'))}:")
    _history(tuple(made["steps"]))


def _history(steps: tuple[str, ...]) -> None:
    st.markdown("\n".join(f"{at}. {plain(step)}" for at, step in enumerate(("the original, as given", *steps), 1)))


def _go(where: str, label: str, icon: str, place: versions.Place | None) -> None:
    if st.button(label, key=f"version_{where}_{label}", icon=icon, type="tertiary", disabled=place is None) and place:
        try:
            opening_view.choose(place.file_type, place.path)
            st.session_state.pop("source_error", None)
        except DataError as error:
            st.session_state["source_error"], st.session_state["source_wanted"] = error, (place.file_type, place.path)
        st.rerun()
