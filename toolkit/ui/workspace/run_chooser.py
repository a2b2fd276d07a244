"""The select box for a run. Without a run in the address bar it shows the first active run, else the newest."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from toolkit.runs.run_dir import list_runs
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.run_entries import ALL_RUNS, MAX_OFFERED_RUNS, RunEntry, label_runs

EVALUATE_NOW = "evaluate_now"
"""Key of the session: the run that the Evaluate page evaluates when it opens, if it has no evaluation yet."""


def choose_shown_run(found: Sequence[RunEntry], label: str) -> RunEntry:
    """Draw the select box over these runs (at least one) and return the choice, which survives a page refresh."""
    by_id = {entry.run.id: entry for entry in found}
    chosen = workspace.chosen_run_id()
    if chosen not in by_id:
        active = [entry for entry in found if entry.status.is_active]
        chosen = (active or list(found))[0].run.id
    workspace.choose_run(chosen)
    labels = label_runs(found)
    picked = st.selectbox(
        label,
        list(by_id),
        index=list(by_id).index(chosen),
        format_func=labels.__getitem__,
        # a new key for another run or list: the widget would otherwise keep its old selection
        key=f"chooser_{chosen}_{len(by_id)}",
    )
    if picked is not None and picked != chosen:
        workspace.choose_run(picked)
        st.rerun()
    _offer_older_runs()
    return by_id[chosen]


def _offer_older_runs() -> None:
    count = len(list_runs(workspace.current_save_dir()))
    if count <= MAX_OFFERED_RUNS or st.session_state.get(ALL_RUNS):
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.caption(f"The newest {MAX_OFFERED_RUNS:,} of {count:,} runs are listed.", width="content")
        if st.button("List all runs", key="list_all_runs", type="tertiary", help="The first time takes some seconds."):
            st.session_state[ALL_RUNS] = True
            st.rerun()
