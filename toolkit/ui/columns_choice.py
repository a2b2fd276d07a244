"""Who answers in the playground, and with which settings: two to four columns on one loaded base model.

The settings are the form's for all columns, or a column's own: a preset, or a copy pinned from the form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from toolkit import client
from toolkit.config import InferenceConfig
from toolkit.errors import ToolkitError
from toolkit.runs.rundir import RunDir, read_config
from toolkit.ui import state
from toolkit.ui.plain import plain
from toolkit.ui.run_table import Entry

MOST_COLUMNS = 4
PRESETS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "greedy": (":material/straight:", {"do_sample": False}),
    "balanced": (":material/balance:", {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 50}),
    "creative": (":material/auto_awesome:", {"do_sample": True, "temperature": 1.1, "top_p": 0.95, "top_k": 0}),
}
SHARED, PINNED = "shared", "pinned"
WAYS = {SHARED: "As in the form", **{name: name.capitalize() for name in PRESETS}, PINNED: "Pinned"}


@dataclass(frozen=True)
class Column:
    """One answerer. model: a run id or client.BASE. inference: None while its settings are wrong."""

    model: str
    title: str
    inference: InferenceConfig | None
    way: str = SHARED


@st.cache_data(show_spinner=False, max_entries=1000)
def _base(folder: str) -> str:
    """What two runs share when one loaded base serves both; "" for settings that can't be read."""
    try:
        return client.base_key(read_config(RunDir(Path(folder))))
    except ToolkitError:
        return ""


def choose_columns(entry: Entry, found: Sequence[Entry], shared: InferenceConfig | None) -> list[Column]:
    """Draw the choice of who answers beside the run; returns the columns, the run's own first."""
    mine = _base(str(entry.run.path))
    others = {e.run.id: e.label for e in found if e.run.id != entry.run.id and _base(str(e.run.path)) == mine}
    names = {client.BASE: "Base model", **others}
    key = f"beside:{entry.run.id}"
    st.session_state.setdefault(key, [client.BASE])
    st.session_state[key] = [model for model in st.session_state[key] if model in names]  # a run may be gone
    beside = st.multiselect(
        "Beside this run", list(names), format_func=lambda model: names[model], max_selections=MOST_COLUMNS - 1,
        key=key, persist_state="session", placeholder="Nobody: this run alone",
        help="The base model, and other runs of the same base: all on one loaded model, with the same prompt and seed.",
    )  # fmt: skip
    own = st.toggle("Settings for each column", key="own_settings", persist_state="session",
                    help="Otherwise all columns use the form below.")  # fmt: skip
    titles = {entry.run.id: "This run", **names}
    return [_column(model, titles[model], shared, own=own) for model in (entry.run.id, *beside)]


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
        state.set_value(f"inference.{name}", value)
