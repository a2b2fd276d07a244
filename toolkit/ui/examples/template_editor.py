"""The template editor: a text box that updates while the user types, and inserts columns at the caret.

`st.text_area` updates only when it loses the focus. `editor.js` draws the box; values are passed as data, never as
markup.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st
from streamlit.components.v2.types import ComponentRenderer

from toolkit.system.paths import STATIC

_HTML = '<div class="editor"><textarea spellcheck="false" rows="2"></textarea><div class="chips"></div></div>'


@st.cache_resource(show_spinner=False)
def _component() -> ComponentRenderer:
    return st.components.v2.component(
        "template_editor",
        html=_HTML,
        css=(STATIC / "editor.css").read_text(encoding="utf-8"),
        js=(STATIC / "editor.js").read_text(encoding="utf-8"),
    )


def template_editor(
    label: str, value: str, columns: Sequence[str], *, key: str, version: int, save: Callable[[str], None]
) -> None:
    """Draw the editor. save: is called with the whole text after a change.

    version: a number that grows when `value` is changed from outside; only then the editor replaces its text.
    """

    def changed() -> None:
        typed = st.session_state[key].get("value")
        if isinstance(typed, str):
            save(typed)

    _component()(
        key=key,
        data={
            "label": label,
            "value": value,
            "version": version,
            "columns": [name for name in columns if "{" not in name and "}" not in name][:100],
            "placeholder": "Type text and insert columns",
        },
        default={"value": value},
        on_value_change=changed,
    )
