"""Hard stops on screen: found by the warm worker in the background, shown with their rows, and accepted or repaired.

What they are is `data/examples/hard_stops.py`'s. Acceptance is part of the draft, so that the run records it; changing what decides
the tokens takes it back (`state.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from toolkit.data.examples.hard_stops import KINDS, Fault, as_problem
from toolkit.data.table import Table
from toolkit.errors import Problem
from toolkit.services.warm_client import Look
from toolkit.settings.ablation import Variant
from toolkit.ui.elements.escape import plain
from toolkit.ui.elements.words import plural
from toolkit.ui.workspace import warm_questions, workspace

MOST_VARIANTS = 6
"""So many different settings of a study are looked at before Start; each run looks again by itself."""
ROWS_SHOWN = 6
ACCEPTED = "data.accepted"


def look(draft: Mapping[str, Any], table: Table, lane: str = "", wait: float = 0.0) -> Look:
    """What is known of the hard stops of these settings with this table."""
    return warm_questions.look("faults", warm_questions.subject(draft, table), lane=lane, wait=wait)


def found(seen: Look) -> list[Fault]:
    return [Fault.read(body) for body in seen.value.get("faults", ())]


def problems(variants: Sequence[Variant], table: Table | None, wait: float = 0.0) -> tuple[list[Problem], Look | None]:
    """(hard stops of these runs, a look that is not over yet if there is one), each different question asked once.

    Runs on other tables than this one are left to the worker's own look.
    """
    if table is None:
        return [], None
    bodies: dict[str, dict[str, Any]] = {}
    for variant in variants:
        draft = variant.config.model_dump(mode="json")
        bodies.setdefault(repr(warm_questions.subject(draft, table)), draft)
    listed: dict[Problem, None] = {}
    pending = None
    for at, draft in enumerate(list(bodies.values())[:MOST_VARIANTS]):
        seen = look(draft, table, lane=f"start{at}", wait=wait)
        pending = pending if seen.over else seen
        accepted = draft["data"]["accepted"] or []
        listed.update(dict.fromkeys(as_problem(fault, accepted) for fault in found(seen)))
    return list(listed), pending


def hard_stops(table: Table, row_key: str) -> None:
    """The hard stops of the draft, for the Data page. row_key: of the widget that chooses a row, to jump to."""
    draft = workspace.draft()
    seen = look(draft, table, lane="data")
    if not seen.over:
        warm_questions.waiting(seen, lambda: look(draft, table, lane="data"), "faults")
    elif seen.state == "done":
        _list(found(seen), seen.value, row_key)


def _list(faults: Sequence[Fault], value: Mapping[str, Any], row_key: str) -> None:
    checked, usable = value["checked"], value["usable"]
    if not faults:
        words = "something is learned in each, and the loss mask is what the settings say"
        st.caption(f":material/check_circle: Nothing stands against training in {plural(checked, 'row')}: {words}.")
    accepted = workspace.value(ACCEPTED) or []
    for fault in faults:
        _one(fault, fault.judgement and fault.kind in accepted, row_key)
    if checked < usable:
        st.caption(f"A random {checked:,} of {usable:,} rows were looked at here; a run looks at all of its rows.")


def _one(fault: Fault, accepted: bool, row_key: str) -> None:
    colour, icon = ("orange", "check") if accepted else ("red", "front_hand")
    with st.container(border=True, gap="xsmall"):
        title = f":{colour}[:material/{icon}: **{KINDS[fault.kind].title}**]"
        st.markdown(f"{title} {'accepted' if accepted else 'blocks Start'}")
        st.markdown(plain(fault.message, 1000))
        if not accepted:
            st.caption(plain(fault.hint, 1000))
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            for row in fault.rows[:ROWS_SHOWN]:
                st.button(f"Row {row + 1:,}", key=f"{fault.kind}_{row}", type="tertiary", on_click=_jump,
                          args=(row_key, row + 1))  # fmt: skip
            if fault.count > ROWS_SHOWN and fault.rows:
                st.caption("…", width="content")
            if fault.judgement:
                st.button(
                    "Take it back" if accepted else "I mean it", key=f"accept_{fault.kind}", on_click=accept,
                    args=(fault.kind, not accepted), icon=":material/undo:" if accepted else ":material/done:",
                    help="Start in spite of it; the run records that you said so.",
                )  # fmt: skip


def accept(kind: str, meant: bool) -> None:
    """Put a hard stop into the draft's accepted ones, or take it out."""
    rest = [name for name in workspace.value(ACCEPTED) or [] if name != kind]
    workspace.set_value(ACCEPTED, [*rest, kind] if meant else rest or None)


def _jump(row_key: str, number: int) -> None:
    st.session_state[row_key] = number
