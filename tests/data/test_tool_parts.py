"""Tool calls and results that are parts of a message's content, as Anthropic's and Bedrock's APIs write them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.data.conftest import Opener
from tests.data.shapes.test_other_conversations import ASKED, SAID, open_rows, turns_of
from toolkit.data.chat_messages import Message

SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": {"name": "lamp"}}}


def anthropic() -> dict[str, Any]:
    return {
        "tools": [{"name": "find", "description": "Find it.", "input_schema": SCHEMA}],
        "messages": [
            {"role": "user", "content": ASKED},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "One moment."},
                    {"type": "tool_use", "id": "c1", "name": "find", "input": {"name": "lamp"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "aisle 1"}]},
                    {"type": "text", "text": "Well?"},
                ],
            },
            {"role": "assistant", "content": [{"type": "text", "text": SAID}]},
        ],
    }


def bedrock() -> dict[str, Any]:
    spec = {"name": "find", "description": "Find it.", "inputSchema": {"json": SCHEMA}}
    used = {"toolUse": {"toolUseId": "c1", "name": "find", "input": {"name": "lamp"}}}
    result = {"toolResult": {"toolUseId": "c1", "content": [{"text": "aisle 1"}], "status": "success"}}
    return {
        "tools": [{"toolSpec": spec}],
        "messages": [
            {"role": "user", "content": [{"text": ASKED}]},
            {"role": "assistant", "content": [{"text": "One moment."}, used]},
            {"role": "user", "content": [result, {"text": "Well?"}]},
            {"role": "assistant", "content": [{"text": SAID}]},
        ],
    }


@pytest.mark.parametrize("write", [anthropic, bedrock])
def test_calls_and_results_inside_a_content_are_kept(open_bytes: Opener, write: Any) -> None:
    tools, asked, called, result, more, answer = turns_of(open_rows(open_bytes, write()))
    (tool,) = json.loads(tools.content)
    assert tool["function"] == {"name": "find", "description": "Find it.", "parameters": SCHEMA}
    assert asked == Message("user", ASKED)
    assert (called.content, json.loads(called.tool_calls), called.learned) == ("One moment.", [CALL], True)
    assert result == Message("tool", "aisle 1", tool_call_id="c1")
    assert more == Message("user", "Well?")
    assert answer == Message("assistant", SAID, learned=True)


def test_a_result_that_is_no_text_is_json(open_bytes: Opener) -> None:
    row = bedrock()
    row["messages"][2]["content"][0]["toolResult"]["content"] = [{"json": {"aisle": 1}}]
    assert turns_of(open_rows(open_bytes, row))[3].content == '{"aisle": 1}'


def test_an_image_is_still_refused(open_bytes: Opener) -> None:
    row = anthropic()
    row["messages"][0]["content"] = [{"type": "image", "source": {}}, {"type": "text", "text": ASKED}]
    assert "part of type 'image'" in open_rows(open_bytes, row).chats["messages"]
