"""Which two models of an evaluation are held against each other below the verdicts, and that comparison in words."""

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
    """The rows and differences on screen are those of `model` against `reference`."""

    model: str
    reference: str = BASE


def name_models(results: EvaluationResults, found: Sequence[RunEntry]) -> dict[str, str]:
    """Model -> what people call it, no two alike."""
    if len(results.adapters) == 1:
        return {BASE: "Base model", results.adapters[0]: "Adapter"}
    names = {BASE: "Base model"}
    for name in results.adapters:
        called, number = compared_model_title(name, found), 2
        while called in names.values():
            called, number = f"{compared_model_title(name, found)} ({number})", number + 1
        names[name] = called
    return names


def choose_compared_models(evaluation: Evaluation, results: EvaluationResults, names: ModelNames) -> ComparedModels:
    """Draw the choice, where there is one, and what comes of it."""
    if len(results.adapters) == 1:
        return ComparedModels(results.adapters[0])
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        model = st.selectbox(
            "Show", list(results.adapters), format_func=lambda name: names[name], width=320,
            key=f"model_{evaluation.id}",
        ) or results.adapters[0]  # fmt: skip
        others = [name for name in results.models if name != model]
        reference = st.selectbox(
            "Against", others, format_func=lambda name: names[name], width=320, key=f"against_{evaluation.id}_{model}",
        ) or BASE  # fmt: skip
    if reference != BASE:
        _draw_verdict(results, ComparedModels(model, reference), names)
    return ComparedModels(model, reference)


def _draw_verdict(results: EvaluationResults, pair: ComparedModels, names: ModelNames) -> None:
    called = names[pair.reference]
    first, *rest = describe_comparison(results, pair.model, pair.reference, (called, called))
    _, icon, colour = VERDICT_LABELS[headline_verdict(results, pair.model, pair.reference)]
    with st.container(border=True):
        st.caption(f"{escape_text(names[pair.model])} against {escape_text(called)}, on the same rows")
        st.markdown(f"##### :{colour}[{icon}] {escape_text(first, 500)}")
        if rest:
            st.markdown(escape_text(" ".join(rest), 2_000))
