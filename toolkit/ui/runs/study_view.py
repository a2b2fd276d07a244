"""A study: a table of its runs with their varied settings and results, the best run, and all curves in one chart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from toolkit.runs.event_facts import read_run_curves
from toolkit.runs.run_dir import RunDir, list_runs
from toolkit.runs.status import UNFINISHED
from toolkit.ui.elements import charts
from toolkit.ui.elements.error_boundary import error_boundary
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.thinning import whole_strides
from toolkit.ui.elements.words import STATE_LABELS, format_duration, format_plural
from toolkit.ui.runs.run_table import STATE_MARKS
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.review import describe_settings, setting_label, value_label
from toolkit.ui.workspace.run_entries import RunEntry, read_run_entries

STUDY_REFRESH_SECONDS = 2
STUDY_CURVES = {"eval_loss": "Test loss", "loss": "Training loss"}


def list_studies() -> dict[str, list[RunDir]]:
    """Return the runs of each study, oldest first; the study with the newest run comes first."""
    studies: dict[str, list[RunDir]] = {}
    entries, _ = read_run_entries(list_runs(workspace.current_save_dir()))
    for entry in entries:
        if entry.facts.study:
            studies.setdefault(entry.facts.study, []).insert(0, entry.run)
    return studies


def draw_live_study(runs: Sequence[RunDir]) -> None:
    """Draw the study, refreshed while one of its runs is active."""
    is_active = any(entry.status.state in UNFINISHED for entry in read_run_entries(runs)[0])
    st.fragment(_draw_study, run_every=STUDY_REFRESH_SECONDS if is_active else None, key=f"study_{runs[0].id}")(
        tuple(runs)
    )


def _draw_study(runs: tuple[RunDir, ...]) -> None:
    with error_boundary():
        entries, _ = read_run_entries(runs)
        ended = sum(entry.status.has_ended for entry in entries)
        if ended < len(entries):
            st.progress(ended / len(entries), f"{ended} of {format_plural(len(entries), 'trial')} complete")
        else:
            st.caption(f":material/check_circle: {ended} of {format_plural(len(entries), 'trial')} complete")
        st.dataframe(
            pd.DataFrame([_study_row(entry) for entry in entries]),
            hide_index=True,
            column_config=_columns(),
            alt="Trials of the study",
            placeholder="–",
        )
        _draw_best_run(entries)
        _draw_curves(entries)


def study_run_label(entry: RunEntry) -> str:
    """Return the varied settings of a run with the labels of the form, or the run's name if nothing varies."""
    return describe_settings(entry.facts.settings) or entry.facts.name


def label_study_runs(entries: Sequence[RunEntry]) -> dict[str, RunEntry]:
    """Return the runs by unique label; runs with equal settings get their start time and id appended."""
    label_counts = Counter(map(study_run_label, entries))
    return {
        name
        if label_counts[name] == 1
        else f"{name}, {entry.facts.created:%d %b %H:%M:%S} ({entry.run.id[-4:]})": entry
        for entry in entries
        for name in [study_run_label(entry)]
    }


def _study_row(entry: RunEntry) -> dict[str, Any]:
    status = entry.status
    return {
        **{setting_label(path): value_label(path, value) for path, value in entry.facts.settings.items()},
        "State": f"{STATE_MARKS[status.state]} {STATE_LABELS[status.state][0]}",
        "Training loss": status.last.get("loss"),
        "Test loss": status.last.get("eval_loss"),
        "Exact match": status.scores.get("exact_match"),
        "Exact match, base": status.scores.get("exact_match_base"),
        "Duration": format_duration(status.elapsed_s or None),
    }


def _columns() -> dict[str, Any]:
    column = st.column_config
    return {
        "Training loss": column.NumberColumn(format="%.4f"),
        "Test loss": column.NumberColumn(format="%.4f"),
        "Exact match": column.NumberColumn(format="percent"),
        "Exact match, base": column.NumberColumn(format="percent"),
    }


def _draw_best_run(entries: Sequence[RunEntry]) -> None:
    scores = {name: entry.status.scores.get("exact_match") for name, entry in label_study_runs(entries).items()}
    sentence = describe_best_run({name: float(score) for name, score in scores.items() if score is not None})
    if sentence:
        st.caption(f":material/trophy: {escape_text(sentence, 1000)}")


def describe_best_run(scores: Mapping[str, float]) -> str:
    """Return a sentence on the trials with the highest exact match; "" for fewer than two trials.

    scores: exact match as a share (0 to 1) by the label of the trial.
    """
    if len(scores) < 2:
        return ""
    best = [name for name, score in scores.items() if score == max(scores.values())]
    if len(best) == len(scores):
        return "All trials have the same exact match so far."
    names = " and ".join(best)
    return f"Highest exact match so far: {names}. Each trial uses one seed, so small differences may be chance."


def _draw_curves(entries: Sequence[RunEntry]) -> None:
    name = st.segmented_control(
        "Curve",
        list(STUDY_CURVES),
        format_func=STUDY_CURVES.__getitem__,
        default="eval_loss",
        required=True,
        key="study_series",
    )
    series = name or "eval_loss"
    curves = {
        name: read_run_curves(entry.run.events_path).get(series) for name, entry in label_study_runs(entries).items()
    }
    lines = {label: whole_strides(curve) for label, curve in curves.items() if curve}
    if not lines:
        st.caption(":material/show_chart: No data points yet.")
        return
    figure = charts.reuse_figure(
        "study", charts.overlay_chart, lines, STUDY_CURVES[series].lower(), entries[0].run.id + series
    )
    st.plotly_chart(
        figure, key="study_overlay", config=charts.PLOTLY_CONFIG, height=380, alt=f"{STUDY_CURVES[series]} by step"
    )
