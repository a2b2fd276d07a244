"""What was chosen for this machine, and why, below the settings that may change it. Draws what `choices.py` tells."""

from __future__ import annotations

import streamlit as st

from toolkit.forecast.scene import device_for_run
from toolkit.settings.ablation import StudyTrial
from toolkit.settings.device_defaults import explain_defaults
from toolkit.system.machine import Machine, training_cores
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.workspace.decided_settings import decide_trial_settings


def draw_device_choices(variant: StudyTrial, machine: Machine | None) -> None:
    """One line a choice. What the user has set is not listed: it is what they said."""
    config = variant.config
    lines = explain_defaults(
        config, device_for_run(config, machine), training_cores(), decide_trial_settings(variant).told
    )
    where = "this machine" if machine is None else machine.words
    with st.container(border=True, gap="xsmall"):
        st.markdown(f"**Chosen for {escape_text(where)}**")
        for line in lines:
            st.markdown(f":small[{escape_text(line.what)} :gray[· {escape_text(line.why, 300)}]]")
