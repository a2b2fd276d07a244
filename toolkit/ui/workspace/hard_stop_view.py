"""Hard stops on screen: found by the warm worker in the background, shown with their rows, and accepted or repaired.

What they are is `data/examples/hard_stops.py`'s. Acceptance is part of the draft, so that the run records it; changing what decides
the tokens takes it back (`state.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from toolkit.data.examples.hard_stops import HARD_STOPS, Fault, hard_stop_problem
from toolkit.data.table import Table
from toolkit.errors import Problem
from toolkit.services.warm_client import QuestionState
from toolkit.settings.ablation import StudyTrial
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.words import format_plural
from toolkit.ui.workspace import warm_questions, workspace

MAX_CHECKED_TRIALS = 6
"""So many different settings of a study are looked at before Start; each run looks again by itself."""
MAX_ROW_BUTTONS = 6
ACCEPTED_PATH = "data.accepted"


def ask_hard_stops(draft: Mapping[str, Any], table: Table, lane: str = "", wait: float = 0.0) -> QuestionState:
    """What is known of the hard stops of these settings with this table."""
    return warm_questions.ask_warm_question(
        "faults", warm_questions.token_question_body(draft, table), lane=lane, wait=wait
    )


def read_faults(seen: QuestionState) -> list[Fault]:
    return [Fault.read(body) for body in seen.value.get("faults", ())]


def find_hard_stop_problems(
    variants: Sequence[StudyTrial], table: Table | None, wait: float = 0.0
) -> tuple[list[Problem], QuestionState | None]:
    """(hard stops of these runs, a look that is not over yet if there is one), each different question asked once.

    Runs on other tables than this one are left to the worker's own look.
    """
    if table is None:
        return [], None
    bodies: dict[str, dict[str, Any]] = {}
    for variant in variants:
        draft = variant.config.model_dump(mode="json")
        bodies.setdefault(repr(warm_questions.token_question_body(draft, table)), draft)
    listed: dict[Problem, None] = {}
    pending = None
    for at, draft in enumerate(list(bodies.values())[:MAX_CHECKED_TRIALS]):
        seen = ask_hard_stops(draft, table, lane=f"start{at}", wait=wait)
        pending = pending if seen.is_final else seen
        accepted = draft["data"]["accepted"] or []
        listed.update(dict.fromkeys(hard_stop_problem(fault, accepted) for fault in read_faults(seen)))
    return list(listed), pending


def show_hard_stops(table: Table, row_key: str) -> None:
    """The hard stops of the draft, for the Data page. row_key: of the widget that chooses a row, to jump to."""
    draft = workspace.current_draft()
    seen = ask_hard_stops(draft, table, lane="data")
    if not seen.is_final:
        warm_questions.wait_for_answer(seen, lambda: ask_hard_stops(draft, table, lane="data"), "faults")
    elif seen.state == "done":
        _show_faults(read_faults(seen), seen.value, row_key)


def _show_faults(faults: Sequence[Fault], value: Mapping[str, Any], row_key: str) -> None:
    checked, usable = value["checked"], value["usable"]
    if not faults:
        words = "something is learned in each, and the loss mask is what the settings say"
        st.caption(
            f":material/check_circle: Nothing stands against training in {format_plural(checked, 'row')}: {words}."
        )
    accepted = workspace.current_setting(ACCEPTED_PATH) or []
    for fault in faults:
        _show_fault(fault, fault.judgement and fault.kind in accepted, row_key)
    if checked < usable:
        st.caption(f"A random {checked:,} of {usable:,} rows were looked at here; a run looks at all of its rows.")


def _show_fault(fault: Fault, accepted: bool, row_key: str) -> None:
    colour, icon = ("orange", "check") if accepted else ("red", "front_hand")
    with st.container(border=True, gap="xsmall"):
        title = f":{colour}[:material/{icon}: **{HARD_STOPS[fault.kind].title}**]"
        st.markdown(f"{title} {'accepted' if accepted else 'blocks Start'}")
        st.markdown(escape_text(fault.message, 1000))
        if not accepted:
            st.caption(escape_text(fault.hint, 1000))
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            for row in fault.rows[:MAX_ROW_BUTTONS]:
                st.button(f"Row {row + 1:,}", key=f"{fault.kind}_{row}", type="tertiary", on_click=_go_to_row,
                          args=(row_key, row + 1))  # fmt: skip
            if fault.count > MAX_ROW_BUTTONS and fault.rows:
                st.caption("…", width="content")
            if fault.judgement:
                st.button(
                    "Take it back" if accepted else "I mean it", key=f"accept_{fault.kind}", on_click=accept_hard_stop,
                    args=(fault.kind, not accepted), icon=":material/undo:" if accepted else ":material/done:",
                    help="Start in spite of it; the run records that you said so.",
                )  # fmt: skip


def accept_hard_stop(kind: str, meant: bool) -> None:
    """Put a hard stop into the draft's accepted ones, or take it out."""
    rest = [name for name in workspace.current_setting(ACCEPTED_PATH) or [] if name != kind]
    workspace.set_setting(ACCEPTED_PATH, [*rest, kind] if meant else rest or None)


def _go_to_row(row_key: str, number: int) -> None:
    st.session_state[row_key] = number
