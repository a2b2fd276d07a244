"""An evaluation's figures on screen: the verdict in words first, then flips, measures, fields, labels and rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from toolkit.evaluation.statistics.measures import MEASURES_BY_NAME, Measure
from toolkit.evaluation.statistics.results import EvaluationResults, Figure
from toolkit.evaluation.statistics.verdict import format_difference, format_with_interval
from toolkit.runs.model_names import BASE
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.words import VERDICT_LABELS, format_count, format_duration, format_plural, format_share

ModelNames = Mapping[str, str]
"""model -> what people call it"""


def draw_verdicts(results: EvaluationResults, names: ModelNames) -> None:
    """For each adapter the plain sentence, what it rests on, and whether the gate lets it pass."""
    for name in results.adapters:
        with st.container(border=True):
            if len(results.adapters) > 1:
                st.caption(escape_text(names[name]))
            first, *rest = results.sentences[name]
            _, icon, colour = VERDICT_LABELS[headline_verdict(results, name)]
            st.markdown(f"##### :{colour}[{icon}] {escape_text(first)}")
            forgotten = results.probe is not None and results.probe.differences[name].verdict == "worse"
            last = ""
            if forgotten and rest:
                *rest, last = rest
            if rest:
                st.markdown(escape_text(" ".join(rest), 2_000))
            if last:
                st.markdown(f":orange[:material/psychology_alt:] {escape_text(last, 500)}")
            _draw_gate(results, name)
    _draw_remarks(results, names)


def draw_flip_tiles(results: EvaluationResults, name: str, reference: str, names: ModelNames) -> None:
    """Fixed, broke, same, both wrong: from `reference` to `name`."""
    flips = results.flips_of(reference, name)
    if flips.unknown == results.answered:
        return
    before, after = (escape_text(names[one]) for one in (reference, name))
    tiles = (
        ("Fixed", flips.fixed, f"{before}: wrong. {after}: right."),
        ("Broke", flips.broke, f"{before}: right. {after}: wrong."),
        ("Same", flips.same, "Both are right."),
        ("Both wrong", flips.both_wrong, "Neither gives the expected answer."),
    )
    for column, (title, number, words) in zip(st.columns(4), tiles, strict=True):
        column.metric(title, format_count(number), border=True, help=words)


def draw_measures_table(results: EvaluationResults, names: ModelNames, reference: str = BASE) -> None:
    """Every measure with its interval, for every model, and what each adapter changed from `reference`."""
    rows = [
        _measure_row(figure, MEASURES_BY_NAME[figure.measure], results, names, reference) for figure in results.figures
    ]
    if not rows:
        return
    st.subheader("Measures", anchor=False)
    st.dataframe(
        pd.DataFrame(rows), hide_index=True, height="content", alt="Every measure with its interval",
        column_config={"What it is": st.column_config.TextColumn(width="large")},
    )  # fmt: skip
    st.caption(
        f"Differences are to {escape_text(names[reference])}. "
        "In brackets: 95 % bootstrap interval of a value, 98 % of a difference on the same rows. A difference is "
        "called better or worse only when its interval leaves out zero and a sign-flip test agrees (p below 0.02)."
    )


def draw_result_details(results: EvaluationResults, names: ModelNames, reference: str = BASE) -> None:
    """What not every evaluation has: JSON fields, labels, rules, the forgetting probe."""
    parts: dict[str, Any] = {}
    if results.fields:
        parts[":material/data_object: JSON fields"] = lambda: _draw_fields(results, names, reference)
    if results.confusion is not None:
        parts[":material/grid_on: Labels"] = lambda: _draw_confusion(results, names)
    if results.rules:
        parts[":material/rule: Rules"] = lambda: _draw_rules(results, names)
    if results.probe is not None:
        parts[":material/psychology: Forgetting"] = lambda: _draw_forgetting_probe(results, names)
    if not parts:
        return
    for tab, draw in zip(st.tabs(list(parts)), parts.values(), strict=True):
        with tab:
            draw()


def headline_verdict(results: EvaluationResults, name: str, reference: str = BASE) -> str:
    """The verdict on the measure that counts most."""
    figure = results.figure(results.headline) if results.headline else None
    return figure.against(reference, name).verdict if figure else "unknown"


def _draw_gate(results: EvaluationResults, name: str) -> None:
    gate = results.gate.get(name)
    if gate is None:
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if gate.passed:
            st.badge("Gate: promote", icon=":material/verified:", color="green")
        else:
            st.badge("Gate: do not promote", icon=":material/block:", color="orange")
        st.caption(escape_text(" ".join(gate.reasons), 2_000), width="stretch")


def _draw_remarks(results: EvaluationResults, names: ModelNames) -> None:
    if not results.complete:
        st.caption(
            f":orange[:material/warning:] Of {format_plural(results.asked, 'row')} only {format_count(results.answered)} were "
            "answered: the figures are of these."
        )
    for model, reasons in results.failures.items():
        for reason, number in reasons.items():
            st.caption(
                f":orange[:material/warning:] {escape_text(names[model])} has no answer to {format_plural(number, 'row')}, counted "
                f"as wrong: {escape_text(reason, 300)}"
            )
    longer = {model: number for model, number in results.cut.items() if number}
    if longer:
        words = ", ".join(f"{escape_text(names[model])} {format_count(number)}" for model, number in longer.items())
        st.caption(f":material/content_cut: Answers cut at the token limit, well past the expected length: {words}.")
    st.caption(f"Counted over {format_plural(results.answered, 'row')} in {format_duration(results.seconds)}.")


def _measure_row(
    figure: Figure, measure: Measure, results: EvaluationResults, names: ModelNames, reference: str = BASE
) -> dict[str, str]:
    row = {"Measure": measure.title}
    row.update({names[model]: format_with_interval(measure, figure.models[model]) for model in results.models})
    compared = [name for name in results.adapters if name != reference]
    for adapter in compared:
        tag = "" if len(compared) == 1 else f" ({names[adapter]})"
        gap = figure.against(reference, adapter)
        row["Difference" + tag] = format_difference(measure, gap)
        row["Verdict" + tag] = VERDICT_LABELS[gap.verdict][0]
    row["What it is"] = measure.help
    return row


def _draw_fields(results: EvaluationResults, names: ModelNames, reference: str) -> None:
    measure = Measure("field", "Field", "")
    rows = []
    for figure in results.fields:
        row = _measure_row(figure, measure, results, names, reference)
        row["Measure"] = figure.measure
        del row["What it is"]
        rows.append({"Field": row.pop("Measure"), "Rows": figure.rows, **row})
    st.dataframe(pd.DataFrame(rows), hide_index=True, height="content", alt="Each field of the JSON answers")


def _draw_confusion(results: EvaluationResults, names: ModelNames) -> None:
    confusion = results.confusion
    assert confusion is not None
    model = st.segmented_control(
        "Whose answers", list(results.models), format_func=lambda name: names[name], default=results.models[1],
        required=True, key="confusion_model", label_visibility="collapsed",
    )  # fmt: skip
    counts = confusion.counts[model or BASE]
    frame = pd.DataFrame(counts, columns=[*confusion.labels, "anything else"])
    frame.insert(0, "Expected ↓  answered →", list(confusion.labels))
    st.dataframe(frame, hide_index=True, height="content", alt="Expected labels by answered labels")
    st.caption(_describe_recalls(confusion.labels, counts))


def _describe_recalls(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Recall of each label in words, the weakest first."""
    filled = [(label, row[at], sum(row)) for at, (label, row) in enumerate(zip(labels, counts, strict=True))]
    recalls = sorted((right / all_of_it, label) for label, right, all_of_it in filled if all_of_it)
    return "Right by label: " + ", ".join(f"{escape_text(label, 40)} {format_share(value)}" for value, label in recalls)


def _draw_rules(results: EvaluationResults, names: ModelNames) -> None:
    measure = Measure("rule", "Rule", "")
    rows = [
        {
            "The answer …": rule.title,
            **{
                names[model]: format_with_interval(measure, rule.kept[model])
                for model in results.models
                if model in rule.kept
            },
            "Wanted": format_share(rule.at_least),
            **{f"Rows fixed ({names[name]})": rule.fixed.get(name, 0) for name in results.adapters},
            **{f"Rows broken ({names[name]})": rule.broke.get(name, 0) for name in results.adapters},
        }
        for rule in results.rules
    ]
    st.dataframe(pd.DataFrame(rows), hide_index=True, height="content", alt="How the rules were kept")


def _draw_forgetting_probe(results: EvaluationResults, names: ModelNames) -> None:
    figure = results.probe
    assert figure is not None
    row = _measure_row(figure, MEASURES_BY_NAME["loss"], results, names)
    row["Measure"] = "Loss on familiar text"
    del row["What it is"]
    st.dataframe(pd.DataFrame([row]), hide_index=True, height="content", alt="The forgetting probe")
    st.caption(
        f"{format_plural(figure.rows, 'short passage')} that have nothing to do with the training: a model that has not "
        "forgotten is as little surprised by them as before. Fewer epochs, a lower learning rate or a smaller rank "
        "forget less."
    )
