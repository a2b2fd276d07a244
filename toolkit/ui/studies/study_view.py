"""A study: its verdict, a table of its trials with their settings and results, and all curves in one chart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import streamlit as st

from toolkit.runs.event_facts import read_run_curves
from toolkit.runs.status import UNFINISHED
from toolkit.settings.draft import get_setting
from toolkit.settings.form_layout import name_setting
from toolkit.settings.training_content import SEED_PATH
from toolkit.settings.validation import validate_draft
from toolkit.studies.expectations import TRAIN_SIZE_PATH
from toolkit.studies.outcomes import Study, find_free_name, read_study
from toolkit.studies.plan import choose_data_sizes
from toolkit.studies.report import format_study_html
from toolkit.studies.verdict import StudyVerdict, judge_study
from toolkit.studies.words import (
    INTERVALS_HOLD,
    describe_objective,
    describe_verdict,
    find_leading_value,
    format_study_csv,
)
from toolkit.system.printable import format_plural
from toolkit.ui.elements import charts
from toolkit.ui.elements.error_boundary import error_boundary
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.thinning import whole_strides
from toolkit.ui.forms.form import open_setting
from toolkit.ui.frame import page
from toolkit.ui.frame.viewers import slow_down_refreshes
from toolkit.ui.studies.adoption import draw_adoption
from toolkit.ui.studies.study_charts import draw_importance, draw_parallel_chart
from toolkit.ui.studies.trial_table import draw_trial_table
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.review import describe_settings
from toolkit.ui.workspace.run_entries import RunEntry, read_run_entries

STUDY_REFRESH_SECONDS = 2
STUDY_CURVES = {"eval_loss": "Test loss", "loss": "Training loss"}


def draw_live_study(name: str) -> None:
    """Draw the study, refreshed while one of its runs is active."""
    study = read_study(workspace.current_save_dir(), name)
    is_active = any(outcome.state in UNFINISHED for outcome in study.outcomes)
    every = STUDY_REFRESH_SECONDS * slow_down_refreshes()
    st.fragment(_draw_study, run_every=every if is_active else None, key=f"study_{name}")(name)


def _draw_study(name: str) -> None:
    with error_boundary():
        study = read_study(workspace.current_save_dir(), name)
        entries, _ = read_run_entries(study.runs)
        verdict = judge_study(study)
        _draw_verdict(study, verdict)
        total = len(study.outcomes)
        ended = sum(entry.status.has_ended for entry in entries)
        if ended < total:
            st.progress(ended / total, f"{ended} of {format_plural(total, 'trial')} complete")
        else:
            st.caption(f":material/check_circle: {ended} of {format_plural(total, 'trial')} complete")
        _draw_downloads(study, verdict)
        if not entries:
            st.caption("No trial has a run yet. To train them, open Configure and press Start.")
            return
        draw_trial_table(study, entries)
        draw_importance(verdict)
        draw_parallel_chart(study)
        _draw_curves(entries)


def study_run_label(entry: RunEntry) -> str:
    """Return the varied settings of a run with the labels of the form, or the run's name if nothing varies."""
    return describe_settings(entry.facts.settings) or entry.facts.name


def label_study_runs(entries: Sequence[RunEntry]) -> dict[str, RunEntry]:
    """Return the runs by unique label; runs with equal settings get their start time and id appended."""
    several_seeds = len({_read_seed(entry) for entry in entries}) > 1
    labels = {
        entry.run.id: ", ".join(
            part for part in (study_run_label(entry), f"seed {_read_seed(entry)}" if several_seeds else "") if part
        )
        for entry in entries
    }
    label_counts = Counter(labels.values())
    return {
        name
        if label_counts[name] == 1
        else f"{name}, {entry.facts.created:%d %b %H:%M:%S} ({entry.run.id[-4:]})": entry
        for entry in entries
        for name in [labels[entry.run.id]]
    }


def _read_seed(entry: RunEntry) -> int:
    return int(get_setting(entry.facts.config, SEED_PATH))


def _draw_verdict(study: Study, verdict: StudyVerdict) -> None:
    """Draw the verdict as the first thing on the page, and the button that adopts the recommended values."""
    with st.container(border=True):
        st.markdown(_emphasize_findings(escape_text(describe_verdict(study, verdict), 4000), verdict))
        st.caption(f"{escape_text(describe_objective(study))} {INTERVALS_HOLD}")
        known = [one for one in verdict.findings if one.shown is not None or one.is_searched]
        values = {one.path: find_leading_value(one) for one in known}
        if values and any(outcome.value is not None for outcome in study.outcomes):
            draw_adoption(study, verdict, values)


def _emphasize_findings(text: str, verdict: StudyVerdict) -> str:
    """Return the escaped verdict with what it says of each setting in bold."""
    for finding in verdict.findings:
        for words in (" matters", " is within noise", ": too few runs to say"):
            said = escape_text(name_setting(finding.path) + words)
            text = text.replace(said, f"**{said}**", 1)
    return text


def draw_growth_study() -> None:
    """Draw the button that sets up the study of the number of training rows with the present settings."""
    config, _ = validate_draft(workspace.current_draft())
    sizes = choose_data_sizes(config.data) if config is not None else None
    pressed = st.button(
        "Will more data help?",
        icon=":material/trending_up:",
        key="growth_study",
        disabled=sizes is None,
        help="Set up a study of 25, 50 and 100 % of the training rows with the settings on the Configure page, with 3 "
        "seeds." + ("" if sizes else " It needs valid settings and a training split."),
    )
    if pressed and sizes is not None:
        workspace.refresh_workspace()
        name = find_free_name(workspace.current_save_dir(), "more data")
        asked = {"ablation.use_ablate": True, "ablation.study_name": name, "ablation.seeds": 3}
        workspace.replace_settings(asked, {TRAIN_SIZE_PATH: list(sizes)})
        open_setting("ablation.use_ablate")
        page.go_to_page("configure")


def _draw_downloads(study: Study, verdict: StudyVerdict) -> None:
    with st.container(horizontal=True):
        table, report = format_study_csv(study), format_study_html(study, verdict)
        st.download_button("Table as CSV", table, "study.csv", "text/csv", icon=":material/table:", key="study_csv")
        st.download_button(
            "Report as HTML", report, "study.html", "text/html", icon=":material/description:", key="study_report"
        )


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
