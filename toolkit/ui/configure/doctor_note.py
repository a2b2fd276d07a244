"""What the doctor says beside Start: findings that are open, and accepted ones. It warns and blocks nothing."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from toolkit.data.findings import Finding
from toolkit.ui.data.doctor_view import PERIOD_S
from toolkit.ui.elements import scroll
from toolkit.ui.elements.error_boundary import boundary
from toolkit.ui.elements.escape import plain
from toolkit.ui.elements.words import plural
from toolkit.ui.frame import page
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.checkup import checkup

SHOWN = 4


def doctor_note(*, waits: bool = False) -> None:
    """A few lines in the panel of Start; nothing while the data or its templates can't be used.

    waits: a line beside it says already what the warm worker is waited for.
    """
    st.fragment(_note, run_every=PERIOD_S)(waits)


def _note(waits: bool) -> None:
    with boundary():
        table = workspace.table()
        look = checkup(table) if table is not None else None
        if look is None:
            return
        _open(look.findings)
        if look.seen:
            st.caption(f":material/visibility: Accepted in the data: {_listed(look.seen)}")
        if look.examined.error is not None:
            st.caption(":material/info: The data could not be checked. The Data page says why.")
        elif look.examined.over and look.counting and waits:
            return
        elif look.going:
            words = look.examined.progress[1] if not look.examined.over else look.counting
            st.caption(f":material/hourglass_top: The data is being checked: {plain(words)}")
        elif not look.findings and not look.seen:
            st.caption(":green[:material/check_circle:] The data was checked: nothing was found.")


def _open(now: Sequence[Finding]) -> None:
    if not now:
        return
    colour = "red" if now[0].weight == "serious" else "orange" if now[0].weight == "warning" else "gray"
    with st.container(gap=None):
        st.markdown(f":{colour}[:material/warning: **{plural(len(now), 'finding')} in the data**] {_listed(now)}")
        if st.button("See and repair", type="tertiary", key="to_doctor", icon=":material/healing:"):
            scroll.ask("doctor")
            page.go("data")


def _listed(found: Sequence[Finding]) -> str:
    words = [plain(f.title) + (f" ({plural(f.count, 'row')})" if f.count else "") for f in found[:SHOWN]]
    return ", ".join(words) + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "") + "."
