"""The token view: a row's tokens as the trainer sees them, each trained, masked or truncated.

`xray.js` draws them; texts are passed as data, never as markup.
"""

from __future__ import annotations

from typing import Any

import streamlit as st
from streamlit.components.v2.types import ComponentRenderer

from toolkit.data.table import Table
from toolkit.services.token_question import token_question_body
from toolkit.settings.form_layout import name_setting
from toolkit.system.paths import STATIC
from toolkit.system.printable import format_plural
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
    """Show the tokens of a row (0-based) or the progress of the request; return whether the request is finished."""
    st.subheader("What the model is trained on, token by token", anchor=False)
    body = {**token_question_body(workspace.current_draft(), table), "row": row}
    question = warm_questions.ask_warm_question("xray", body)
    if not question.is_final:
        warm_questions.wait_for_answer(
            question, lambda: warm_questions.ask_warm_question("xray", body, wait=0.0), "xray"
        )
    elif question.state == "done":
        _show_tokens(question.value, row)
    else:
        st.caption(f":material/visibility_off: {escape_text(question.message, 500)} {escape_text(question.hint, 500)}")
    return question.is_final


def _show_tokens(value: dict[str, Any], row: int) -> None:
    if not value["usable"]:
        st.caption(":material/block: This row is skipped: a cell that the templates use is missing.")
        return
    _component()(key="xray", data={**value, "row": row + 1})
    for note in _token_notes(value):
        st.markdown(f":orange[:material/warning:] {note}")


def _token_notes(value: dict[str, Any]) -> list[str]:
    notes = []
    if value["left_out"]:
        notes.append(f"This row is skipped: none of its first {value['length']:,} tokens is trained.")
    elif value["kept"] < value["total"]:
        truncated = format_plural(value["total"] - value["kept"], "token")
        notes.append(
            f"Truncated to {value['length']:,} tokens: {truncated} lost. Raise **{_length_label()}** to keep them."
        )
    if value.get("rewritten"):
        notes.append(
            "The chat template writes earlier answers otherwise once more messages follow: "
            f"{format_plural(value['rewritten'], 'answer')} of this row, masked here, "
            f"{'is' if value['rewritten'] == 1 else 'are'} trained in a sequence that ends after it."
        )
    if value["merged"]:
        notes.append("Prompt and completion share a token where they meet. End the prompt with a line break.")
    return notes


def _length_label() -> str:
    return name_setting("training.sft_args.max_seq_length")
