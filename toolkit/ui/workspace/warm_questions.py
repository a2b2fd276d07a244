"""Questions from a page to the background worker, with answers cached in the session for reruns.

A page waits for a fraction of a second at most; until the answer is there it shows the progress.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

import streamlit as st

from toolkit.services import warm_client
from toolkit.services.warm_client import QuestionState
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.workspace import workspace

ANSWER_WAIT_SECONDS = 0.35
"""Long enough for the answer to a quick question, short enough not to be felt as a delay of the page."""
QUESTION_POLL_SECONDS = 0.5
FAILED_ANSWER_SECONDS = 30.0
"""Seconds for which a failure is shown before the question is asked again."""
WARM_WORKER_DELAY_SECONDS = 2.0
"""Delay of the background worker's start, which uses a core for some seconds: the first page is drawn before that."""


def ask_warm_question(
    kind: str, body: Mapping[str, Any], *, lane: str = "", wait: float = ANSWER_WAIT_SECONDS
) -> QuestionState:
    """Ask a question, or poll one that was asked before, and return its state.

    lane: the part of the page that asks. A new question in a lane of the same session replaces the former one.
    wait: seconds to wait for the answer.
    """
    key, text = f"asked:{lane}:{kind}", json.dumps(body, sort_keys=True)
    cached = st.session_state.get(key)
    if cached is not None and cached[0] == text and time.monotonic() < cached[2]:
        return cast(QuestionState, cached[1])
    warm_client.ensure_warm_worker(workspace.current_save_dir(), after=WARM_WORKER_DELAY_SECONDS)
    question = warm_client.poll_warm_question(
        workspace.current_save_dir(), kind, body, lane=f"{workspace.session_id()}{lane}", wait=wait
    )
    if question.state in ("done", "failed"):
        # a failure is kept for a while: asked again at once, it would be shown as waiting for ever
        keep = math.inf if question.state == "done" else FAILED_ANSWER_SECONDS
        st.session_state[key] = (text, question, time.monotonic() + keep)
    return question


def wait_for_answer(question: QuestionState, ask: Callable[[], QuestionState], key: str) -> None:
    """Show the progress of a question and poll it with `ask`; rerun the page when it is answered."""
    # the first draw uses the state that the page has read already
    initial = [question]

    def poll() -> None:
        current = initial.pop() if initial else ask()
        if current.is_final:
            st.rerun()
        show_question_progress(current)

    st.fragment(poll, run_every=QUESTION_POLL_SECONDS, key=f"waiting_{key}")()


def show_question_progress(question: QuestionState) -> None:
    """Show the phase of a question, with a progress bar if the progress is known."""
    phase = escape_text(question.phase[:1].upper() + question.phase[1:])
    if question.fraction is None:
        st.caption(f":material/hourglass_top: {phase}…")
    else:
        st.progress(question.fraction, f"{phase}: {question.done:,} of {question.total:,}")
