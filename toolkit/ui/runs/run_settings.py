"""A run's settings: what differs from the defaults, or from another run, and the whole file."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from toolkit.runs.run_dir import RunDir
from toolkit.settings.draft import default_draft
from toolkit.ui.data.version_view import show_run_version
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.workspace.review import setting_label, value_label
from toolkit.ui.workspace.run_entries import RunEntry
from toolkit.ui.workspace.run_facts import config_differences, read_run_summary


def draw_run_settings(run: RunDir, others: Sequence[RunEntry]) -> None:
    """Compare with the defaults or with another run of the list."""
    mine = read_run_summary(run)
    choices: dict[str, str] = {"": "the defaults"} | {e.run.id: e.label for e in others if e.run.id != run.id}
    against = st.selectbox("Compare with", list(choices), format_func=choices.__getitem__, key="compare_with")
    other = next((entry.facts for entry in others if entry.run.id == against), None)
    config = other.config if other else default_draft()
    found = config_differences(config, mine.config)
    show_run_version(mine.dataset)
    if not found:
        st.caption(":material/equal: No setting differs.")
    else:
        name = other.name if other else "Default"
        if other and other.name == mine.name:
            name = f"{name} ({against})"
        frame = pd.DataFrame(
            [
                (setting_label(path), value_label(path, theirs), value_label(path, ours), path)
                for path, theirs, ours in found
            ],
            columns=["Setting", name, "This run", "Name in the file"],
        )
        st.dataframe(frame, hide_index=True, alt="Settings that differ")
    for path, why in mine.chosen.items():
        st.caption(
            f":material/tune: {escape_text(setting_label(path))} was left to this machine. {escape_text(why, 400)}."
        )
    with st.expander("The whole file", icon=":material/description:"):
        st.code(run.config_path.read_text(encoding="utf-8"), language=None, height=360)
