"""A study on screen: its runs with the settings that tell them apart, their outcomes, and their curves in one chart."""

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
    """Every study's runs, oldest first; the study with the newest run first."""
    found: dict[str, list[RunDir]] = {}
    whole, _ = read_run_entries(list_runs(workspace.current_save_dir()))
    for entry in whole:
        if entry.facts.study:
            found.setdefault(entry.facts.study, []).insert(0, entry.run)
    return found


def draw_live_study(runs: Sequence[RunDir]) -> None:
    """The study; it ticks while one of its runs lives."""
    living = any(entry.status.state in UNFINISHED for entry in read_run_entries(runs)[0])
    st.fragment(_draw_study, run_every=STUDY_REFRESH_SECONDS if living else None, key=f"study_{runs[0].id}")(
        tuple(runs)
    )


def _draw_study(runs: tuple[RunDir, ...]) -> None:
    with error_boundary():
        found, _ = read_run_entries(runs)
        over = sum(entry.status.has_ended for entry in found)
        if over < len(found):
            st.progress(over / len(found), f"{over} of {format_plural(len(found), 'run')} done")
        else:
            st.caption(f":material/check_circle: All {format_plural(len(found), 'run')} done")
        st.dataframe(
            pd.DataFrame([_study_row(entry) for entry in found]), hide_index=True, column_config=_columns(),
            alt="The runs of the study", placeholder="–",
        )  # fmt: skip
        _draw_best_run(found)
        _draw_curves(found)


def study_run_label(entry: RunEntry) -> str:
    """What tells a run of a study apart, in the form's words."""
    return describe_settings(entry.facts.settings) or entry.facts.name


def label_study_runs(found: Sequence[RunEntry]) -> dict[str, RunEntry]:
    """The runs by their labels, none lost: of a study that was queued twice their starts tell them apart."""
    times = Counter(map(study_run_label, found))
    return {
        name if times[name] == 1 else f"{name}, {entry.facts.created:%d %b %H:%M:%S} ({entry.run.id[-4:]})": entry
        for entry in found
        for name in [study_run_label(entry)]
    }


def _study_row(entry: RunEntry) -> dict[str, Any]:
    status = entry.status
    return {
        **{setting_label(path): value_label(path, value) for path, value in entry.facts.settings.items()},
        "State": f"{STATE_MARKS[status.state]} {STATE_LABELS[status.state][0]}",
        "Loss": status.last.get("loss"),
        "Test loss": status.last.get("eval_loss"),
        "Exact match": status.scores.get("exact_match"),
        "Base": status.scores.get("exact_match_base"),
        "Duration": format_duration(status.elapsed_s or None),
    }


def _columns() -> dict[str, Any]:
    column = st.column_config
    return {
        "Loss": column.NumberColumn(format="%.4f"),
        "Test loss": column.NumberColumn(format="%.4f"),
        "Exact match": column.NumberColumn(format="percent"),
        "Base": column.NumberColumn("Exact match, base", format="percent"),
    }


def _draw_best_run(found: Sequence[RunEntry]) -> None:
    scores = {name: entry.status.scores.get("exact_match") for name, entry in label_study_runs(found).items()}
    words = describe_best_run({name: float(score) for name, score in scores.items() if score is not None})
    if words:
        st.caption(f":material/trophy: {escape_text(words, 1000)}")


def describe_best_run(scores: Mapping[str, float]) -> str:
    """Which run answers best, by its exact match (0 to 1); "" with fewer than two. A tie is called one."""
    if len(scores) < 2:
        return ""
    best = [name for name, score in scores.items() if score == max(scores.values())]
    if len(best) == len(scores):
        return "Exact match can't tell these runs apart so far."
    return f"Most exact matches so far: {' and '.join(best)}. One seed each: small differences may be chance."


def _draw_curves(found: Sequence[RunEntry]) -> None:
    name = st.segmented_control(
        "Curve",
        list(STUDY_CURVES),
        format_func=STUDY_CURVES.__getitem__,
        default="eval_loss",
        required=True,
        key="study_series",
    )
    chosen = name or "eval_loss"
    every = {
        name: read_run_curves(entry.run.events_path).get(chosen) for name, entry in label_study_runs(found).items()
    }
    lines = {text: whole_strides(curve) for text, curve in every.items() if curve}
    if not lines:
        st.caption(":material/show_chart: No points yet.")
        return
    figure = charts.reuse_figure(
        "study", charts.overlay_chart, lines, STUDY_CURVES[chosen].lower(), found[0].run.id + chosen
    )
    st.plotly_chart(
        figure, key="study_overlay", config=charts.PLOTLY_CONFIG, height=380, alt=f"{STUDY_CURVES[chosen]} by step"
    )
