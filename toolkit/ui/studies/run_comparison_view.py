"""Two runs compared: the verdict on their answers, their curves in one chart, and the settings that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import streamlit as st

from toolkit.evaluation.run_comparison import ChangedRow, RunComparison, compare_two_runs
from toolkit.evaluation.statistics.intervals import MIN_INTERVAL_ROWS
from toolkit.evaluation.statistics.results import EvaluationResults
from toolkit.runs.event_facts import read_run_curves
from toolkit.runs.model_names import BASE
from toolkit.runs.run_dir import RunDir, list_runs
from toolkit.settings.form_layout import describe_value, name_setting
from toolkit.settings.training_content import SEED_PATH
from toolkit.system.printable import format_plural
from toolkit.ui.elements import charts
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.thinning import whole_strides
from toolkit.ui.elements.words import VERDICT_LABELS
from toolkit.ui.evaluate import figures
from toolkit.ui.frame import page
from toolkit.ui.runs.run_table import COMPARED_PARAMETER
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.run_entries import RunEntry, label_runs, read_run_entries
from toolkit.ui.workspace.run_facts import config_differences

CURVES = {"eval_loss": "Test loss", "loss": "Training loss"}
MAX_CHANGED_ROWS = 200


def read_compared_runs() -> list[str]:
    """Return the ids of the runs that the address asks to compare; [] when it asks for none."""
    return [name for name in str(st.query_params.get(COMPARED_PARAMETER) or "").split(",") if name]


def draw_run_comparison(asked: Sequence[str]) -> None:
    """Draw the comparison of two runs of this workspace, the older one as the reference."""
    with st.container(horizontal=True):
        if st.button("Back to the runs", icon=":material/arrow_back:", key="back_to_runs"):
            page.go_to_page("runs")
        if st.button("Show the studies", icon=":material/science:", key="leave_comparison"):
            st.query_params.pop(COMPARED_PARAMETER, None)
            st.rerun()
    runs = [run for run in list_runs(workspace.current_save_dir()) if run.id in asked]
    entries, errors = read_run_entries(sorted(runs, key=lambda run: run.id))
    if len(entries) != 2:
        reason = f" {errors[0]}" if errors else ""
        st.warning(
            f"{format_plural(2 - len(entries), 'run')} of this comparison can't be read.{escape_text(reason, 500)} "
            "Tick two runs in the table on the Runs page.",
            icon=":material/link_off:",
        )
        return
    first, second = entries
    names = name_two_runs(first, second)
    stamps = tuple(_read_stamp(one.run) for one in entries)
    folders = (str(first.run.path), str(second.run.path))
    found = _compare_cached(folders, (names[first.run.id], names[second.run.id]), stamps)
    _draw_verdict(found, first, second, names)
    _draw_settings(first, second, names)
    _draw_curves(entries, names)
    if found.results is not None:
        _draw_answers(found.results, found.changed, first.run.id, second.run.id, names)


def _read_stamp(run: RunDir) -> int:
    return run.predictions_path.stat().st_mtime_ns if run.predictions_path.exists() else 0


@st.cache_data(show_spinner="Comparing the answers of both runs…", max_entries=20)
def _compare_cached(folders: tuple[str, str], names: tuple[str, str], stamps: tuple[int, ...]) -> RunComparison:
    del stamps  # only part of the cache key
    return compare_two_runs(RunDir(Path(folders[0])), RunDir(Path(folders[1])), names)


def name_two_runs(first: RunEntry, second: RunEntry) -> dict[str, str]:
    """Return a different name for each run, and one for their base model."""
    labels = {one.run.id: one.facts.name for one in (first, second)}
    if first.facts.name == second.facts.name:
        labels = label_runs([first, second])
    base = "Base model" if first.facts.model == second.facts.model else f"Base model of {labels[first.run.id]}"
    return {BASE: base, **labels}


def _draw_verdict(found: RunComparison, first: RunEntry, second: RunEntry, names: Mapping[str, str]) -> None:
    before, after = (escape_text(names[one.run.id], 100) for one in (first, second))
    with st.container(border=True):
        st.caption(f"{after} compared with {before}")
        if found.results is None:
            st.header(":gray[:material/help:] The answers can't be compared.", anchor=False)
            st.markdown(_explain_missing(found, names))
            return
        verdict = figures.headline_verdict(found.results, second.run.id, first.run.id)
        _, icon, color = VERDICT_LABELS[verdict]
        headline, *rest = found.sentences
        st.header(f":{color}[{icon}] {escape_text(headline, 500)}", anchor=False)
        st.markdown(escape_text(" ".join(rest), 2_000))
        if found.results.seen and (not found.results.excluded or found.results.compared_rows < MIN_INTERVAL_ROWS):
            _draw_way_to_more_rows(second)
        st.caption(
            "The intervals cover the choice of test rows. One run of each can't show what another training seed would "
            "change; a study repeats both with the same seeds."
        )


def _draw_way_to_more_rows(run: RunEntry) -> None:
    """Say how to compare on more rows. A repaired dataset is split anew, so that few rows are clean for both runs."""
    st.markdown(
        "To compare on more rows, evaluate both on a file that neither was trained on: in the options of an "
        "evaluation, choose **File**, and the other run under **Compare with checkpoints or other runs**. For later "
        "runs, use a separate test file (Data page, **Training and test split**): all of its rows count."
    )
    if st.button("Evaluate both on other rows", icon=":material/balance:", key="evaluate_both"):
        page.go_to_page("evaluate", run.run.id)


def _explain_missing(found: RunComparison, names: Mapping[str, str]) -> str:
    if not found.missing:
        return "The two runs have no test row in common. Train both with the same dataset and the same split seed."
    missing = " and ".join(escape_text(names[run.id], 100) for run in found.missing)
    return f"{missing}: no answers to test rows are recorded. A run answers its test set when it finishes."


def _draw_settings(first: RunEntry, second: RunEntry, names: Mapping[str, str]) -> None:
    st.header("Settings that differ", anchor=False)
    differing = config_differences(first.facts.config, second.facts.config)
    rows = [
        {
            "Setting": name_setting(path),
            names[first.run.id]: describe_value(path, before),
            names[second.run.id]: describe_value(path, after),
        }
        for path, before, after in differing
    ]
    datasets = [one.facts.dataset for one in (first, second)]
    if datasets[0].get("sha256") != datasets[1].get("sha256"):
        labels = [one.facts.dataset_name or "–" for one in (first, second)]
        cells = zip((names[first.run.id], names[second.run.id]), labels, strict=True)
        if labels[0] != labels[1]:  # which says more than where the files are
            rows = [row for row in rows if row["Setting"] != name_setting("data.path")]
        rows.insert(0, {"Setting": "Dataset", **dict(cells)})
    if rows:
        st.dataframe(pd.DataFrame(rows), hide_index=True, height="content", alt="Settings that differ")
    else:
        st.caption(":material/equal: All settings are equal.")
    if [path for path, _, _ in differing] == [SEED_PATH]:
        st.caption("The runs differ in the training seed only, so every difference is one that chance makes.")


def _draw_curves(entries: Sequence[RunEntry], names: Mapping[str, str]) -> None:
    st.header("Curves", anchor=False)
    series = st.segmented_control(
        "Curve", list(CURVES), format_func=CURVES.__getitem__, default="eval_loss", required=True, key="pair_series"
    )
    shown = series or "eval_loss"
    curves = {names[one.run.id]: read_run_curves(one.run.events_path).get(shown) for one in entries}
    lines = {label: whole_strides(curve) for label, curve in curves.items() if curve}
    if not lines:
        st.caption(":material/show_chart: No data points yet.")
        return
    revision = "".join(one.run.id for one in entries) + shown
    figure = charts.reuse_figure("pair", charts.overlay_chart, lines, CURVES[shown].lower(), revision)
    config = charts.PLOTLY_CONFIG
    st.plotly_chart(figure, key="pair_overlay", config=config, height=320, alt=f"{CURVES[shown]} by step of both runs")


def _draw_answers(
    results: EvaluationResults, changed: Sequence[ChangedRow], first: str, second: str, names: Mapping[str, str]
) -> None:
    st.header("Answers to the test rows", anchor=False)
    figures.draw_flip_tiles(results, second, first, names)
    figures.draw_differences(results, names, second, first)
    if not changed:
        return
    table = [
        {"Prompt": one.prompt, "Expected": one.expected, names[first]: one.first, names[second]: one.second}
        for one in changed[:MAX_CHANGED_ROWS]
    ]
    st.markdown(f"**{format_plural(len(changed), 'row')} that only one of the runs answers correctly**")
    st.dataframe(pd.DataFrame(table), hide_index=True, alt="Rows that only one of the runs answers correctly")
