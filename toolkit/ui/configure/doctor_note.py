"""What the doctor says beside Start: findings that are open, and accepted ones. It warns and blocks nothing."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from toolkit.data.findings import Finding
from toolkit.ui.data.doctor_view import CHECKS_REFRESH_S
from toolkit.ui.elements import scroll
from toolkit.ui.elements.error_boundary import error_boundary
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.words import format_plural
from toolkit.ui.frame import page
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.checkup import read_checkup

SHOWN_FINDINGS = 4


def draw_data_checks_note(*, waits: bool = False) -> None:
    """A few lines in the panel of Start; nothing while the data or its templates can't be used.

    waits: a line beside it says already what the warm worker is waited for.
    """
    st.fragment(_draw_note, run_every=CHECKS_REFRESH_S)(waits)


def _draw_note(waits: bool) -> None:
    with error_boundary():
        table = workspace.current_table()
        look = read_checkup(table) if table is not None else None
        if look is None:
            return
        _draw_open_findings(look.findings)
        if look.seen:
            st.caption(f":material/visibility: Accepted in the data: {_list_findings(look.seen)}")
        if look.examined.error is not None:
            st.caption(":material/info: The data could not be checked. The Data page says why.")
        elif look.examined.over and look.counting and waits:
            return
        elif look.going:
            words = look.examined.progress[1] if not look.examined.over else look.counting
            st.caption(f":material/hourglass_top: The data is being checked: {escape_text(words)}")
        elif not look.findings and not look.seen:
            st.caption(":green[:material/check_circle:] The data was checked: nothing was found.")


def _draw_open_findings(now: Sequence[Finding]) -> None:
    if not now:
        return
    colour = "red" if now[0].weight == "serious" else "orange" if now[0].weight == "warning" else "gray"
    with st.container(gap=None):
        st.markdown(
            f":{colour}[:material/warning: **{format_plural(len(now), 'finding')} in the data**] {_list_findings(now)}"
        )
        if st.button("See and repair", type="tertiary", key="to_doctor", icon=":material/healing:"):
            scroll.request_scroll("doctor")
            page.go_to_page("data")


def _list_findings(found: Sequence[Finding]) -> str:
    words = [
        escape_text(f.title) + (f" ({format_plural(f.count, 'row')})" if f.count else "")
        for f in found[:SHOWN_FINDINGS]
    ]
    return ", ".join(words) + (f" and {len(found) - SHOWN_FINDINGS} more" if len(found) > SHOWN_FINDINGS else "") + "."
