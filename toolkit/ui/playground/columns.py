"""Who answers in the playground, and with which settings: two to four columns on one loaded base model.

The settings are the form's for all columns, or a column's own: a preset, or a copy pinned from the form.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from toolkit.config import InferenceConfig
from toolkit.runs.model_names import BASE
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.comparable_models import list_comparable_models
from toolkit.ui.workspace.run_entries import RunEntry

MAX_ANSWER_COLUMNS = 4
COLUMNS_PARAMETER = "beside"
"""The parameter of the address that names the columns beside the run."""
GENERATION_PRESETS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "greedy": (":material/straight:", {"do_sample": False}),
    "balanced": (":material/balance:", {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 50}),
    "creative": (":material/auto_awesome:", {"do_sample": True, "temperature": 1.1, "top_p": 0.95, "top_k": 0}),
}
SHARED_SETTINGS, PINNED_SETTINGS = "shared", "pinned"
COLUMN_SETTINGS_LABELS = {
    SHARED_SETTINGS: "As in the form",
    **{name: name.capitalize() for name in GENERATION_PRESETS},
    PINNED_SETTINGS: "Pinned",
}


@dataclass(frozen=True)
class AnswerColumn:
    """One answerer. model: a name (`answerers.py`) or client.BASE. inference: None while its settings are wrong."""

    model: str
    title: str
    inference: InferenceConfig | None
    way: str = SHARED_SETTINGS


def choose_columns(entry: RunEntry, found: Sequence[RunEntry], shared: InferenceConfig | None) -> list[AnswerColumn]:
    """Draw the choice of who answers beside the run; returns the columns, the run's own first.

    found: all runs. The choice rides in the address bar, so that a link or a refresh shows the same columns.
    """
    names = {BASE: "Base model", **list_comparable_models(entry, found)}
    key = f"beside:{entry.run.id}"
    st.session_state.setdefault(key, _columns_in_url(names))
    st.session_state[key] = [model for model in st.session_state[key] if model in names]  # a run may be gone
    chosen = st.multiselect(
        "Beside this run", list(names), format_func=lambda model: names[model], max_selections=MAX_ANSWER_COLUMNS - 1,
        key=key, persist_state="session", placeholder="Nobody: this run alone",
        help="The base model, kept checkpoints, and other runs of the same base: all on one loaded model, with the "
        "same prompt and seed.",
    )  # fmt: skip
    _write_columns_to_url(chosen)
    own = st.toggle("Settings for each column", key="own_settings", persist_state="session",
                    help="Otherwise all columns use the form below.")  # fmt: skip
    titles = {entry.run.id: "This run", **names}
    return [_choose_column_settings(model, titles[model], shared, own=own) for model in (entry.run.id, *chosen)]


def _columns_in_url(names: Collection[str]) -> list[str]:
    """The models that the address names, as far as they are there; the base model where it names none."""
    given = st.query_params.get(COLUMNS_PARAMETER)
    if given is None:
        return [BASE]
    return [name for name in given.split(",") if name in names][: MAX_ANSWER_COLUMNS - 1]


def _write_columns_to_url(chosen: Sequence[str]) -> None:
    wanted = ",".join(chosen)
    if wanted != st.query_params.get(COLUMNS_PARAMETER, BASE):
        st.query_params[COLUMNS_PARAMETER] = wanted


def _choose_column_settings(model: str, title: str, shared: InferenceConfig | None, *, own: bool) -> AnswerColumn:
    if not own:
        return AnswerColumn(model, title, shared)
    pinned: dict[str, dict[str, Any]] = st.session_state.setdefault("pinned_settings", {})
    ways = [way for way in COLUMN_SETTINGS_LABELS if way != PINNED_SETTINGS or model in pinned]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="xxsmall"):
        way = st.selectbox(escape_text(title, 40), ways, format_func=COLUMN_SETTINGS_LABELS.__getitem__, key=f"way:{model}",
                           persist_state="session") or SHARED_SETTINGS  # fmt: skip
        st.button("", icon=":material/keep:", key=f"pin:{model}", type="tertiary", disabled=shared is None,
                  help="Keep what the form holds for this column.", on_click=_pin_settings, args=(model, shared))  # fmt: skip
    return AnswerColumn(model, title, resolve_column_settings(way, shared, pinned.get(model)), way)


def _pin_settings(model: str, shared: InferenceConfig | None) -> None:
    if shared is not None:
        st.session_state["pinned_settings"][model] = shared.model_dump()
        st.session_state[f"way:{model}"] = PINNED_SETTINGS


def resolve_column_settings(
    way: str, shared: InferenceConfig | None, pinned: Mapping[str, Any] | None
) -> InferenceConfig | None:
    """A preset changes how a token is chosen; length and cache stay the form's."""
    if way == PINNED_SETTINGS and pinned is not None:
        return InferenceConfig.model_validate(pinned)
    if shared is None or way not in GENERATION_PRESETS:
        return shared
    return InferenceConfig.model_validate({**shared.model_dump(), **_neutral_cutoffs(), **GENERATION_PRESETS[way][1]})


def _neutral_cutoffs() -> dict[str, Any]:
    return {"epsilon_cutoff": 0.0, "eta_cutoff": 0.0}


def draw_generation_presets() -> None:
    """Greedy, balanced, creative: one click puts each into the form."""
    with st.container(horizontal=True, gap="xxsmall"):
        for name, (icon, values) in GENERATION_PRESETS.items():
            st.button(name.capitalize(), icon=icon, key=f"preset:{name}", on_click=_apply_preset, args=(values,),
                      type="tertiary")  # fmt: skip


def _apply_preset(values: Mapping[str, Any]) -> None:
    for name, value in {**_neutral_cutoffs(), **values}.items():
        workspace.set_setting(f"inference.{name}", value)
