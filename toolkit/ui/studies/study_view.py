"""A study: its verdict, a table of its trials with their settings and results, and all curves in one chart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from toolkit.evaluation.predictions import ADAPTER, compute_exact_match, read_predictions
from toolkit.evaluation.questions import EvaluationQuestion
from toolkit.evaluation.seen_rows import find_seen_rows
from toolkit.runs.event_facts import read_run_curves
from toolkit.runs.model_names import BASE
from toolkit.runs.run_dir import RunDir
from toolkit.runs.status import UNFINISHED
from toolkit.settings.draft import get_setting
from toolkit.settings.form_layout import describe_value, name_setting
from toolkit.settings.training_content import SEED_PATH
from toolkit.settings.validation import validate_draft
from toolkit.studies.expectations import TRAIN_SIZE_PATH
from toolkit.studies.outcomes import Study, find_free_name, find_run_reason, read_study
from toolkit.studies.plan import choose_data_sizes
from toolkit.studies.report import format_study_html
from toolkit.studies.verdict import StudyVerdict, judge_study
from toolkit.studies.words import describe_verdict, find_leading_value, format_study_csv
from toolkit.system.printable import format_duration, format_plural
from toolkit.ui.elements import charts
from toolkit.ui.elements.error_boundary import error_boundary
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.thinning import whole_strides
from toolkit.ui.elements.words import STATE_LABELS
from toolkit.ui.forms.form import open_setting
from toolkit.ui.frame import page
from toolkit.ui.runs.run_table import STATE_MARKS
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.review import describe_settings
from toolkit.ui.workspace.run_entries import RunEntry, read_run_entries

STUDY_REFRESH_SECONDS = 2
STUDY_CURVES = {"eval_loss": "Test loss", "loss": "Training loss"}


def draw_live_study(name: str) -> None:
    """Draw the study, refreshed while one of its runs is active."""
    study = read_study(workspace.current_save_dir(), name)
    is_active = any(outcome.state in UNFINISHED for outcome in study.outcomes)
    st.fragment(_draw_study, run_every=STUDY_REFRESH_SECONDS if is_active else None, key=f"study_{name}")(name)


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
        scores = score_clean_rows(entries)
        st.dataframe(
            pd.DataFrame([_study_row(entry, scores.get(entry.run.id)) for entry in entries]),
            hide_index=True,
            column_config=_columns(),
            alt="Trials of the study",
            placeholder="–",
        )
        excluded = sum(score.excluded for score in scores.values())
        if excluded:
            st.caption(
                ":orange[:material/warning:] Exact match covers the clean test rows: "
                f"{format_plural(excluded, 'answer')} to rows that a trial of this study was trained on "
                f"{'is' if excluded == 1 else 'are'} excluded."
            )
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


@dataclass(frozen=True)
class CleanScore:
    """Exact match of adapter and base over the test rows that no trial was trained on. rows: their number."""

    rows: int
    excluded: int
    adapter: float | None
    base: float | None


def score_clean_rows(entries: Sequence[RunEntry]) -> dict[str, CleanScore]:
    """Return, by run, the exact match over its clean test rows; a trial without recorded answers has none."""
    ended = [entry.run for entry in entries if entry.status.scores and entry.run.predictions_path.exists()]
    return _score_cached(tuple((str(run.path), run.predictions_path.stat().st_mtime_ns) for run in ended))


@st.cache_data(show_spinner="Comparing the test rows with the training rows…", max_entries=50)
def _score_cached(trials: tuple[tuple[str, int], ...]) -> dict[str, CleanScore]:
    runs = [RunDir(Path(folder)) for folder, _ in trials]
    answers = [(run, prediction) for run in runs for prediction in read_predictions(run)]
    questions = [EvaluationQuestion(at, one.row, one.prompt, one.expected) for at, (_, one) in enumerate(answers)]
    seen = find_seen_rows(questions, [run.id for run in runs], runs[0]) if runs else {}
    excluded = frozenset().union(*seen.values())
    found = {}
    for run in runs:
        own = [at for at, (answered, _) in enumerate(answers) if answered == run]
        clean = [answers[at][1] for at in own if at not in excluded]
        figure = compute_exact_match(clean).models if clean else {}
        adapter, base = (figure[name].value if name in figure else None for name in (ADAPTER, BASE))
        found[run.id] = CleanScore(len(clean), len(own) - len(clean), adapter, base)
    return found


def _study_row(entry: RunEntry, score: CleanScore | None) -> dict[str, Any]:
    status = entry.status
    return {
        **{name_setting(path): describe_value(path, value) for path, value in entry.facts.settings.items()},
        "Seed": _read_seed(entry),
        "State": f"{STATE_MARKS[status.state]} {STATE_LABELS[status.state][0]}",
        "Training loss": status.last.get("loss"),
        "Test loss": status.last.get("eval_loss"),
        "Exact match": score.adapter if score else status.scores.get("exact_match"),
        "Exact match, base": score.base if score else status.scores.get("exact_match_base"),
        "Clean test rows": score.rows if score else None,
        "Duration": format_duration(status.elapsed_s or None),
        "Reason": find_run_reason(status) if status.state == "failed" else "",
    }


def _columns() -> dict[str, Any]:
    column = st.column_config
    return {
        "Training loss": column.NumberColumn(format="%.4f"),
        "Test loss": column.NumberColumn(format="%.4f"),
        "Exact match": column.NumberColumn(format="percent"),
        "Exact match, base": column.NumberColumn(format="percent"),
    }


def _draw_verdict(study: Study, verdict: StudyVerdict) -> None:
    """Draw the verdict as the first thing on the page, and the button that adopts the recommended values."""
    with st.container(border=True):
        st.markdown(escape_text(describe_verdict(study, verdict), 4000))
        st.caption("The intervals hold at every moment of looking, over the test rows and the training seeds.")
        values = {one.path: find_leading_value(one) for one in verdict.findings if one.shown is not None}
        if values:
            st.button(
                "Use these values",
                type="primary",
                icon=":material/check:",
                key="study_adopt",
                help="Put them into the settings on the Configure page, as a single run.",
                on_click=_adopt_values,
                args=(values,),
            )


def _adopt_values(values: Mapping[str, Any]) -> None:
    workspace.refresh_workspace()
    workspace.set_grid({})
    for path, value in {**values, "ablation.use_ablate": False}.items():
        workspace.set_setting(path, value)
    st.toast("The values are in the settings on the Configure page.", icon=":material/check:")


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
        for path, value in {"ablation.use_ablate": True, "ablation.study_name": name, "ablation.seeds": 3}.items():
            workspace.set_setting(path, value)
        workspace.set_grid({TRAIN_SIZE_PATH: list(sizes)})
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
