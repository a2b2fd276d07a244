"""Whether a run can be used for chat, and with a system prompt: the engine is asked once for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import streamlit as st

from toolkit.errors import EngineError
from toolkit.services import engine_client
from toolkit.ui.playground.chat import find_chat_refusal, find_system_refusal


class FakeEngine:
    pid = 1


@pytest.mark.parametrize(
    ("refused", "chat", "system"),
    [((), True, True), (("system",), True, False), (("system", "assistant"), False, False)],
    ids=["all roles", "no system role, like Gemma", "no chat template"],
)
def test_a_model_without_a_system_role_can_still_chat(
    monkeypatch: pytest.MonkeyPatch, refused: Sequence[str], chat: bool, system: bool
) -> None:
    asked: list[tuple[str, ...]] = []

    def render(info: Any, run: str, messages: Sequence[dict[str, str]]) -> None:
        asked.append(tuple(message["role"] for message in messages))
        if any(message["role"] in refused for message in messages):
            raise EngineError("System role not supported.", "")

    monkeypatch.setattr(engine_client, "render_engine_prompt", render)
    monkeypatch.setattr(st, "session_state", {})
    info: Any = FakeEngine()
    for _ in range(2):
        assert (find_chat_refusal(info, "run") is None) is chat
        assert (find_system_refusal(info, "run") is None) is system
    assert asked == [("user", "assistant", "user"), ("system", "user", "assistant", "user")]
