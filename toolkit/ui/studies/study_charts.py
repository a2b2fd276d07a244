"""The charts of a study's settings: what each explains of the results, and every trial as a line across its values."""

from __future__ import annotations

import math
from typing import Any

import streamlit as st

from toolkit.settings.form_layout import describe_value, name_setting
from toolkit.studies.outcomes import Study
from toolkit.studies.verdict import StudyVerdict
from toolkit.studies.words import name_objective
from toolkit.ui.elements import charts

VERDICT_WORDS = {"matters": "Matters", "noise": "Within noise", "open": "Too few runs to say"}
MAX_TICK_CHARACTERS, MAX_TICKS = 18, 12


def draw_importance(verdict: StudyVerdict) -> None:
    """Draw a table of the settings: the verdict, and the share of the variation between trials that each explains."""
    if len(verdict.importance) < 2:
        return
    st.dataframe(
        [
            {
                "Setting": name_setting(one.path),
                "Verdict": VERDICT_WORDS[one.verdict],
                "Importance": 100 * verdict.importance[one.path],
            }
            for one in verdict.findings
            if one.path in verdict.importance
        ],
        hide_index=True,
        alt="Importance of the settings",
        column_config={
            "Importance": st.column_config.ProgressColumn(
                format="%.0f %%",
                min_value=0,
                max_value=100,
                help="Share of the variation between trials that the setting alone explains. What is left of 100 % is "
                "interactions and chance.",
            )
        },
    )


def draw_parallel_chart(study: Study) -> None:
    """Draw each finished trial as a line across its values, colored by its result."""
    finished = [one for one in study.outcomes if one.value is not None]
    axes = {path: values for path, values in study.question.axes.items() if len(values) > 1}
    if len(finished) < 2 or not axes:
        return
    title = name_objective(study).capitalize()
    dimensions = [_make_axis(study, path, values) for path, values in axes.items()]
    results = [float(one.value or 0.0) for one in finished]
    is_share = study.measured.is_share
    figure = charts.reuse_figure(
        f"parallel {study.question.name}",
        charts.parallel_chart,
        dimensions,
        (title, results, ".0%" if is_share else ".3g"),
        study.measured.lower,
    )
    better = study.measured.direction
    st.caption(f"Each line is a trial; {better} {name_objective(study)} is better. Drag along an axis to select lines.")
    alt = f"Parallel coordinates: the values of each trial and its {name_objective(study)}"
    st.plotly_chart(figure, key="study_parallel", config=charts.PLOTLY_CONFIG, height=340, alt=alt)


def _make_axis(study: Study, path: str, values: list[Any]) -> charts.ParallelAxis:
    """Return the axis of a setting: numbers in ascending order, other values as they were listed."""
    is_numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    ordered = sorted(values) if is_numeric else values
    places = {repr(value): at for at, value in enumerate(ordered)}
    texts = [describe_value(path, value) for value in ordered]
    step = math.ceil(len(texts) / MAX_TICKS)  # of a range, a few of the values
    texts = [text if at % step == 0 else "" for at, text in enumerate(texts)]
    ticks = [text if len(text) <= MAX_TICK_CHARACTERS else f"{text[: MAX_TICK_CHARACTERS - 1]}…" for text in texts]
    finished = (one for one in study.outcomes if one.value is not None)
    return name_setting(path), [places[repr(one.asked.settings[path])] for one in finished], ticks
