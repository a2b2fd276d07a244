"""Scroll to a part of the page: what a click has changed may be above the visible part."""

from __future__ import annotations

import streamlit as st
from streamlit.components.v2.types import ComponentRenderer

_JS = """
export default function (component) {
  const { to, turn } = component.data
  if (!turn || window.ftkScrolled === turn) return
  window.ftkScrolled = turn
  const scroll = (tries) => {
    const part = document.querySelector(".st-key-" + CSS.escape(to))
    if (!part) return tries && setTimeout(scroll, 100, tries - 1) // it may be drawn later than this
    part.style.scrollMarginTop = "5rem" // the menu floats above the page
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches
    part.scrollIntoView({ behavior: still ? "instant" : "smooth", block: "start" })
  }
  scroll(100)
}
"""
_REQUESTED = "scroll_to"


@st.cache_resource(show_spinner=False)
def _component() -> ComponentRenderer:
    return st.components.v2.component("scroll_to", js=_JS)


def request_scroll(key: str) -> None:
    """Scroll to the container with this key when the page runs next."""
    turn = int(st.session_state.get(_REQUESTED, ("", 0))[1]) + 1
    st.session_state[_REQUESTED] = (key, turn)


def scroll_if_requested() -> None:
    """Scroll if `request_scroll` was called; call it once at the end of the page."""
    key, turn = st.session_state.get(_REQUESTED, ("", 0))
    if turn:
        _component()(key="scroll", data={"to": key, "turn": turn})
