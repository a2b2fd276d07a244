"""Which two models of an evaluation are held against each other below the verdicts, and that comparison in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from toolkit.evaluation.evaluation_dir import Evaluation
from toolkit.evaluation.statistics.results import Results
from toolkit.evaluation.statistics.verdict import sentences
from toolkit.runs.model_names import BASE
from toolkit.ui.elements.escape import plain
from toolkit.ui.elements.words import VERDICTS
from toolkit.ui.evaluate.figures import Names, headline
from toolkit.ui.workspace.comparable_models import title
from toolkit.ui.workspace.run_entries import Entry


@dataclass(frozen=True)
class Pair:
    """The rows and differences on screen are those of `model` against `reference`."""

    model: str
    reference: str = BASE


def names_of(results: Results, found: Sequence[Entry]) -> dict[str, str]:
    """Model -> what people call it, no two alike."""
    if len(results.adapters) == 1:
        return {BASE: "Base model", results.adapters[0]: "Adapter"}
    names = {BASE: "Base model"}
    for name in results.adapters:
        called, number = title(name, found), 2
        while called in names.values():
            called, number = f"{title(name, found)} ({number})", number + 1
        names[name] = called
    return names


def choose_pair(evaluation: Evaluation, results: Results, names: Names) -> Pair:
    """Draw the choice, where there is one, and what comes of it."""
    if len(results.adapters) == 1:
        return Pair(results.adapters[0])
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
        _verdict(results, Pair(model, reference), names)
    return Pair(model, reference)


def _verdict(results: Results, pair: Pair, names: Names) -> None:
    called = names[pair.reference]
    first, *rest = sentences(results, pair.model, pair.reference, (called, called))
    _, icon, colour = VERDICTS[headline(results, pair.model, pair.reference)]
    with st.container(border=True):
        st.caption(f"{plain(names[pair.model])} against {plain(called)}, on the same rows")
        st.markdown(f"##### :{colour}[{icon}] {plain(first, 500)}")
        if rest:
            st.markdown(plain(" ".join(rest), 2_000))
