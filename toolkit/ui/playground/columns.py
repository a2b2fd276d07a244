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
from toolkit.ui.elements.escape import plain
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.comparable_models import beside
from toolkit.ui.workspace.run_entries import Entry

MOST_COLUMNS = 4
ADDRESS = "beside"
"""The parameter of the address that names the columns beside the run."""
PRESETS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "greedy": (":material/straight:", {"do_sample": False}),
    "balanced": (":material/balance:", {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 50}),
    "creative": (":material/auto_awesome:", {"do_sample": True, "temperature": 1.1, "top_p": 0.95, "top_k": 0}),
}
SHARED, PINNED = "shared", "pinned"
WAYS = {SHARED: "As in the form", **{name: name.capitalize() for name in PRESETS}, PINNED: "Pinned"}


@dataclass(frozen=True)
class Column:
    """One answerer. model: a name (`answerers.py`) or client.BASE. inference: None while its settings are wrong."""

    model: str
    title: str
    inference: InferenceConfig | None
    way: str = SHARED


def choose_columns(entry: Entry, found: Sequence[Entry], shared: InferenceConfig | None) -> list[Column]:
    """Draw the choice of who answers beside the run; returns the columns, the run's own first.

    found: all runs. The choice rides in the address bar, so that a link or a refresh shows the same columns.
    """
    names = {BASE: "Base model", **beside(entry, found)}
    key = f"beside:{entry.run.id}"
    st.session_state.setdefault(key, _in_address(names))
    st.session_state[key] = [model for model in st.session_state[key] if model in names]  # a run may be gone
    chosen = st.multiselect(
        "Beside this run", list(names), format_func=lambda model: names[model], max_selections=MOST_COLUMNS - 1,
        key=key, persist_state="session", placeholder="Nobody: this run alone",
        help="The base model, kept checkpoints, and other runs of the same base: all on one loaded model, with the "
        "same prompt and seed.",
    )  # fmt: skip
    _to_address(chosen)
    own = st.toggle("Settings for each column", key="own_settings", persist_state="session",
                    help="Otherwise all columns use the form below.")  # fmt: skip
    titles = {entry.run.id: "This run", **names}
    return [_column(model, titles[model], shared, own=own) for model in (entry.run.id, *chosen)]


def _in_address(names: Collection[str]) -> list[str]:
    """The models that the address names, as far as they are there; the base model where it names none."""
    given = st.query_params.get(ADDRESS)
    if given is None:
        return [BASE]
    return [name for name in given.split(",") if name in names][: MOST_COLUMNS - 1]


def _to_address(chosen: Sequence[str]) -> None:
    wanted = ",".join(chosen)
    if wanted != st.query_params.get(ADDRESS, BASE):
        st.query_params[ADDRESS] = wanted


def _column(model: str, title: str, shared: InferenceConfig | None, *, own: bool) -> Column:
    if not own:
        return Column(model, title, shared)
    pinned: dict[str, dict[str, Any]] = st.session_state.setdefault("pinned_settings", {})
    ways = [way for way in WAYS if way != PINNED or model in pinned]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="xxsmall"):
        way = st.selectbox(plain(title, 40), ways, format_func=WAYS.__getitem__, key=f"way:{model}",
                           persist_state="session") or SHARED  # fmt: skip
        st.button("", icon=":material/keep:", key=f"pin:{model}", type="tertiary", disabled=shared is None,
                  help="Keep what the form holds for this column.", on_click=_pin, args=(model, shared))  # fmt: skip
    return Column(model, title, settings_of(way, shared, pinned.get(model)), way)


def _pin(model: str, shared: InferenceConfig | None) -> None:
    if shared is not None:
        st.session_state["pinned_settings"][model] = shared.model_dump()
        st.session_state[f"way:{model}"] = PINNED


def settings_of(way: str, shared: InferenceConfig | None, pinned: Mapping[str, Any] | None) -> InferenceConfig | None:
    """A preset changes how a token is chosen; length and cache stay the form's."""
    if way == PINNED and pinned is not None:
        return InferenceConfig.model_validate(pinned)
    if shared is None or way not in PRESETS:
        return shared
    return InferenceConfig.model_validate({**shared.model_dump(), **_neutral(), **PRESETS[way][1]})


def _neutral() -> dict[str, Any]:
    return {"epsilon_cutoff": 0.0, "eta_cutoff": 0.0}


def preset_buttons() -> None:
    """Greedy, balanced, creative: one click puts each into the form."""
    with st.container(horizontal=True, gap="xxsmall"):
        for name, (icon, values) in PRESETS.items():
            st.button(name.capitalize(), icon=icon, key=f"preset:{name}", on_click=_take, args=(values,),
                      type="tertiary")  # fmt: skip


def _take(values: Mapping[str, Any]) -> None:
    for name, value in {**_neutral(), **values}.items():
        workspace.set_value(f"inference.{name}", value)
