"""The box that chooses a run: the one in the address bar, else the one that lives, else the newest."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.run_entries import RunEntry


def choose_shown_run(found: Sequence[RunEntry], label: str) -> RunEntry:
    """Draw the box over these runs (at least one); the choice survives a refresh and a change of page."""
    by_id = {entry.run.id: entry for entry in found}
    wanted = workspace.chosen_run_id()
    if wanted not in by_id:
        living = [entry for entry in found if entry.status.is_active]
        wanted = (living or list(found))[0].run.id
    workspace.choose_run(wanted)
    picked = st.selectbox(
        label, list(by_id), index=list(by_id).index(wanted), format_func=lambda run_id: by_id[run_id].label,
        key=f"chooser_{wanted}_{len(by_id)}",
    )  # fmt: skip
    if picked is not None and picked != wanted:
        workspace.choose_run(picked)
        st.rerun()
    return by_id[wanted]
