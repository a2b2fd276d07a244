"""Blocking problems (hard stops) on screen: found by the background worker, shown with their rows, and accepted.

Acceptance is part of the draft, so that the run records it. A change of a setting in `workspace.TOKEN_SETTINGS`
withdraws it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import streamlit as st

from toolkit.data.chat_repairs import CHAT_REPAIRS
from toolkit.data.examples.hard_stops import HARD_STOPS, Fault, hard_stop_problem
from toolkit.data.findings import Fix
from toolkit.data.table import Table, rows_in_words
from toolkit.errors import Problem
from toolkit.services.token_question import token_question_body
from toolkit.services.warm_client import QuestionState
from toolkit.settings.ablation import StudyTrial
from toolkit.system.printable import format_plural
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.workspace import warm_questions, workspace

MAX_CHECKED_TRIALS = 6
"""Trials of a study with different token settings that are checked before Start; each run checks its rows again."""
MAX_ROW_BUTTONS = 6
"""Buttons that lead to a row with a problem: as many as fit on one line."""
ACCEPTED_PATH = "data.accepted"
_FAILED_CHECK = "failed_check"
_KNOWN_FAULTS = "known_faults"


def ask_hard_stops(draft: Mapping[str, Any], table: Table, lane: str = "", wait: float = 0.0) -> QuestionState:
    """Ask the background worker for the hard stops of these settings with this table. wait: seconds."""
    return warm_questions.ask_warm_question("faults", token_question_body(draft, table), lane=lane, wait=wait)


def read_faults(question: QuestionState) -> list[Fault]:
    """Return the hard stops in an answer; none while there is no answer."""
    return [Fault.from_dict(body) for body in question.value.get("faults", ())]


def find_hard_stop_problems(
    trials: Sequence[StudyTrial], table: Table | None, wait: float = 0.0
) -> tuple[list[Problem], QuestionState | None]:
    """Return the hard stops of these trials on this table, and a question that is still being answered or None.

    Trials with equal token settings are asked about once. Trials on other tables are checked by the run itself.
    """
    if table is None:
        return [], None
    drafts_by_question: dict[str, dict[str, Any]] = {}
    for trial in trials:
        draft = trial.config.model_dump(mode="json")
        drafts_by_question.setdefault(repr(token_question_body(draft, table)), draft)
    problems: dict[Problem, None] = {}
    pending = None
    for at, draft in enumerate(list(drafts_by_question.values())[:MAX_CHECKED_TRIALS]):
        question = ask_hard_stops(draft, table, lane=f"start{at}", wait=wait)
        pending = pending if question.is_final else question
        accepted = draft["data"]["accepted"] or []
        problems.update(dict.fromkeys(hard_stop_problem(fault, accepted) for fault in read_faults(question)))
        if question.state == "failed":
            problems[describe_failed_check(question)] = None
    return list(problems), pending


def show_hard_stops(table: Table, row_key: str, apply_fix: Callable[[Fix], None] | None = None) -> None:
    """Show the hard stops of the draft.

    row_key: session key of the widget that chooses a row. apply_fix: makes a version of the data.
    """
    draft = workspace.current_draft()
    question = ask_hard_stops(draft, table, lane="data")
    if not question.is_final:
        warm_questions.wait_for_answer(question, lambda: ask_hard_stops(draft, table, lane="data"), "faults")
    elif question.state == "done":
        faults = read_faults(question)
        st.session_state.pop(_FAILED_CHECK, None)
        st.session_state[_KNOWN_FAULTS] = (repr(token_question_body(draft, table)), faults)
        _show_faults(faults, question.value, row_key, apply_fix)
    elif question.state == "failed":
        st.session_state[_FAILED_CHECK] = repr(token_question_body(draft, table))
        problem = describe_failed_check(question)
        st.markdown(f":orange[:material/warning:] {escape_text(f'{problem.message} {problem.hint}', 600)}")


def has_failed_check(table: Table) -> bool:
    """Return whether the rows of the draft could not be checked for hard stops; asks the background worker nothing."""
    failed = st.session_state.get(_FAILED_CHECK)
    return failed is not None and failed == repr(token_question_body(workspace.current_draft(), table))


def describe_failed_check(question: QuestionState) -> Problem:
    """Return the warning about rows that could not be checked."""
    message = f"The rows were not checked for blocking problems: {question.message}"
    return Problem("", message, f"{question.hint} A run checks its rows before it trains.".strip(), severity="warning")


def count_blocking_problems(table: Table) -> int:
    """Return the hard stops of the draft that are known and not accepted; asks the background worker nothing."""
    draft = workspace.current_draft()
    key, faults = st.session_state.get(_KNOWN_FAULTS, ("", ()))
    if key != repr(token_question_body(draft, table)):
        return 0
    accepted = draft["data"]["accepted"] or []
    return sum(not (fault.can_be_accepted and fault.kind in accepted) for fault in faults)


def _show_faults(
    faults: Sequence[Fault], value: Mapping[str, Any], row_key: str, apply_fix: Callable[[Fix], None] | None
) -> None:
    checked, usable = value["checked"], value["usable"]
    if not faults:
        st.caption(
            f":material/check_circle: No blocking problems in {format_plural(checked, 'row')}: "
            "every row has trainable tokens, and the loss mask matches the settings."
        )
    accepted = workspace.current_setting(ACCEPTED_PATH) or []
    for fault in faults:
        _show_fault(fault, fault.can_be_accepted and fault.kind in accepted, row_key, apply_fix)
    if checked < usable:
        st.caption(f"Checked a random sample of {checked:,} of {usable:,} rows. A run checks all its rows.")


def _show_fault(fault: Fault, accepted: bool, row_key: str, apply_fix: Callable[[Fix], None] | None) -> None:
    color, icon = ("orange", "check") if accepted else ("red", "front_hand")
    with st.container(border=True, gap="xsmall"):
        title = f":{color}[:material/{icon}: **{HARD_STOPS[fault.kind].title}**]"
        st.markdown(f"{title} {'accepted' if accepted else 'blocks Start'}")
        st.markdown(escape_text(fault.message, 1000))
        if not accepted:
            st.caption(escape_text(fault.hint, 1000))
        if fault.kind == "template_rejects" and apply_fix is not None:
            _show_fixes(fault, apply_fix)
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            for row in fault.rows[:MAX_ROW_BUTTONS]:
                st.button(
                    f"Row {row + 1:,}",
                    key=f"{fault.kind}_{row}",
                    type="tertiary",
                    on_click=_go_to_row,
                    args=(row_key, row + 1),
                )
            if fault.count > MAX_ROW_BUTTONS and fault.rows:
                st.caption("…", width="content")
            if fault.can_be_accepted:
                st.button(
                    "Withdraw acceptance" if accepted else "Accept anyway",
                    key=f"accept_{fault.kind}",
                    on_click=accept_hard_stop,
                    args=(fault.kind, not accepted),
                    icon=":material/undo:" if accepted else ":material/done:",
                    help="Allow Start despite this problem. The run records that you accepted it.",
                )


def _show_fixes(fault: Fault, apply_fix: Callable[[Fix], None]) -> None:
    """Draw the buttons that repair or remove the conversations that the chat template rejects."""
    column = str(workspace.current_setting("data.messages"))
    rows = np.array(fault.rows, dtype=np.int64)
    fixes = []
    for repair, count in fault.repairs:
        label = CHAT_REPAIRS[repair][0]
        done = f"{label}: {rows_in_words(len(rows))}"
        fixes.append(Fix(f"{label} ({rows_in_words(count)} fixed)", repair, done, rows, (column,)))
    words = rows_in_words(len(rows))
    fixes.append(Fix(f"Remove {words}", "drop", f"{words} removed that the chat template rejects", rows))
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        for fix in fixes:
            if st.button(fix.label, key=f"fix_{fault.kind}_{fix.action}", icon=":material/healing:"):
                apply_fix(fix)


def accept_hard_stop(kind: str, accepted: bool) -> None:
    """Accept a kind of hard stop in the draft, or withdraw its acceptance."""
    others = [name for name in workspace.current_setting(ACCEPTED_PATH) or [] if name != kind]
    workspace.set_setting(ACCEPTED_PATH, [*others, kind] if accepted else others or None)


def _go_to_row(row_key: str, number: int) -> None:
    st.session_state[row_key] = number
