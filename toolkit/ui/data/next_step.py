"""The end of the Data page: what is missing, and the summary at the bottom with the way to the next page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import streamlit as st

from toolkit.data.examples.renderers import chat_problems
from toolkit.data.examples.templates import template_problems
from toolkit.data.read_options import Offer
from toolkit.data.storage.background_open import StillOpeningError
from toolkit.data.table import Table
from toolkit.errors import DataError
from toolkit.system.printable import format_plural
from toolkit.ui.data.doctor_view import CHECKS_REFRESH_S, draw_findings_link
from toolkit.ui.data.reading_view import asked_readings
from toolkit.ui.data.split_view import count_split_rows, split_problems
from toolkit.ui.elements import scroll
from toolkit.ui.elements.error_boundary import error_boundary
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.frame import page
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.checkup import read_checkup
from toolkit.ui.workspace.current_dataset import config_with_data
from toolkit.ui.workspace.hard_stop_view import count_blocking_problems, has_failed_check

TEMPLATE_SECTION = "templates"
"""Key of the container of the page's second step."""
TEMPLATES_EMPTY = "Choose what to train on."


def data_missing(table: Table | None) -> list[str]:
    """Return what has to be corrected on the Data page; empty when it is complete."""
    if table is None:
        return [
            "Wait until the dataset is open."
            if isinstance(workspace.table_error(), StillOpeningError)
            else "Choose a dataset."
        ]
    config = config_with_data(workspace.current_draft()["data"])
    if config is None:
        return ["Correct the settings marked above."]
    if config.data.messages is None and not config.data.prompt and not config.data.prompt_stub:
        readings = asked_readings(table)
        return [_name_reading(readings[0]) if readings else TEMPLATES_EMPTY]
    problems = [
        *template_problems(config, table.columns, table.label),
        *chat_problems(config.data, table),
        *split_problems(table, config),
    ]
    sentences = {
        "data.prompt": "Correct the prompt template.",
        "data.prompt_stub": "Correct the completion template.",
        "data.messages": "Choose a column with valid conversations, or use templates.",
        "data.use_chat_template": "Turn on the chat template: conversations need it.",
    }
    errors = [problem for problem in problems if problem.severity == "error"]
    return list(dict.fromkeys(sentences.get(error.path, "Choose split sizes that fit the data.") for error in errors))


def _name_reading(offer: Offer) -> str:
    return "Choose who answers." if offer.options.answered_by else "Join the messages, or choose columns."


def draw_data_summary(table: Table | None, missing: Sequence[str], *, is_next: bool) -> None:
    """Draw how many rows are ready to train and the findings, at the bottom of the window, with the next step.

    missing: of `data_missing`. is_next: whether Configure is the page's main action.
    """
    with (
        st.bottom,
        st.container(
            horizontal=True, vertical_alignment="center", horizontal_alignment="distribute", key="data_summary"
        ),
    ):
        if table is not None:
            st.fragment(_draw_counts, run_every=CHECKS_REFRESH_S)(table, tuple(missing))
        else:
            st.caption(f":material/pending: {escape_text(' '.join(missing), 500)}", width="content")
        kind: Literal["primary", "secondary"] = "primary" if is_next else "secondary"
        if st.button(
            "Configure the training",
            type=kind,
            icon=":material/arrow_forward:",
            icon_position="right",
            disabled=bool(missing),
            key="next_configure",
        ):
            page.go_to_page("configure")


def _draw_counts(table: Table, missing: tuple[str, ...]) -> None:
    with error_boundary(), st.container(horizontal=True, vertical_alignment="center", gap="small", width="content"):
        blocking = count_blocking_problems(table)
        if TEMPLATES_EMPTY in missing:
            st.markdown(":orange[:material/pending:] First:", width="content")
            if st.button(TEMPLATES_EMPTY.rstrip("."), key="go_to_templates", type="tertiary"):
                scroll.request_scroll(TEMPLATE_SECTION)
                st.rerun()
        elif missing:
            st.markdown(f":orange[:material/pending:] First: {escape_text(' '.join(missing), 500)}", width="content")
        elif blocking:
            problems = format_plural(blocking, "blocking problem")
            st.markdown(f":red[:material/front_hand: **{problems}**]", width="content")
        elif has_failed_check(table):
            st.markdown(":orange[:material/warning: **Rows not checked**]", width="content")
        else:
            train, test = _count_rows(table)
            ready = f"**{format_plural(train, 'row')} ready to train** · {format_plural(test, 'test row')}"
            st.markdown(f":green[:material/check_circle:] {ready}", width="content")
        draw_findings_link(table, read_checkup(table))


def _count_rows(table: Table) -> tuple[int, int]:
    config = config_with_data(workspace.current_draft()["data"])
    try:
        return count_split_rows(table, config) if config is not None else (0, 0)
    except DataError:  # the page names the problem
        return 0, 0
