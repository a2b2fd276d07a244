"""A study on screen: its runs with the settings that tell them apart, their outcomes, and their curves in one chart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from toolkit.runs.run_dir import RunDir, list_runs
from toolkit.runs.told import curves
from toolkit.ui.elements import charts
from toolkit.ui.elements.error_boundary import boundary
from toolkit.ui.elements.escape import plain
from toolkit.ui.elements.thinning import settled
from toolkit.ui.elements.words import LIVING, STATES, duration, plural
from toolkit.ui.runs.run_table import MARKS
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.review import heading, named, value_words
from toolkit.ui.workspace.run_entries import Entry, entries

PERIOD_S = 2
SERIES = {"eval_loss": "Test loss", "loss": "Training loss"}


def studies() -> dict[str, list[RunDir]]:
    """Every study's runs, oldest first; the study with the newest run first."""
    found: dict[str, list[RunDir]] = {}
    whole, _ = entries(list_runs(workspace.save_dir()))
    for entry in whole:
        if entry.facts.study:
            found.setdefault(entry.facts.study, []).insert(0, entry.run)
    return found


def study_live(runs: Sequence[RunDir]) -> None:
    """The study; it ticks while one of its runs lives."""
    living = any(entry.status.state in LIVING for entry in entries(runs)[0])
    st.fragment(_view, run_every=PERIOD_S if living else None, key=f"study_{runs[0].id}")(tuple(runs))


def _view(runs: tuple[RunDir, ...]) -> None:
    with boundary():
        found, _ = entries(runs)
        over = sum(entry.status.over for entry in found)
        if over < len(found):
            st.progress(over / len(found), f"{over} of {plural(len(found), 'run')} done")
        else:
            st.caption(f":material/check_circle: All {plural(len(found), 'run')} done")
        st.dataframe(
            pd.DataFrame([_row(entry) for entry in found]), hide_index=True, column_config=_columns(),
            alt="The runs of the study", placeholder="–",
        )  # fmt: skip
        _best(found)
        _overlay(found)


def label(entry: Entry) -> str:
    """What tells a run of a study apart, in the form's words."""
    return named(entry.facts.settings) or entry.facts.name


def labelled(found: Sequence[Entry]) -> dict[str, Entry]:
    """The runs by their labels, none lost: of a study that was queued twice their starts tell them apart."""
    times = Counter(map(label, found))
    return {
        name if times[name] == 1 else f"{name}, {entry.facts.created:%d %b %H:%M:%S} ({entry.run.id[-4:]})": entry
        for entry in found
        for name in [label(entry)]
    }


def _row(entry: Entry) -> dict[str, Any]:
    status = entry.status
    return {
        **{heading(path): value_words(path, value) for path, value in entry.facts.settings.items()},
        "State": f"{MARKS[status.state]} {STATES[status.state][0]}",
        "Loss": status.last.get("loss"),
        "Test loss": status.last.get("eval_loss"),
        "Exact match": status.scores.get("exact_match"),
        "Base": status.scores.get("exact_match_base"),
        "Duration": duration(status.elapsed_s or None),
    }


def _columns() -> dict[str, Any]:
    column = st.column_config
    return {
        "Loss": column.NumberColumn(format="%.4f"),
        "Test loss": column.NumberColumn(format="%.4f"),
        "Exact match": column.NumberColumn(format="percent"),
        "Base": column.NumberColumn("Exact match, base", format="percent"),
    }


def _best(found: Sequence[Entry]) -> None:
    scores = {name: entry.status.scores.get("exact_match") for name, entry in labelled(found).items()}
    words = best_words({name: float(score) for name, score in scores.items() if score is not None})
    if words:
        st.caption(f":material/trophy: {plain(words, 1000)}")


def best_words(scores: Mapping[str, float]) -> str:
    """Which run answers best, by its exact match (0 to 1); "" with fewer than two. A tie is called one."""
    if len(scores) < 2:
        return ""
    best = [name for name, score in scores.items() if score == max(scores.values())]
    if len(best) == len(scores):
        return "Exact match can't tell these runs apart so far."
    return f"Most exact matches so far: {' and '.join(best)}. One seed each: small differences may be chance."


def _overlay(found: Sequence[Entry]) -> None:
    name = st.segmented_control(
        "Curve", list(SERIES), format_func=SERIES.__getitem__, default="eval_loss", required=True, key="study_series"
    )
    chosen = name or "eval_loss"
    every = {name: curves(entry.run.events_path).get(chosen) for name, entry in labelled(found).items()}
    lines = {text: settled(curve) for text, curve in every.items() if curve}
    if not lines:
        st.caption(":material/show_chart: No points yet.")
        return
    figure = charts.kept("study", charts.overlay, lines, SERIES[chosen].lower(), found[0].run.id + chosen)
    st.plotly_chart(figure, key="study_overlay", config=charts.CONFIG, height=380, alt=f"{SERIES[chosen]} by step")
