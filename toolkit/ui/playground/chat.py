"""Free conversation with a model that has a chat template: turns, a system prompt, history."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from toolkit.config import Config
from toolkit.data.conversations import MessageDict
from toolkit.errors import EngineError
from toolkit.runs.run_dir import RunDir
from toolkit.services import engine_client
from toolkit.services.engine_process import EngineInfo
from toolkit.ui.playground.columns import AnswerColumn
from toolkit.ui.playground.questions import AskedQuestion, asked_questions, prepare_question

CHAT_PROBE = ({"role": "system", "content": "."}, {"role": "user", "content": "."})


def find_chat_refusal(info: EngineInfo, run_id: str) -> EngineError | None:
    """Why this run can't hold a conversation, in the engine's words; None when it can. Asked once an engine and run."""
    known = st.session_state.setdefault("turns_refused", {})
    key = (info.pid, run_id)
    if key not in known:
        try:
            engine_client.render_engine_prompt(info, run_id, CHAT_PROBE)
        except EngineError as error:
            known[key] = error
        else:
            known[key] = None
    return known[key]  # type: ignore[no-any-return]


def allows_chat(config: Config) -> bool:
    """False when the run was trained without a template on purpose; the engine knows the rest once it is loaded."""
    return config.data.use_chat_template is not False


def prepare_chat_question(
    run: RunDir, typed: str, system: str, *, seed: int | None, columns: Sequence[AnswerColumn]
) -> AskedQuestion:
    """The next turn: the system prompt, the turns so far with this run's answers, and what was typed."""
    messages: list[MessageDict] = [{"role": "system", "content": system}] if system.strip() else []
    for record in asked_questions(run.id, chat=True):
        if record.answers[0].text:
            messages.append({"role": "user", "content": record.shown})
            messages.append({"role": "assistant", "content": record.answers[0].text})
    messages.append({"role": "user", "content": typed})
    return prepare_question(run.id, typed, messages, expected=None, seed=seed, columns=columns, chat=True)
