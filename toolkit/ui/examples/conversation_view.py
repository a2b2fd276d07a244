"""A row that is a conversation: its turns in order, and which of them the model learns to write."""

from __future__ import annotations

import streamlit as st

from toolkit.config import DataConfig
from toolkit.data.conversations import Message
from toolkit.data.examples.renderers import chat_problems, renderer_of
from toolkit.data.table import Table
from toolkit.errors import DataError
from toolkit.ui.elements.error_boundary import error_boundary
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.examples.prompt_view import row_picker, show_prompt_workbench, text_block
from toolkit.ui.examples.xray_view import show_token_view
from toolkit.ui.frame.page import show_problem
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.hard_stop_view import show_hard_stops

MAX_SHOWN_MESSAGES = 40
ROLE_NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}
_TEMPLATES = ""


def show_examples(table: Table) -> None:
    """The templates beside their example, or the row's conversation where the table has such and the user wants it."""
    if table.chats or workspace.current_setting("data.messages"):
        _choose_training_text(table)
    if workspace.current_setting("data.messages"):
        _show_conversation(table)
    else:
        show_prompt_workbench(table)


def _choose_training_text(table: Table) -> None:
    now = str(workspace.current_setting("data.messages") or _TEMPLATES)
    columns = list(dict.fromkeys([*table.chats, *([now] if now else [])]))
    several = len(columns) > 1
    names = {name: f"The conversations in '{name}'" if several else "The conversations" for name in columns}
    chosen = st.segmented_control(
        "What is learned", [*columns, _TEMPLATES], default=now, required=True, key=f"learned_{workspace.draft_version()}",
        format_func=lambda name: names.get(name, "One answer a row, by two templates"),
    )  # fmt: skip
    if chosen is not None and chosen != now:
        workspace.choose_messages(chosen or None)
        st.rerun()


@st.fragment
def _show_conversation(table: Table) -> None:
    with error_boundary():
        data = DataConfig(messages=str(workspace.current_setting("data.messages")))
        for problem in chat_problems(data, table):
            show_problem(problem)
        index = row_picker(table.rows, "row")
        try:
            renderer = renderer_of(data, table.columns)
            row = table.row(index)
            turns = renderer.example(row).turns if renderer.usable(row) else None
        except DataError as error:
            st.caption(f":orange[:material/block:] This row can't be trained on: {escape_text(error, 500)}")
            return
        if turns is None:
            st.caption(":material/block: This row is left out: it holds no conversation.")
            return
        _show_turns(turns)
        if show_token_view(table, index):
            show_hard_stops(table, "row")


def _show_turns(turns: tuple[Message, ...]) -> None:
    for turn in turns[:MAX_SHOWN_MESSAGES]:
        colour = "green" if turn.learned else "blue" if turn.role == "user" else "gray"
        words = "the model learns to write this" if turn.learned else "read, not learned"
        if turn.role == "assistant" and not turn.learned:
            words = "read, not learned: its weight is 0"
        st.markdown(f":{colour}-badge[{ROLE_NAMES[turn.role]}] :gray[{words}]")
        text_block(turn.content)
    if len(turns) > MAX_SHOWN_MESSAGES:
        st.caption(f"… and {len(turns) - MAX_SHOWN_MESSAGES:,} more turns.")
    st.caption("The model's own chat template is put around the turns; a model without one can't be trained on them.")
