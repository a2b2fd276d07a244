"""The table of all runs: state, model, dataset, figures and the settings that differ from the defaults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from toolkit.system.printable import format_duration
from toolkit.ui.elements.error_boundary import error_boundary
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.words import STATE_LABELS
from toolkit.ui.frame import page
from toolkit.ui.frame.viewers import slow_down_refreshes
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.review import describe_settings
from toolkit.ui.workspace.run_entries import RunEntry, label_runs, read_run_entries
from toolkit.ui.workspace.run_facts import RunSummary

RUN_TABLE_REFRESH_SECONDS = 4
COMPARED_PARAMETER = "compare"
"""Query parameter of the Studies page: the ids of two runs, separated by a comma."""
UNLISTED_SETTINGS = (
    "save_dir",
    "data.path",
    "data.file_type",
    "data.prompt",
    "data.prompt_stub",
    "model.hf_model_ckpt",
    "ablation.use_ablate",
    "ablation.study_name",
)
"""Settings that have a column of their own or do not affect the training."""
STATE_MARKS = {
    "queued": "◌", "starting": "◔", "running": "▶", "stopping": "◑", "finished": "✓", "paused": "‖", "stopped": "■",
    "cancelled": "–", "failed": "✕", "interrupted": "!",
}  # fmt: skip


def describe_changed_settings(summary: RunSummary) -> str:
    """Return the settings that differ from the defaults as text, the varied settings of a study first."""
    changed = {path: value for path, value in summary.changes.items() if path not in UNLISTED_SETTINGS}
    changed = {**summary.settings, **{path: value for path, value in changed.items() if path not in summary.settings}}
    return describe_settings(changed)


def draw_live_run_table(entries: Sequence[RunEntry], chosen: str) -> None:
    """Draw the table, refreshed while a run is active; a tick chooses a run, two ticks offer to compare them.

    chosen: id of the run that is on screen.
    """
    is_active = any(not entry.status.has_ended for entry in entries)

    def table() -> None:
        with error_boundary():
            current, _ = read_run_entries([entry.run for entry in entries if entry.run.path.exists()])
            ticked = draw_run_table(current, chosen, key="all_runs") if current else []
            picked = (
                ticked[0] if len(ticked) == 1 and ticked != [chosen] else _draw_tick_actions(current, ticked, chosen)
            )
            if picked:
                workspace.choose_run(picked)
                st.rerun()

    every = RUN_TABLE_REFRESH_SECONDS * slow_down_refreshes()
    st.fragment(table, run_every=every if is_active else None, key="all_runs_fragment")()


def draw_comparison_choice(run_id: str, entries: Sequence[RunEntry]) -> None:
    """Draw a menu of the other runs that have ended; its button opens the comparison. Nothing without another run."""
    others = label_runs([entry for entry in entries if entry.run.id != run_id and entry.status.has_ended])
    if not others:
        return
    with st.popover("Compare with another run", icon=":material/compare_arrows:", key=f"compare_{run_id}"):
        other = st.selectbox("Other run", list(others), format_func=others.__getitem__, key=f"compared_with_{run_id}")
        if st.button("Compare the two runs", icon=":material/compare_arrows:", key=f"compare_both_{run_id}"):
            _open_comparison([run_id, str(other)])
        st.caption("Their answers to the test rows that neither was trained on, their curves and their settings.")


def _open_comparison(ids: Sequence[str]) -> None:
    st.switch_page(page.PAGES["studies"].file, query_params={COMPARED_PARAMETER: ",".join(ids)})


def run_table_row(entry: RunEntry) -> dict[str, Any]:
    """Return the cells of one run by column."""
    summary, status = entry.facts, entry.status
    exact = status.scores.get("exact_match")
    return {
        "State": f"{STATE_MARKS[status.state]} {STATE_LABELS[status.state][0]}",
        "Run": summary.name,
        "Model": summary.model,
        "Dataset": summary.dataset_name or "–",
        "Started": summary.created.replace(tzinfo=None),  # a column has one time zone; summer and winter have two
        "Duration": format_duration(status.elapsed_s or None),
        "Training loss": status.last.get("loss"),
        "Test loss": status.last.get("eval_loss"),
        "Exact match": None if exact is None else 100 * exact,
        "Changed settings": describe_changed_settings(summary) or "–",
    }


def draw_run_table(entries: Sequence[RunEntry], chosen: str | None, *, key: str) -> list[str]:
    """Draw the table, with the chosen run ticked at first; return the ids of the ticked runs."""
    frame = pd.DataFrame([run_table_row(entry) for entry in entries])
    ids = [entry.run.id for entry in entries]
    picked = st.dataframe(
        frame,
        hide_index=True,
        height=min(38 + 35 * len(entries), 423),
        on_select="rerun",
        selection_mode="multi-row",
        key=f"{key}_{len(ids)}_{ids[0]}_{chosen}",
        alt="All runs",
        placeholder="–",
        column_config=_columns(),
        selection_default={"selection": {"rows": [ids.index(chosen)]}} if chosen in ids else None,
    )
    return [ids[row] for row in picked["selection"]["rows"] if row < len(ids)]


def _draw_tick_actions(entries: Sequence[RunEntry], ticked: Sequence[str], chosen: str) -> str | None:
    """Draw what can be done with the ticked runs; return the run to show, if its button was pressed."""
    if len(entries) < 2:
        return None
    others = [entry for entry in entries if entry.run.id in ticked and entry.run.id != chosen]
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        compare = st.button(
            "Compare these two runs" if len(ticked) == 2 else "Compare two runs",
            icon=":material/compare_arrows:",
            type="primary" if len(ticked) == 2 else "secondary",
            disabled=len(ticked) != 2,
            key="compare_runs",
            help="Shows curves, settings and answers of both runs, and whether one is better.",
        )
        if len(ticked) != 2:
            st.caption("Tick two runs to compare them." if len(ticked) < 2 else "Only two runs can be compared.")
        elif len(others) == 1 and st.button(f"Show {escape_text(others[0].facts.name, 60)}", key="show_ticked"):
            return others[0].run.id
    if compare:
        _open_comparison(ticked)
    return None


def _columns() -> dict[str, Any]:
    column = st.column_config
    return {
        "State": column.TextColumn(width=120),
        "Run": column.TextColumn(width="medium"),
        "Started": column.DatetimeColumn(format="D MMM HH:mm", width=110),
        "Duration": column.TextColumn(width=100),
        "Training loss": column.NumberColumn(format="%.4f", width=80),
        "Test loss": column.NumberColumn(format="%.4f", width=80),
        "Exact match": column.NumberColumn(format="%.1f %%", width=100),
        "Changed settings": column.TextColumn(width="large"),
    }
