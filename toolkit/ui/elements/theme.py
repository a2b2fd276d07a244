"""The style sheet for what the theme options in `.streamlit/config.toml` do not cover."""

from __future__ import annotations

import streamlit as st
from streamlit.components.v2.types import ComponentRenderer

from toolkit.system.paths import STATIC


@st.cache_resource(show_spinner=False)
def _style_sheet() -> ComponentRenderer:
    css = (STATIC / "theme.css").read_text(encoding="utf-8")
    return st.components.v2.component("theme", css=css, isolate_styles=False)


def apply_theme() -> None:
    """Apply `theme.css` to this page."""
    _style_sheet()(key="theme")
