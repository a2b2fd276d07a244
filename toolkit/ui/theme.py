"""What the theme's options in `.streamlit/config.toml` can't say, as a style sheet of ours on every page."""

from __future__ import annotations

from pathlib import Path

import streamlit as st
from streamlit.components.v2.types import ComponentRenderer


@st.cache_resource(show_spinner=False)
def _sheet() -> ComponentRenderer:
    css = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
    return st.components.v2.component("theme", css=css, isolate_styles=False)


def theme() -> None:
    """Apply `theme.css` to this page."""
    _sheet()(key="theme")
