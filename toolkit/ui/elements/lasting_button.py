"""A button whose press is not lost when the script is interrupted."""

from __future__ import annotations

import time
from typing import Any

import streamlit as st

PRESS_EXPIRY_SECONDS = 10.0
"""What a press was meant for may be gone when the button is drawn again later."""


def lasting_button(label: str, *, key: str, **options: Any) -> bool:
    """Draw a button and return whether it was pressed.

    `st.button` forgets a press if another rerun, such as a timer's, interrupts the script before it gets here; this one
    remembers it for the next run. options: of `st.button`.
    """
    st.button(label, key=key, on_click=_note_press, args=(key, label), **options)
    pressed, at = st.session_state.pop(f"pressed:{key}", ("", 0.0))
    return bool(pressed == label and time.monotonic() - at < PRESS_EXPIRY_SECONDS)


def _note_press(key: str, label: str) -> None:
    st.session_state[f"pressed:{key}"] = (label, time.monotonic())
