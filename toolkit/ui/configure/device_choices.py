"""What was chosen for this machine, and why, below the settings that may change it. Draws what `choices.py` tells."""

from __future__ import annotations

import streamlit as st

from toolkit.forecast.scene import place_on
from toolkit.settings.ablation import Variant
from toolkit.settings.device_defaults import told
from toolkit.system.machine import Machine, training_cores
from toolkit.ui.elements.escape import plain
from toolkit.ui.workspace.decided_settings import settled


def panel(variant: Variant, machine: Machine | None) -> None:
    """One line a choice. What the user has set is not listed: it is what they said."""
    config = variant.config
    lines = told(config, place_on(config, machine), training_cores(), settled(variant).told)
    where = "this machine" if machine is None else machine.words
    with st.container(border=True, gap="xsmall"):
        st.markdown(f"**Chosen for {plain(where)}**")
        for line in lines:
            st.markdown(f":small[{plain(line.what)} :gray[· {plain(line.why, 300)}]]")
