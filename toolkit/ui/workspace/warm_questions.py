"""Questions to the warm worker from a page: what they are about, and answers held so that a rerun asks nothing again.

Never waits longer than a blink; while an answer is on its way the page shows what is waited for.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any, cast

import streamlit as st

from toolkit.data.table import Table
from toolkit.services import warm_client
from toolkit.services.warm_client import QuestionState
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.workspace import workspace

ANSWER_WAIT_SECONDS = 0.35
QUESTION_POLL_SECONDS = 0.5
WARM_WORKER_DELAY_SECONDS = 2.0
"""The app's first page is there before the warm worker takes a core for some seconds."""
_DATA = ("prompt", "prompt_stub", "messages", "use_chat_template")
_SFT = ("max_seq_length", "completion_only_loss")


def token_question_body(draft: Mapping[str, Any], table: Table) -> dict[str, Any]:
    """The body of a question about a table's tokens: only the settings that decide them, so that others change nothing.

    The settings may be invalid: the worker says so.
    """
    data, training = draft.get("data") or {}, draft.get("training") or {}
    sft, model = training.get("sft_args") or {}, draft.get("model") or {}
    config = {
        "data": {name: data[name] for name in _DATA if name in data},
        "model": {"hf_model_ckpt": model.get("hf_model_ckpt")},
        "training": {"sft_args": {name: sft[name] for name in _SFT if name in sft}},
    }
    return {"config": config, "table": str(table.path), "sha256": table.sha256}


def ask_warm_question(
    kind: str, body: Mapping[str, Any], *, lane: str = "", wait: float = ANSWER_WAIT_SECONDS
) -> QuestionState:
    """What is known of a question by now. lane: the place on the page that asks; each tab has lanes of its own."""
    key, text = f"asked:{lane}:{kind}", json.dumps(body, sort_keys=True)
    held = st.session_state.get(key)
    if held is not None and held[0] == text:
        return cast(QuestionState, held[1])
    warm_client.ensure_warm_worker(workspace.current_save_dir(), after=WARM_WORKER_DELAY_SECONDS)
    seen = warm_client.poll_warm_question(
        workspace.current_save_dir(), kind, body, lane=f"{_tab_id()}{lane}", wait=wait
    )
    if seen.state == "done":
        st.session_state[key] = (text, seen)
    return seen


def wait_for_answer(seen: QuestionState, ask: Callable[[], QuestionState], key: str) -> None:
    """What is waited for, and a look every now and then: the page runs again once it is over."""
    first = [seen]

    def again() -> None:
        now = first.pop() if first else ask()
        if now.is_final:
            st.rerun()
        show_question_progress(now)

    st.fragment(again, run_every=QUESTION_POLL_SECONDS, key=f"waiting_{key}")()


def show_question_progress(seen: QuestionState) -> None:
    """A line that says what is waited for, with a bar where it is known how far it is."""
    phase = escape_text(seen.phase[:1].upper() + seen.phase[1:])
    if seen.fraction is None:
        st.caption(f":material/hourglass_top: {phase}…")
    else:
        st.progress(seen.fraction, f"{phase}: {seen.done:,} of {seen.total:,}")


def _tab_id() -> str:
    return cast(str, st.session_state.setdefault("tab", secrets.token_hex(6)))
