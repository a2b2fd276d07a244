"""Parts of an evaluation's results: labels, JSON fields, rules and the forgetting probe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from toolkit.evaluation.statistics.measures import MEASURES_BY_NAME, Measure
from toolkit.evaluation.statistics.results import EvaluationResults
from toolkit.evaluation.statistics.verdict import format_with_interval
from toolkit.runs.model_names import BASE
from toolkit.system.printable import format_plural, format_share
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.result_charts import STATIC_CHART, draw_confusion_chart
from toolkit.ui.elements.words import distinguish_labels
from toolkit.ui.evaluate.figures import ModelNames, make_measure_row


def draw_result_details(results: EvaluationResults, names: ModelNames, reference: str = BASE) -> None:
    """Draw a tab for each optional result: JSON fields, rules, the forgetting probe."""
    tabs: dict[str, Any] = {}
    if results.fields:
        tabs[":material/data_object: JSON fields"] = lambda: _draw_fields(results, names, reference)
    if results.rules:
        tabs[":material/rule: Rules"] = lambda: _draw_rules(results, names)
    if results.probe is not None:
        tabs[":material/psychology: Forgetting"] = lambda: _draw_forgetting_probe(results, names)
    if not tabs:
        return
    for tab, draw in zip(st.tabs(list(tabs)), tabs.values(), strict=True):
        with tab:
            draw()


def _draw_fields(results: EvaluationResults, names: ModelNames, reference: str) -> None:
    measure = Measure("field", "Field", "")
    rows = []
    for figure in results.fields:
        row = make_measure_row(figure, measure, results, names, reference)
        row["Measure"] = figure.measure
        del row["Description"]
        rows.append({"Field": row.pop("Measure"), "Rows": figure.rows, **row})
    st.dataframe(pd.DataFrame(rows), hide_index=True, height="content", alt="Exact match per field of the JSON answers")


def draw_confusion(results: EvaluationResults, names: ModelNames) -> None:
    """Draw how often each expected label was answered with each label, if the answers are labels."""
    confusion = results.confusion
    if confusion is None:
        return
    labels = distinguish_labels({name: escape_text(names[name], 80) for name in results.models})
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        st.header("Labels", anchor=False, width="content")
        model = st.segmented_control(
            "Model",
            list(results.models),
            format_func=labels.__getitem__,
            default=results.models[1],
            required=True,
            key="confusion_model",
            label_visibility="collapsed",
        )
    counts = confusion.counts[model or BASE]
    recalls = _describe_recalls(confusion.labels, counts)
    st.plotly_chart(
        draw_confusion_chart(confusion.labels, counts),
        config=STATIC_CHART,
        key="confusion",
        alt=f"Expected labels by answered labels. {recalls}",
    )
    st.caption(recalls)


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
    row = make_measure_row(figure, MEASURES_BY_NAME["loss"], results, names)
    row["Measure"] = "Loss on general text"
    del row["Description"]
    st.dataframe(pd.DataFrame([row]), hide_index=True, height="content", alt="The forgetting probe")
    st.caption(
        f"Loss on {format_plural(figure.rows, 'short passage')} unrelated to the training data. A higher loss than "
        "the base model's is a sign of forgetting. Fewer epochs, a lower learning rate or a smaller rank "
        "reduce it."
    )
