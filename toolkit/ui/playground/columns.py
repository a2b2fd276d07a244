"""The models that answer in the playground and their generation settings: up to four columns on one loaded base model.

The settings of the form apply to all columns, or each column has its own: a preset, or a copy pinned from the form.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from toolkit.config import InferenceConfig
from toolkit.runs.model_names import BASE
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.words import distinguish_labels
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.comparable_models import list_comparable_models
from toolkit.ui.workspace.run_entries import RunEntry

MAX_ANSWER_COLUMNS = 4
COLUMNS_PARAMETER = "beside"
"""The URL parameter with the models that are compared with the run, separated by commas."""
GENERATION_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "greedy": {"do_sample": False},
    "balanced": {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 50},
    "creative": {"do_sample": True, "temperature": 1.1, "top_p": 0.95, "top_k": 0},
}
SHARED_SETTINGS, PINNED_SETTINGS = "shared", "pinned"
COLUMN_SETTINGS_LABELS = {
    SHARED_SETTINGS: "Form settings",
    **{name: name.capitalize() for name in GENERATION_PRESETS},
    PINNED_SETTINGS: "Pinned",
}


@dataclass(frozen=True)
class AnswerColumn:
    """One model that answers.

    model: a run id, `<run id>@<step>` for a checkpoint, or BASE. inference: None while the settings are invalid.
    settings_source: where the settings come from, a key of COLUMN_SETTINGS_LABELS.
    """

    model: str
    title: str
    inference: InferenceConfig | None
    settings_source: str = SHARED_SETTINGS


def choose_columns(entry: RunEntry, all_runs: Sequence[RunEntry], shared: InferenceConfig | None) -> list[AnswerColumn]:
    """Draw the choice of models to compare with the run; return the columns, the run's own first.

    all_runs: also those without an adapter, because their checkpoints can answer. The choice is kept in the URL, so
    that a link or a refresh shows the same columns.
    """
    names = distinguish_labels({BASE: "Base model", **list_comparable_models(entry, all_runs)})
    key = f"beside:{entry.run.id}"
    st.session_state.setdefault(key, _columns_in_url(names))
    st.session_state[key] = [model for model in st.session_state[key] if model in names]  # a run may have been deleted
    chosen = st.multiselect(
        "Compare with",
        list(names),
        format_func=lambda model: names[model],
        max_selections=MAX_ANSWER_COLUMNS - 1,
        key=key,
        persist_state="session",
        placeholder="This run only",
        help="The base model, saved checkpoints, and other runs of the same base model. All use one loaded base model, "
        "the same prompt and the same seed.",
    )
    _write_columns_to_url(chosen)
    own = st.toggle(
        "Separate settings per column",
        key="own_settings",
        persist_state="session",
        help="If off, all columns use the generation settings below.",
    )
    titles = {entry.run.id: "This run", **names}
    return [_choose_column_settings(model, titles[model], shared, own=own) for model in (entry.run.id, *chosen)]


def _columns_in_url(names: Collection[str]) -> list[str]:
    """Return the models that the URL names, without unknown ones; the base model if it names none."""
    given = st.query_params.get(COLUMNS_PARAMETER)
    if given is None:
        return [BASE]
    return [name for name in given.split(",") if name in names][: MAX_ANSWER_COLUMNS - 1]


def _write_columns_to_url(chosen: Sequence[str]) -> None:
    value = ",".join(chosen)
    if value != st.query_params.get(COLUMNS_PARAMETER, BASE):
        st.query_params[COLUMNS_PARAMETER] = value


def _choose_column_settings(model: str, title: str, shared: InferenceConfig | None, *, own: bool) -> AnswerColumn:
    if not own:
        return AnswerColumn(model, title, shared)
    pinned: dict[str, dict[str, Any]] = st.session_state.setdefault("pinned_settings", {})
    sources = [source for source in COLUMN_SETTINGS_LABELS if source != PINNED_SETTINGS or model in pinned]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="xxsmall"):
        source = (
            st.selectbox(
                escape_text(title, 40),
                sources,
                format_func=COLUMN_SETTINGS_LABELS.__getitem__,
                key=f"way:{model}",
                persist_state="session",
            )
            or SHARED_SETTINGS
        )
        st.button(
            "",
            icon=":material/keep:",
            key=f"pin:{model}",
            type="tertiary",
            disabled=shared is None,
            help="Use the current form settings for this column.",
            on_click=_pin_settings,
            args=(model, shared),
        )
    return AnswerColumn(model, title, resolve_column_settings(source, shared, pinned.get(model)), source)


def _pin_settings(model: str, shared: InferenceConfig | None) -> None:
    if shared is not None:
        st.session_state["pinned_settings"][model] = shared.model_dump()
        st.session_state[f"way:{model}"] = PINNED_SETTINGS


def resolve_column_settings(
    source: str, shared: InferenceConfig | None, pinned: Mapping[str, Any] | None
) -> InferenceConfig | None:
    """Return the settings of a column. A preset changes only the sampling; length and cache come from the form."""
    if source == PINNED_SETTINGS and pinned is not None:
        return InferenceConfig.model_validate(pinned)
    if shared is None or source not in GENERATION_PRESETS:
        return shared
    return InferenceConfig.model_validate({**shared.model_dump(), **_neutral_cutoffs(), **GENERATION_PRESETS[source]})


def _neutral_cutoffs() -> dict[str, Any]:
    # a cutoff set by hand would change what a preset means
    return {"epsilon_cutoff": 0.0, "eta_cutoff": 0.0}


def draw_generation_presets() -> None:
    """Draw one button per preset; a click writes its values into the form. The active one is marked."""
    with st.container(horizontal=True, gap="xsmall"):
        for name, values in GENERATION_PRESETS.items():
            active = is_preset_active(values)
            st.button(
                name.capitalize(),
                icon=":material/check:" if active else None,
                key=f"preset:{name}",
                on_click=_apply_preset,
                args=(values,),
                help="These settings are in use." if active else None,
            )


def is_preset_active(values: Mapping[str, Any]) -> bool:
    """Return whether the form has the values of a preset."""
    wanted = values if values.get("do_sample") is False else {**_neutral_cutoffs(), **values}
    return all(workspace.current_setting(f"inference.{name}") == value for name, value in wanted.items())


def _apply_preset(values: Mapping[str, Any]) -> None:
    workspace.replace_settings({f"inference.{name}": value for name, value in {**_neutral_cutoffs(), **values}.items()})
