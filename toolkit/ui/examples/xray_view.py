"""The loss X-ray on screen: a row's tokens as the trainer will see them. `xray.js` draws them; texts cross as data."""

from __future__ import annotations

from typing import Any

import streamlit as st
from streamlit.components.v2.types import ComponentRenderer

from toolkit.data.table import Table
from toolkit.system.paths import STATIC
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.workspace import warm_questions, workspace


@st.cache_resource(show_spinner=False)
def _component() -> ComponentRenderer:
    return st.components.v2.component(
        "xray",
        html='<div class="xray"></div>',
        css=(STATIC / "xray.css").read_text(encoding="utf-8"),
        js=(STATIC / "xray.js").read_text(encoding="utf-8"),
    )


def show_token_view(table: Table, row: int) -> bool:
    """The tokens of a row (0-based), or what is waited for; returns whether there is nothing to wait for any more."""
    st.markdown("**What the model is trained on, token by token**")
    body = {**warm_questions.token_question_body(workspace.current_draft(), table), "row": row}
    seen = warm_questions.ask_warm_question("xray", body)
    if not seen.is_final:
        warm_questions.wait_for_answer(seen, lambda: warm_questions.ask_warm_question("xray", body, wait=0.0), "xray")
    elif seen.state == "done":
        _show_tokens(seen.value, row)
    else:
        st.caption(f":material/visibility_off: {escape_text(seen.message, 500)} {escape_text(seen.hint, 500)}")
    return seen.is_final


def _show_tokens(value: dict[str, Any], row: int) -> None:
    if not value["usable"]:
        st.caption(":material/block: This row is left out: it lacks a cell that the templates use.")
        return
    _component()(key="xray", data={**value, "row": row + 1})
    for note in _token_notes(value):
        st.markdown(f":orange[:material/warning:] {note}")


def _token_notes(value: dict[str, Any]) -> list[str]:
    found = []
    if value["left_out"]:
        found.append(f"This row is left out: nothing to learn is left within {value['length']:,} tokens.")
    elif value["kept"] < value["total"]:
        cut = value["total"] - value["kept"]
        found.append(f"{cut:,} tokens are cut off at {value['length']:,}: raise **Max sequence length (tokens)** to keep them.")
    if value["merged"]:
        found.append("Prompt and completion share a token where they meet: end the prompt with a line break.")
    return found
