"""The example of a row: a conversation with its trained messages, or the templates with their result."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from toolkit.config import DataConfig
from toolkit.data.chat_messages import Message
from toolkit.data.conversations import format_message
from toolkit.data.examples.column_suggestion import describe_unused_columns
from toolkit.data.examples.renderers import chat_problems, renderer_of
from toolkit.data.findings import Fix
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
"""Messages of a conversation that the page shows."""
ROLE_NAMES = {
    "system": "System",
    "user": "User",
    "assistant": "Assistant",
    "tool": "Tool result",
    "tools": "Available tools",
}
_TEMPLATES = ""


def show_examples(table: Table, apply_fix: Callable[[Fix], None]) -> None:
    """Show the templates with their example, or a row's conversation if the draft trains on conversations.

    apply_fix: makes a version of the data, for conversations that the chat template rejects.
    """
    if table.chats or workspace.current_setting("data.messages"):
        _choose_training_text(table)
    if workspace.current_setting("data.messages"):
        _show_conversation(table, apply_fix)
    else:
        show_prompt_workbench(table)


def _choose_training_text(table: Table) -> None:
    current = str(workspace.current_setting("data.messages") or _TEMPLATES)
    columns = list(dict.fromkeys([*table.chats, *([current] if current else [])]))
    several = len(columns) > 1
    labels = {name: f"Conversations in '{escape_text(name, 60)}'" if several else "Conversations" for name in columns}
    chosen = st.segmented_control(
        "Train on",
        [*columns, _TEMPLATES],
        default=current,
        required=True,
        key=f"learned_{workspace.draft_version()}",
        format_func=lambda name: labels.get(name, "Prompt and completion templates"),
    )
    if chosen is not None and chosen != current:
        workspace.choose_messages(chosen or None)
        st.rerun()


@st.fragment
def _show_conversation(table: Table, apply_fix: Callable[[Fix], None]) -> None:
    with error_boundary():
        data = DataConfig(messages=str(workspace.current_setting("data.messages")))
        for problem in chat_problems(data, table):
            show_problem(problem)
        if unused := describe_unused_columns(table, str(data.messages)):
            st.caption(f":material/info: {escape_text(unused, 500)}")
        index = row_picker(table.rows, "row")
        try:
            renderer = renderer_of(data, table.columns)
            row = table.row(index)
            messages = renderer.example(row).turns if renderer.usable(row) else None
        except DataError as error:
            st.caption(f":orange[:material/block:] This row can't be trained on: {escape_text(error, 500)}")
            return
        if messages is None:
            st.caption(":material/block: This row is skipped: it has no conversation.")
            return
        _show_messages(messages)
        if show_token_view(table, index):
            show_hard_stops(table, "row", apply_fix)


def _show_messages(messages: tuple[Message, ...]) -> None:
    for message in messages[:MAX_SHOWN_MESSAGES]:
        color = "green" if message.learned else "blue" if message.role == "user" else "gray"
        state = "trained" if message.learned else "masked"
        if message.role == "assistant" and not message.learned:
            state = "masked: marked as not trained"
        st.markdown(f":{color}-badge[{ROLE_NAMES[message.role]}] :gray[{state}]")
        text_block(format_message(message))
    if len(messages) > MAX_SHOWN_MESSAGES:
        st.caption(f"… and {len(messages) - MAX_SHOWN_MESSAGES:,} more messages.")
    st.caption(
        "The messages are formatted with the model's chat template. "
        "A model without a chat template can't be trained on conversations."
    )
