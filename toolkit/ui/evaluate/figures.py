"""Results of an evaluation: verdicts, changed rows, measures, JSON fields, labels, rules and the forgetting probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from toolkit.evaluation.statistics.measures import MEASURES_BY_NAME, Measure
from toolkit.evaluation.statistics.results import EvaluationResults, Figure
from toolkit.evaluation.statistics.verdict import format_difference, format_with_interval
from toolkit.runs.model_names import BASE
from toolkit.system.printable import format_count, format_duration, format_plural, format_share
from toolkit.ui.elements.escape import escape_text
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
    """Draw how many rows changed between correct and wrong, from model `reference` to model `name`."""
    flips = results.flips_of(reference, name)
    if flips.unknown == results.compared_rows:
        return
    before, after = (escape_text(names[model]) for model in (reference, name))
    tiles = (
        ("Fixed", flips.fixed, f"{before}: wrong. {after}: correct."),
        ("Broke", flips.broke, f"{before}: correct. {after}: wrong."),
        ("Unchanged (correct)", flips.same, "Both models give the expected answer."),
        ("Unchanged (wrong)", flips.both_wrong, "Neither model gives the expected answer."),
    )
    for column, (title, number, explanation) in zip(st.columns(4), tiles, strict=True):
        column.metric(title, format_count(number), border=True, help=explanation)


def draw_measures_table(results: EvaluationResults, names: ModelNames, reference: str = BASE) -> None:
    """Draw every measure with its interval for each model, and the difference of each adapter from `reference`."""
    rows = [
        _measure_row(figure, MEASURES_BY_NAME[figure.measure], results, names, reference) for figure in results.figures
    ]
    if not rows:
        return
    st.header("Measures", anchor=False)
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        height="content",
        alt="Measures with their intervals",
        column_config={"Description": st.column_config.TextColumn(width="large")},
    )
    st.caption(
        f"Differences are relative to {escape_text(names[reference])}. Brackets show the 95 % bootstrap interval of a "
        "value and the 98 % interval of a difference on the same rows. A difference is called better or worse only if "
        "its interval excludes zero and a sign-flip test agrees (p < 0.02)."
    )


def draw_result_details(results: EvaluationResults, names: ModelNames, reference: str = BASE) -> None:
    """Draw a tab for each optional result: JSON fields, labels, rules, the forgetting probe."""
    tabs: dict[str, Any] = {}
    if results.fields:
        tabs[":material/data_object: JSON fields"] = lambda: _draw_fields(results, names, reference)
    if results.confusion is not None:
        tabs[":material/grid_on: Labels"] = lambda: _draw_confusion(results, names)
    if results.rules:
        tabs[":material/rule: Rules"] = lambda: _draw_rules(results, names)
    if results.probe is not None:
        tabs[":material/psychology: Forgetting"] = lambda: _draw_forgetting_probe(results, names)
    if not tabs:
        return
    for tab, draw in zip(st.tabs(list(tabs)), tabs.values(), strict=True):
        with tab:
            draw()


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


def _measure_row(
    figure: Figure, measure: Measure, results: EvaluationResults, names: ModelNames, reference: str = BASE
) -> dict[str, str]:
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


def _draw_fields(results: EvaluationResults, names: ModelNames, reference: str) -> None:
    measure = Measure("field", "Field", "")
    rows = []
    for figure in results.fields:
        row = _measure_row(figure, measure, results, names, reference)
        row["Measure"] = figure.measure
        del row["Description"]
        rows.append({"Field": row.pop("Measure"), "Rows": figure.rows, **row})
    st.dataframe(pd.DataFrame(rows), hide_index=True, height="content", alt="Exact match per field of the JSON answers")


def _draw_confusion(results: EvaluationResults, names: ModelNames) -> None:
    confusion = results.confusion
    assert confusion is not None
    model = st.segmented_control(
        "Model",
        list(results.models),
        format_func=lambda name: escape_text(names[name], 80),
        default=results.models[1],
        required=True,
        key="confusion_model",
        label_visibility="collapsed",
    )
    counts = confusion.counts[model or BASE]
    frame = pd.DataFrame(counts, columns=[*confusion.labels, "other"])
    frame.insert(0, "Expected ↓ / answered →", list(confusion.labels))
    st.dataframe(frame, hide_index=True, height="content", alt="Expected labels by answered labels")
    st.caption(_describe_recalls(confusion.labels, counts))


def _describe_recalls(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Return the recall of each label as text, the lowest first."""
    by_label = [(label, row[at], sum(row)) for at, (label, row) in enumerate(zip(labels, counts, strict=True))]
    recalls = sorted((correct / expected, label) for label, correct, expected in by_label if expected)
    return "Recall by label: " + ", ".join(
        f"{escape_text(label, 40)} {format_share(value)}" for value, label in recalls
    )


def _draw_rules(results: EvaluationResults, names: ModelNames) -> None:
    measure = Measure("rule", "Rule", "")
    rows = [
        {
            "Rule: the answer …": rule.title,
            **{
                names[model]: format_with_interval(measure, rule.kept[model])
                for model in results.models
                if model in rule.kept
            },
            "Required share": format_share(rule.at_least),
            **{f"Rows fixed ({names[name]})": rule.fixed.get(name, 0) for name in results.adapters},
            **{f"Rows broken ({names[name]})": rule.broke.get(name, 0) for name in results.adapters},
        }
        for rule in results.rules
    ]
    st.dataframe(pd.DataFrame(rows), hide_index=True, height="content", alt="Share of answers that pass each rule")


def _draw_forgetting_probe(results: EvaluationResults, names: ModelNames) -> None:
    figure = results.probe
    assert figure is not None
    row = _measure_row(figure, MEASURES_BY_NAME["loss"], results, names)
    row["Measure"] = "Loss on general text"
    del row["Description"]
    st.dataframe(pd.DataFrame([row]), hide_index=True, height="content", alt="The forgetting probe")
    st.caption(
        f"Loss on {format_plural(figure.rows, 'short passage')} unrelated to the training data. A higher loss than "
        "the base model's is a sign of forgetting. Fewer epochs, a lower learning rate or a smaller rank "
        "reduce it."
    )
