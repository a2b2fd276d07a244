"""What the doctor says beside Start: findings that are open, and accepted ones. It warns and blocks nothing."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from toolkit.data import accepted
from toolkit.data.finding import Finding
from toolkit.ui import chrome, scroll, state
from toolkit.ui.doctor_view import PERIOD_S, report_of
from toolkit.ui.plain import plain
from toolkit.ui.words import plural

SHOWN = 4


def doctor_note() -> None:
    """A few lines in the panel of Start; nothing while the data or its templates can't be used."""
    st.fragment(_note, run_every=PERIOD_S if st.session_state.get("note_going", True) else None)()


def _note() -> None:
    with chrome.boundary():
        table = state.table()
        one = report_of(table) if table is not None else None
        going = one is not None and not one.over
        if going != st.session_state.get("note_going"):
            st.session_state["note_going"] = going
            st.rerun()
        if table is None or one is None:
            return
        if one.report is None:
            share, words = one.progress
            tail = f"{share:.0%}, {words}" if one.error is None else "it could not be checked"
            st.caption(f":material/stethoscope: The data: {plain(tail)}")
            return
        now, seen = accepted.divided(one.report, accepted.marks(table, state.save_dir()))
        _open(now)
        if seen:
            st.caption(f":material/visibility: Accepted in the data: {_listed(seen)}")
        if not now and not seen:
            st.caption(":green[:material/check_circle:] The data was checked: nothing was found.")


def _open(now: Sequence[Finding]) -> None:
    if not now:
        return
    colour = "red" if now[0].weight == "serious" else "orange" if now[0].weight == "warning" else "gray"
    with st.container(gap=None):
        st.markdown(f":{colour}[:material/warning: **{plural(len(now), 'finding')} in the data**] {_listed(now)}")
        if st.button("See and repair", type="tertiary", key="to_doctor", icon=":material/healing:"):
            scroll.ask("doctor")
            chrome.go("data")


def _listed(found: Sequence[Finding]) -> str:
    words = [plain(f.title) + (f" ({plural(f.count, 'row')})" if f.count else "") for f in found[:SHOWN]]
    return ", ".join(words) + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "") + "."
