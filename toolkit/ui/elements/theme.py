"""What the theme options in `.streamlit/config.toml` do not cover: a style sheet, and a script for the keyboard."""

from __future__ import annotations

import streamlit as st
from streamlit.components.v2.types import ComponentRenderer

from toolkit.system.paths import STATIC


@st.cache_resource(show_spinner=False)
def _style_sheet() -> ComponentRenderer:
    css = (STATIC / "theme.css").read_text(encoding="utf-8")
    return st.components.v2.component("theme", css=css, isolate_styles=False)


@st.cache_resource(show_spinner=False)
def _keyboard_script() -> ComponentRenderer:
    return st.components.v2.component("keyboard", js=(STATIC / "keyboard.js").read_text(encoding="utf-8"))


def apply_theme() -> None:
    """Apply `theme.css` and `keyboard.js` to this page."""
    _style_sheet()(key="theme")
    _keyboard_script()(key="keyboard")
