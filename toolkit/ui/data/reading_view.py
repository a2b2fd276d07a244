"""How a file is read, where there is more than one way: the choices with a preview of each, and what was chosen.

The previews were made by the process that read the file; nothing is decoded or parsed here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st

from toolkit.data.read_options import DEFAULT_READ_OPTIONS, READ_OPTION_NAMES, Offer, ReadOptions
from toolkit.data.table import Table
from toolkit.settings import form_layout
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.examples.prompt_view import text_block
from toolkit.ui.workspace import workspace

TakeOptions = Callable[[ReadOptions], None]


def offer_read_options(offers: Sequence[Offer], take: TakeOptions) -> None:
    """The ways in which a file that was refused can be read: choose one, see it, take it."""
    if offers:
        with st.container(border=True):
            st.markdown(":material/help: **It can be read once you choose how**")
            _choose_offer(offers, take, "way_out")


def show_other_read_options(table: Table, take: TakeOptions) -> None:
    """For a table that was read: what was chosen for it, and what else could have been."""
    chosen = {name: workspace.current_setting(f"data.{name}") for name in READ_OPTION_NAMES}
    chosen = {name: value for name, value in chosen.items() if value}
    if not chosen and not table.offers:
        return
    with st.expander("Read it another way", icon=":material/tune:"):
        if chosen:
            said = ", ".join(
                f"{form_layout.get_field_layout(f'data.{name}').label}: {_option_label(name, v)}"
                for name, v in chosen.items()
            )
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(f"Chosen: {escape_text(said, 500)}", width="content")
                if st.button("Forget these choices", icon=":material/undo:", type="tertiary"):
                    take(DEFAULT_READ_OPTIONS)
        if table.offers:
            _choose_offer(table.offers, take, "other_way")


def _choose_offer(offers: Sequence[Offer], take: TakeOptions, key: str) -> None:
    labels = [escape_text(offer.label) for offer in offers]
    if len(offers) > 1:
        at = st.radio("How", range(len(offers)), format_func=labels.__getitem__, key=f"{key}_{len(offers)}",
                      label_visibility="collapsed")  # fmt: skip
    else:
        at = 0
        st.markdown(labels[0])
    offer = offers[at or 0]
    if offer.preview:
        st.caption("Then these lines say:")
        text_block("\n".join(offer.preview))
    if st.button("Read it this way", key=f"{key}_take", icon=":material/check:"):
        take(offer.options)


def _option_label(name: str, value: object) -> str:
    words = {"\t": "tab", "True": "on", **form_layout.get_field_layout(f"data.{name}").words}
    return words.get(str(value), str(value))
