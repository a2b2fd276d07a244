"""The settings that were chosen automatically for this machine, with the reasons."""

from __future__ import annotations

import streamlit as st

from toolkit.forecast.scene import device_for_run
from toolkit.settings.ablation import StudyTrial
from toolkit.settings.device_defaults import explain_defaults
from toolkit.system.machine import Machine, training_cores
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.workspace.decided_settings import decide_trial_settings


def draw_device_choices(trial: StudyTrial, machine: Machine | None) -> None:
    """Draw one line for each automatic choice; settings that the user has set are not listed."""
    config = trial.config
    lines = explain_defaults(
        config, device_for_run(config, machine), training_cores(), decide_trial_settings(trial).told
    )
    where = "this machine" if machine is None else machine.summary
    with st.container(border=True, gap="xsmall"):
        st.markdown(f"**Chosen automatically for {escape_text(where)}**")
        for line in lines:
            st.markdown(f":small[{escape_text(line.what)} :gray[· {escape_text(line.why, 300)}]]")
