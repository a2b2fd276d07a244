"""The trials of a study as a table: settings, state, figures, a link to each run, and why a trial failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from toolkit.evaluation.predictions import ADAPTER, compute_exact_match, read_predictions
from toolkit.evaluation.questions import EvaluationQuestion
from toolkit.evaluation.seen_rows import find_seen_rows
from toolkit.runs.model_names import BASE
from toolkit.runs.run_dir import RunDir
from toolkit.settings.form_layout import describe_value, name_setting
from toolkit.studies.outcomes import Study, TrialOutcome, find_run_reason
from toolkit.studies.words import REASON_STATES
from toolkit.system.printable import format_plural
from toolkit.ui.elements.words import STATE_LABELS
from toolkit.ui.frame import page
from toolkit.ui.runs.run_table import STATE_MARKS
from toolkit.ui.workspace.run_entries import RunEntry

MAX_SHOWN_ROWS = 16
"""Rows of the table that are on screen at once; the others are scrolled to."""


@dataclass(frozen=True)
class CleanScore:
    """Exact match of adapter and base over the test rows that no trial was trained on. rows: their number."""

    rows: int
    excluded: int
    adapter: float | None
    base: float | None


def draw_trial_table(study: Study, entries: Sequence[RunEntry]) -> None:
    """Draw one row for each trial, with or without a run; a click on a column's title sorts by it."""
    scores = score_clean_rows(entries)
    by_run = {entry.run.id: entry for entry in entries}
    rows = [_trial_row(study, outcome, by_run, scores) for outcome in study.outcomes]
    reasons = any(row["Reason"] for row in rows)
    shown = pd.DataFrame(rows) if reasons else pd.DataFrame(rows).drop(columns="Reason")
    st.dataframe(
        shown,
        hide_index=True,
        column_config=_columns(study),
        alt="Trials of the study",
        placeholder="–",
        height=min(38 + 35 * len(rows), 38 + 35 * MAX_SHOWN_ROWS),
    )
    excluded = sum(score.excluded for score in scores.values())
    if excluded:
        st.caption(
            ":orange[:material/warning:] Exact match covers the clean test rows: "
            f"{format_plural(excluded, 'answer')} to rows that a trial of this study was trained on "
            f"{'is' if excluded == 1 else 'are'} excluded."
        )


def _trial_row(
    study: Study, outcome: TrialOutcome, entries: Mapping[str, RunEntry], scores: Mapping[str, CleanScore]
) -> dict[str, Any]:
    settings = {
        # numbers stay numbers, so that they sort by size
        name_setting(path): value if _is_numeric(study, path) else describe_value(path, value)
        for path, value in outcome.asked.settings.items()
    }
    entry = entries.get(outcome.run.id) if outcome.run is not None else None
    status = outcome.status
    last = status.last if status is not None else {}
    score = scores.get(outcome.run.id) if outcome.run is not None else None
    recorded = status.scores if status is not None else {}
    elapsed = entry.status.elapsed_s if entry is not None else None
    return {
        **settings,
        "Seed": outcome.asked.seed,
        "State": f"{STATE_MARKS[status.state]} {STATE_LABELS[status.state][0]}" if status else "Not queued",
        "Reason": find_run_reason(status) if status is not None and status.state in REASON_STATES else "",
        **({_name_column(study): outcome.value} if study.objective not in _SHOWN_ANYWAY else {}),
        "Exact match": score.adapter if score else recorded.get("exact_match"),
        "Exact match, base": score.base if score else recorded.get("exact_match_base"),
        "Test loss": last.get("eval_loss"),
        "Training loss": last.get("loss"),
        "Clean test rows": score.rows if score else None,
        "Duration": round(elapsed) if elapsed else None,
        "Run": f"/{page.PAGES['runs'].url}?run={outcome.run.id}" if outcome.run is not None else None,
    }


_SHOWN_ANYWAY = ("exact_match", "eval_loss")


def _name_column(study: Study) -> str:
    title = study.measured.title
    return title[:1].upper() + title[1:]


def _is_numeric(study: Study, path: str) -> bool:
    values = [outcome.asked.settings.get(path) for outcome in study.outcomes]
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _columns(study: Study) -> dict[str, Any]:
    column = st.column_config
    numbers = [name_setting(path) for path in study.question.axes if _is_numeric(study, path)]
    return {
        # the format "plain" shows 1,000 as 999.9999999999999
        **{name: column.NumberColumn(format="%g") for name in numbers},
        "Seed": column.NumberColumn(format="%d"),
        _name_column(study): column.NumberColumn(format="percent" if study.measured.is_share else "%.4g"),
        "Training loss": column.NumberColumn(format="%.4f"),
        "Test loss": column.NumberColumn(format="%.4f"),
        "Exact match": column.NumberColumn(format="percent"),
        "Exact match, base": column.NumberColumn(format="percent"),
        "Duration": column.NumberColumn(format="%d s"),
        "Reason": column.TextColumn(width="medium"),
        "Run": column.LinkColumn(display_text=r"-(\w+)$", help="Opens the run in a new tab."),
    }


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
