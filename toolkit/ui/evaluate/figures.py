"""Results of an evaluation: verdicts, the picture of the differences, changed rows and measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st

from toolkit.evaluation.statistics.measures import MEASURES_BY_NAME, Measure
from toolkit.evaluation.statistics.results import EvaluationResults, Figure, FigureDifference
from toolkit.evaluation.statistics.verdict import format_difference, format_with_interval, list_fitting_measures
from toolkit.runs.model_names import BASE
from toolkit.system.printable import format_count, format_duration, format_plural
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.result_charts import (
    STATIC_CHART,
    ShownDifference,
    draw_interval_chart,
)
from toolkit.ui.elements.words import VERDICT_LABELS

ModelNames = Mapping[str, str]
"""model -> its name on the page"""


def draw_verdicts(results: EvaluationResults, names: ModelNames) -> None:
    """Draw for each adapter the verdict as a sentence, the figures behind it, and the result of the gate."""
    for name in results.adapters:
        with st.container(border=True):
            if len(results.adapters) > 1:
                st.caption(escape_text(names[name]))
            first, *rest = results.sentences[name]
            _, icon, color = VERDICT_LABELS[headline_verdict(results, name)]
            st.header(f":{color}[{icon}] {escape_text(first)}", anchor=False)
            has_forgotten = results.probe is not None and results.probe.differences[name].verdict == "worse"
            warning = ""
            if has_forgotten and rest:
                *rest, warning = rest
            if rest:
                st.markdown(escape_text(" ".join(rest), 2_000))
            if warning:
                st.markdown(f":orange[:material/psychology_alt:] {escape_text(warning, 500)}")
            _draw_gate(results, name)
    _draw_remarks(results, names)


def draw_flip_tiles(results: EvaluationResults, name: str, reference: str, names: ModelNames) -> None:
    """Draw how many rows changed between correct and wrong, from model `reference` to model `name`: losses first."""
    flips = results.flips_of(reference, name)
    if flips.unknown == results.compared_rows:
        return
    before, after = (escape_text(names[model]) for model in (reference, name))
    tiles = (
        ("Broke", flips.broke, f"{before}: correct. {after}: wrong."),
        ("Fixed", flips.fixed, f"{before}: wrong. {after}: correct."),
        ("Unchanged (wrong)", flips.both_wrong, "Neither model gives the expected answer."),
        ("Unchanged (correct)", flips.same, "Both models give the expected answer."),
    )
    grid = st.grid(4, min_column_width=150, gap="small")
    for title, number, explanation in tiles:
        grid.metric(title, format_count(number), border=True, help=explanation)


def draw_differences(results: EvaluationResults, names: ModelNames, name: str, reference: str) -> None:
    """Draw the picture of the result: the differences in the measures that suit the answers, with their intervals."""
    found = [
        (MEASURES_BY_NAME[figure.measure], figure.difference_from(reference, name))
        for measure in list_fitting_measures(results)
        if (figure := results.figure(measure)) is not None
    ]
    known = [(measure, difference) for measure, difference in found if difference.value is not None]
    # one axis, one unit: the loss is in the picture only where there is nothing else
    shares = [pair for pair in known if pair[0].form == "share"]
    drawn = [_shown_difference(measure, difference) for measure, difference in shares or known]
    if not drawn:
        return
    unit, direction = ("percentage points", "higher") if shares else ("difference", "lower")
    axis_title = f"{unit}<br>with 98 % interval,<br>{direction} is better"
    compared = "the base model" if reference == BASE else escape_text(names[reference])
    st.header(f"{escape_text(names[name])} compared with {compared}", anchor=False)
    st.plotly_chart(
        draw_interval_chart(drawn, axis_title),
        config=STATIC_CHART,
        key="differences",
        alt=_describe_differences(drawn),
    )


def _shown_difference(measure: Measure, difference: FigureDifference) -> ShownDifference:
    factor = 100.0 if measure.form == "share" else 1.0
    low, high = (None if end is None else factor * end for end in (difference.low, difference.high))
    assert difference.value is not None
    words = format_difference(measure, difference)
    return ShownDifference(measure.title, factor * difference.value, low, high, words, difference.verdict)


def _describe_differences(drawn: Sequence[ShownDifference]) -> str:
    return "Differences with their intervals. " + " ".join(f"{shown.title}: {shown.summary}." for shown in drawn)


def draw_measures_tables(results: EvaluationResults, names: ModelNames, reference: str = BASE) -> None:
    """Draw the measures that suit the answers with the difference of each adapter from `reference`; fold the others."""
    if not results.figures:
        return
    fitting = list_fitting_measures(results)
    figures = [figure for measure in fitting if (figure := results.figure(measure)) is not None]
    _draw_measures(figures, results, names, reference, "Measures that suit these answers")
    if len(figures) == len(results.figures):
        return
    with st.expander(f"All {format_plural(len(results.figures), 'measure')}", icon=":material/table_rows:"):
        _draw_measures(results.figures, results, names, reference, "All measures with their intervals")
        st.caption(
            f"Differences are relative to {escape_text(names[reference])}. Brackets show the 95 % bootstrap interval "
            "of a value and the 98 % interval of a difference on the same rows. A difference is called better or worse "
            "only if its interval excludes zero and a sign-flip test agrees (p < 0.02)."
        )


def _draw_measures(
    figures: Sequence[Figure], results: EvaluationResults, names: ModelNames, reference: str, alt: str
) -> None:
    rows = [make_measure_row(figure, MEASURES_BY_NAME[figure.measure], results, names, reference) for figure in figures]
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        height="content",
        alt=alt,
        column_config={"Description": st.column_config.TextColumn(width="large")},
    )


def headline_verdict(results: EvaluationResults, name: str, reference: str = BASE) -> str:
    """Return the verdict on the main measure of the evaluation."""
    figure = results.figure(results.headline) if results.headline else None
    return figure.difference_from(reference, name).verdict if figure else "unknown"


def _draw_gate(results: EvaluationResults, name: str) -> None:
    gate = results.gate.get(name)
    if gate is None:
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if gate.passed:
            st.badge("Gate passed", icon=":material/verified:", color="green")
        else:
            st.badge("Gate not passed", icon=":material/block:", color="orange")
        st.caption(escape_text(" ".join(gate.reasons), 2_000), width="stretch")


def _draw_remarks(results: EvaluationResults, names: ModelNames) -> None:
    if not results.complete:
        st.caption(
            f":orange[:material/warning:] {format_count(results.answered)} of {format_plural(results.asked, 'row')} "
            "were answered. The results cover only these rows."
        )
    for model, reasons in results.failures.items():
        for reason, number in reasons.items():
            st.caption(
                f":orange[:material/warning:] {escape_text(names[model])} gave no answer to "
                f"{format_plural(number, 'row')}, counted as wrong: {escape_text(reason, 300)}"
            )
    truncated = {model: number for model, number in results.cut.items() if number}
    if truncated:
        counts = ", ".join(
            f"{escape_text(names[model])}: {format_count(number)}" for model, number in truncated.items()
        )
        st.caption(
            f":material/content_cut: Answers truncated at the token limit, far beyond the expected length: {counts}."
        )
    st.caption(
        f"Results from {format_plural(results.compared_rows, 'test row')}, answered in "
        f"{format_duration(results.seconds)}."
    )


def make_measure_row(
    figure: Figure, measure: Measure, results: EvaluationResults, names: ModelNames, reference: str = BASE
) -> dict[str, str]:
    """Return a table row: the values with their intervals, the difference of each adapter and the verdict on it."""
    row = {"Measure": measure.title}
    row.update({names[model]: format_with_interval(measure, figure.models[model]) for model in results.models})
    compared = [name for name in results.adapters if name != reference]
    for adapter in compared:
        tag = "" if len(compared) == 1 else f" ({names[adapter]})"
        difference = figure.difference_from(reference, adapter)
        row["Difference" + tag] = format_difference(measure, difference)
        row["Verdict" + tag] = VERDICT_LABELS[difference.verdict][0]
    row["Description"] = measure.help
    return row
