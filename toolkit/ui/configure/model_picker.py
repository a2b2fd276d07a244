"""The model picker: base models on this machine and suggestions of the Hub, with size, license and whether they fit."""

from __future__ import annotations

import os
from collections.abc import Sequence

import streamlit as st

from toolkit.config import Config
from toolkit.forecast.forecast import Scene
from toolkit.forecast.model_choices import ModelChoice, forecast_choice, list_local_models, list_suggested_models
from toolkit.forecast.scene import NoForecast
from toolkit.runs.run_dir import list_runs
from toolkit.system.machine import read_known_machine
from toolkit.system.printable import format_bytes
from toolkit.ui.configure.forecast_view import FIT_BADGES, shorten_number
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.decided_settings import decide_trial_settings
from toolkit.ui.workspace.review import DraftReview
from toolkit.ui.workspace.run_entries import read_run_entries

MODEL_PATH = "model.hf_model_ckpt"
MODEL_SECTIONS = ("basics", "model")
"""Sections of the form that have the base model and offer the picker."""
MAX_READ_RUNS = 50
"""The newest runs, whose models are listed if they are folders on this machine."""


def draw_model_picker(reviewed: DraftReview) -> None:
    """Draw the button that opens the picker."""
    if st.button("Choose a model", icon=":material/deployed_code:", key="choose_model"):
        _draw_dialog(reviewed)


@st.dialog("Choose a base model", width="medium", icon=":material/deployed_code:")
def _draw_dialog(reviewed: DraftReview) -> None:
    local = list_local_models(_known_names())
    run = _find_run(reviewed)
    st.markdown("**On this machine**")
    _draw_choices(local, run)
    suggested = list_suggested_models(local)
    if suggested:
        st.markdown("**Small instruct models on the Hugging Face Hub**")
        if _is_offline():
            st.caption(":material/cloud_off: HF_HUB_OFFLINE is set, so nothing can be downloaded.")
        _draw_choices(suggested, run)
    st.caption(
        "Any other model: type its Hub name, or the path of a folder, into the box **Base model**. "
        "The badge is the forecast for your dataset and the settings on this page."
    )


def _known_names() -> list[str]:
    """Return the models that the draft and the newest runs name."""
    entries, _ = read_run_entries(list_runs(workspace.current_save_dir())[:MAX_READ_RUNS])
    named = [entry.facts.config["model"]["hf_model_ckpt"] for entry in entries]
    return [str(name) for name in (workspace.current_setting(MODEL_PATH), *named) if name]


def _find_run(reviewed: DraftReview) -> tuple[Config, Scene] | None:
    """Return the draft's first run and the scene of its forecast; None while there is no forecast."""
    if not reviewed.trials:
        return None
    found = decide_trial_settings(reviewed.trials[0]).found
    return None if isinstance(found, NoForecast) else (reviewed.trials[0].config, found.scene)


def _draw_choices(choices: Sequence[ModelChoice], run: tuple[Config, Scene] | None) -> None:
    current = workspace.current_setting(MODEL_PATH)
    for choice in choices:
        with st.container(border=True):
            about, fit, use = st.columns([6, 3, 2], vertical_alignment="center")
            with about.container(gap=None):
                st.markdown(f"**{escape_text(choice.name.removeprefix('bundled:'))}**")
                st.caption(_describe_choice(choice))
            with fit:
                _draw_badge(choice, run)
            is_current = choice.name == current
            if use.button(
                "In use" if is_current else "Use",
                key=f"use_model:{choice.name}",
                width="stretch",
                disabled=is_current or (not choice.on_disk and _is_offline()),
                help=f"Use {escape_text(choice.name)} as the base model",
                on_click=workspace.replace_settings,
                args=({MODEL_PATH: choice.name},),
            ):
                st.rerun()  # the whole page, which closes the dialog


def _describe_choice(choice: ModelChoice) -> str:
    """Return the size, the license and what has to be done first, as one line."""
    size = format_bytes(choice.file_bytes)
    return " · ".join(
        part
        for part in (
            f"{shorten_number(choice.shape.parameters)} parameters" if choice.shape else "",
            size if choice.on_disk else f"download of {size}",
            escape_text(choice.license) if choice.license else "license: see its model card",
            "accept the license on huggingface.co and set HF_TOKEN first" if choice.gated else "",
        )
        if part
    )


def _draw_badge(choice: ModelChoice, run: tuple[Config, Scene] | None) -> None:
    folder = workspace.current_save_dir()
    found = forecast_choice(choice, *run, read_known_machine(folder), folder) if run else None
    if found is None:
        st.badge("No forecast", icon=":material/help:", color="gray")
        return
    label, icon, color = FIT_BADGES[found.fit]
    st.badge(f"{label}: {format_bytes(found.memory.peak)}", icon=icon, color=color)  # type: ignore[arg-type]


def _is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE") == "1"
