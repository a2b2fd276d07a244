"""Chat with a model that has a chat template: system prompt, history and the next message."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from toolkit.config import Config
from toolkit.data.conversations import MessageDict
from toolkit.errors import EngineError
from toolkit.evaluation.statistics.text import drop_reasoning
from toolkit.runs.run_dir import RunDir
from toolkit.services import engine_client
from toolkit.services.engine_process import EngineInfo
from toolkit.ui.playground.columns import AnswerColumn
from toolkit.ui.playground.questions import AskedQuestion, asked_questions, prepare_question

_CHAT_PROBE: tuple[MessageDict, ...] = (
    {"role": "user", "content": "."},
    {"role": "assistant", "content": "."},  # a run without a chat template takes a single message
    {"role": "user", "content": "."},
)
_SYSTEM_PROBE: tuple[MessageDict, ...] = ({"role": "system", "content": "."}, *_CHAT_PROBE)


def find_chat_refusal(info: EngineInfo, run_id: str) -> EngineError | None:
    """Return why this run can't be used for chat, or None if it can. The engine is asked once per engine and run."""
    return _find_refusal(info, run_id, _CHAT_PROBE)


def find_system_refusal(info: EngineInfo, run_id: str) -> EngineError | None:
    """Return why this run takes no system prompt, or None if it does: some chat templates have no such role."""
    return _find_refusal(info, run_id, _SYSTEM_PROBE)


def _find_refusal(info: EngineInfo, run_id: str, probe: Sequence[MessageDict]) -> EngineError | None:
    refusals: dict[tuple[int, str, int], EngineError | None] = st.session_state.setdefault("turns_refused", {})
    key = (info.pid, run_id, len(probe))
    if key not in refusals:
        try:
            engine_client.render_engine_prompt(info, run_id, probe)
        except EngineError as error:
            refusals[key] = error
        else:
            refusals[key] = None
    return refusals[key]


def allows_chat(config: Config) -> bool:
    """Return False if the config of the run turns its chat template off. The engine decides once it is loaded."""
    return config.data.use_chat_template is not False


def prepare_chat_question(
    run: RunDir, typed: str, system: str, *, seed: int | None, columns: Sequence[AnswerColumn]
) -> AskedQuestion:
    """Return the next question: the system prompt, the earlier messages with this run's answers, and the typed text."""
    messages: list[MessageDict] = [{"role": "system", "content": system}] if system.strip() else []
    for record in asked_questions(run.id, chat=True):
        if answer := drop_reasoning(record.answers[0].text):
            messages.append({"role": "user", "content": record.shown})
            messages.append({"role": "assistant", "content": answer})
    messages.append({"role": "user", "content": typed})
    return prepare_question(run.id, typed, messages, expected=None, seed=seed, columns=columns, chat=True)
