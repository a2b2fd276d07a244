"""Choice of the two models of an evaluation that are compared row by row, with the verdict on that comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from toolkit.evaluation.evaluation_dir import Evaluation
from toolkit.evaluation.statistics.results import EvaluationResults
from toolkit.evaluation.statistics.verdict import describe_comparison
from toolkit.runs.model_names import BASE
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.words import VERDICT_LABELS
from toolkit.ui.evaluate.figures import ModelNames, headline_verdict
from toolkit.ui.workspace.comparable_models import compared_model_title
from toolkit.ui.workspace.run_entries import RunEntry


@dataclass(frozen=True)
class ComparedModels:
    """Two models whose rows and differences are shown: `model` relative to `reference`."""

    model: str
    reference: str = BASE


def name_models(results: EvaluationResults, all_runs: Sequence[RunEntry]) -> dict[str, str]:
    """Return a unique name on the page for each model."""
    if len(results.adapters) == 1:
        return {BASE: "Base model", results.adapters[0]: "Adapter"}
    names = {BASE: "Base model"}
    for name in results.adapters:
        title, number = compared_model_title(name, all_runs), 2
        while title in names.values():
            title, number = f"{compared_model_title(name, all_runs)} ({number})", number + 1
        names[name] = title
    return names


def choose_compared_models(evaluation: Evaluation, results: EvaluationResults, names: ModelNames) -> ComparedModels:
    """Draw the choice of two models if there are several adapters; return the chosen ones."""
    if len(results.adapters) == 1:
        return ComparedModels(results.adapters[0])
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        model = (
            st.selectbox(
                "Model",
                list(results.adapters),
                format_func=lambda name: names[name],
                width=320,
                key=f"model_{evaluation.id}",
            )
            or results.adapters[0]
        )
        others = [name for name in results.models if name != model]
        reference = (
            st.selectbox(
                "Compared with",
                others,
                format_func=lambda name: names[name],
                width=320,
                key=f"against_{evaluation.id}_{model}",
            )
            or BASE
        )
    if reference != BASE:
        _draw_verdict(results, ComparedModels(model, reference), names)
    return ComparedModels(model, reference)


def _draw_verdict(results: EvaluationResults, pair: ComparedModels, names: ModelNames) -> None:
    reference_name = names[pair.reference]
    first, *rest = describe_comparison(results, pair.model, pair.reference, (reference_name, reference_name))
    _, icon, color = VERDICT_LABELS[headline_verdict(results, pair.model, pair.reference)]
    with st.container(border=True):
        st.caption(f"{escape_text(names[pair.model])} compared with {escape_text(reference_name)}, on the same rows")
        st.header(f":{color}[{icon}] {escape_text(first, 500)}", anchor=False)
        if rest:
            st.markdown(escape_text(" ".join(rest), 2_000))
