"""Reading options of a file that can be read in more than one way, each with a preview.

The previews come from the process that read the file; nothing is decoded or parsed here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st

from toolkit.data.read_options import DEFAULT_READ_OPTIONS, READ_OPTION_NAMES, Offer, ReadOptions
from toolkit.data.table import Table
from toolkit.settings import form_layout
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.lasting_button import lasting_button
from toolkit.ui.examples.prompt_view import text_block
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.current_dataset import suggest_cached_columns

OptionsCallback = Callable[[ReadOptions], None]


def offer_read_options(offers: Sequence[Offer], on_choice: OptionsCallback) -> None:
    """Draw the options with which a file that could not be read as it is can be read."""
    if offers:
        with st.container(border=True):
            st.markdown(":material/help: **Choose how to read this file**")
            _choose_offer(offers, on_choice, "way_out")


def show_doubtful_reading(table: Table, on_choice: OptionsCallback) -> None:
    """Draw both readings of a file side by side where another one may be right, until the user has chosen."""
    for number, offer in enumerate(offer for offer in table.offers if offer.doubt):
        with st.container(border=True, gap="xsmall", key=f"doubt_{number}"):
            st.markdown(f":material/help: **{escape_text(offer.doubt, 400)}**")
            now, other = st.columns(2)
            with now:
                st.caption("As it was read")
                text_block("\n".join(offer.current))
                if lasting_button("Keep this reading", key=f"doubt_keep_{number}", type="tertiary"):
                    on_choice(offer.keep)
            with other:
                st.caption(escape_text(offer.label))
                text_block("\n".join(offer.preview))
                if lasting_button("Read it this way", key=f"doubt_take_{number}", icon=":material/check:"):
                    on_choice(offer.options)


def asked_readings(table: Table) -> list[Offer]:
    """Return the ways to read rows that are messages, among which the user has yet to choose."""
    found = [offer for offer in table.offers if offer.options.answered_by or offer.options.join_messages]
    is_open = not workspace.current_setting("data.prompt_stub") and suggest_cached_columns(table).kind == "ask"
    return found if is_open else []


def ask_who_answers(table: Table, on_choice: OptionsCallback) -> None:
    """Draw a button for each person whose messages may be the answers, with the first turns read this way."""
    offers = asked_readings(table)
    if not offers:
        return
    with st.container(border=True, gap="xsmall", key="who_answers"):
        if offers[0].options.answered_by:
            st.markdown(":material/help: **Who answers?** The model learns to write this person's messages.")
        else:
            st.markdown(":material/help: **Each row is a single message.** To train on conversations, join them.")
        grid = st.grid(min_column_width=260) if len(offers) > 1 else None
        for number, offer in enumerate(offers):
            with grid.cell() if grid is not None else st.container():
                text_block("\n".join(offer.preview))
                if lasting_button(escape_text(offer.label, 120), key=f"answers_{number}", icon=":material/check:"):
                    on_choice(offer.options)


def show_other_read_options(table: Table, on_choice: OptionsCallback) -> None:
    """Draw the options with which a table was read, and the other possible ones."""
    chosen = {name: workspace.current_setting(f"data.{name}") for name in READ_OPTION_NAMES}
    chosen = {name: value for name, value in chosen.items() if value}
    asked = asked_readings(table)
    others = [offer for offer in table.offers if not offer.doubt and offer not in asked]
    if not chosen and not others:
        return
    with st.expander("Reading options", icon=":material/tune:"):
        if chosen:
            options = ", ".join(
                f"{form_layout.get_field_layout(f'data.{name}').label}: {_option_label(name, v)}"
                for name, v in chosen.items()
            )
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(f"Chosen: {escape_text(options, 500)}", width="content")
                label = "Reset to automatic detection"
                if lasting_button(label, key="reset_reading", icon=":material/undo:", type="tertiary"):
                    on_choice(DEFAULT_READ_OPTIONS)
        if others:
            _choose_offer(others, on_choice, "other_way")


def _choose_offer(offers: Sequence[Offer], on_choice: OptionsCallback, key: str) -> None:
    labels = [escape_text(offer.label) for offer in offers]
    if len(offers) > 1:
        chosen = st.radio(
            "Reading option",
            range(len(offers)),
            format_func=labels.__getitem__,
            key=f"{key}_{len(offers)}",
            label_visibility="collapsed",
        )
    else:
        chosen = 0
        st.markdown(labels[0])
    offer = offers[chosen or 0]
    if offer.preview:
        st.caption("Preview")
        text_block("\n".join(offer.preview))
    if lasting_button("Apply", key=f"{key}_take", icon=":material/check:"):
        on_choice(offer.options)


def _option_label(name: str, value: object) -> str:
    labels = {"\t": "tab", "True": "on", **form_layout.get_field_layout(f"data.{name}").words}
    return labels.get(str(value), str(value))
