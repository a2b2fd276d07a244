"""Text that a chat template writes."""

from __future__ import annotations

import pytest


def test_half_of_a_character_that_a_template_writes_is_explained() -> None:
    from toolkit.config import Config
    from toolkit.worker.models.load import load_tokenizer
    from toolkit.worker.tokens.encode import RejectedConversationsError, render_chats

    tokenizer = load_tokenizer(Config())
    tokenizer.chat_template = "{{ '\\ud800' }}"
    with pytest.raises(RejectedConversationsError, match="half of a character"):
        render_chats(tokenizer, [[{"role": "user", "content": "x"}]])
