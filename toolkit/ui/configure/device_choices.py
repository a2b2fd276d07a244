"""The settings that are chosen automatically for this machine and model, with the reasons."""

from __future__ import annotations

import streamlit as st

from toolkit.forecast.base_model_files import find_chat_template
from toolkit.forecast.scene import device_for_run
from toolkit.runs.slots import count_slots
from toolkit.settings.ablation import StudyTrial
from toolkit.settings.device_defaults import ExplainedDefault, explain_defaults, explain_tf32
from toolkit.system.machine import Machine, training_cores
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.decided_settings import decide_trial_settings


def draw_device_choices(trial: StudyTrial, machine: Machine | None) -> None:
    """Draw one line for each automatic choice; settings that the user has set are not listed."""
    where = "this machine" if machine is None else machine.summary
    with st.container(border=True, gap="xsmall"):
        st.markdown(f"**Chosen automatically for {escape_text(where)}**")
        for line in _explain_choices(trial, machine):
            st.markdown(f":small[{escape_text(line.what)} :gray[· {escape_text(line.why, 300)}]]")


def describe_auto_values(trial: StudyTrial, machine: Machine | None) -> dict[str, str]:
    """Return what Auto stands for at present: path -> "fp32: works on any CPU", as a sentence."""
    lines = [*_explain_choices(trial, machine), explain_tf32(device_for_run(trial.config, machine))]
    chat = find_chat_template(trial.config)
    if chat is not None:
        why = "the tokenizer has a chat template" if chat else "the tokenizer has no chat template"
        lines.append(ExplainedDefault("data.use_chat_template", "On" if chat else "Off", why))
    return {line.path: f"Now {line.what[:1].lower()}{line.what[1:]}: {line.why}." for line in lines if line.path}


def _explain_choices(trial: StudyTrial, machine: Machine | None) -> tuple[ExplainedDefault, ...]:
    config, decided = trial.config, decide_trial_settings(trial)
    threads = max(1, training_cores() // count_slots(workspace.current_save_dir(), machine))
    return explain_defaults(config, device_for_run(config, machine), threads, decided.told)
