"""What a chat template writes between the prompt of a generation and the answer: it is no part of the answer.

Qwen3 writes an empty block of reasoning there, other families a channel or a recipient. A trained model writes it
itself, since it is in the rows; scores, sample outputs and chat leave it out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

from toolkit.data.conversations import MessageDict
from toolkit.errors import ToolkitError
from toolkit.worker.tokens.encode import common_prefix_length, encode_texts, render_chats

_ANSWER = "\u2063answer\u2063"
_HEADERS: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[int, ...]] = WeakKeyDictionary()

_ASKED = {"role": "user", "content": "\u2063asked\u2063"}
_PARAMETERS = {"type": "object", "properties": {"city": {"type": "string", "description": "c"}}}
EXAMPLE_TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "example_tool", "description": "d", "parameters": _PARAMETERS}}
]
_CALL = {"id": "callmark1", "type": "function", "function": {"name": "example_tool", "arguments": {"city": "Bonn"}}}
_EXAMPLE_ANSWERS: tuple[MessageDict, ...] = (
    {"role": "assistant", "content": "example answer"},
    {"role": "assistant", "content": "example answer", "reasoning_content": "example reason"},
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
)


def find_answer_header(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the ids of the header; empty without a chat template, or if it writes none."""
    if tokenizer not in _HEADERS:
        _HEADERS[tokenizer] = _read_header(tokenizer) if tokenizer.chat_template else ()
    return _HEADERS[tokenizer]


def without_answer_header(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[int]:
    """Return the generated ids without the header that they may begin with."""
    header = find_answer_header(tokenizer)
    return list(ids[len(header) :] if tuple(ids[: len(header)]) == header else ids)


def _read_header(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    asked, answered = {"role": "user", "content": "x"}, {"role": "assistant", "content": _ANSWER}
    try:
        (prompt,) = render_chats(tokenizer, [[asked]], add_generation_prompt=True)
        (text,) = render_chats(tokenizer, [[asked, answered]])
    except ToolkitError:  # no such roles: its conversations are checked row by row
        return ()
    start = common_prefix_length(prompt, text)
    end = text.find(_ANSWER, start)
    # the prompt is not continued as it stands: what follows belongs to another form of it
    if end <= start or start < len(prompt):
        return ()
    return tuple(encode_texts(tokenizer, [text[start:end]], add_special_tokens=False)[0])


def find_answer_opening(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what the template writes between a question and the answer to generate; "" if it rejects a question."""
    try:
        (prompt,) = render_chats(tokenizer, [[_ASKED]], add_generation_prompt=True)
    except ToolkitError:
        return ""
    return prompt.rpartition(_ASKED["content"])[2]


def write_example_answers(tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, str, MessageDict]]:
    """Yield (prompt, what the template writes after it, the answer) of answers with text, reasoning and a tool call."""
    for answer in _EXAMPLE_ANSWERS:
        tools = [json.dumps(EXAMPLE_TOOLS)] if "tool_calls" in answer else []
        try:
            (prompt,) = render_chats(tokenizer, [[_ASKED]], tools=tools, add_generation_prompt=True)
            (text,) = render_chats(tokenizer, [[_ASKED, answer]], tools=tools)
        except ToolkitError:  # the template knows no such part
            continue
        start = common_prefix_length(prompt, text)
        yield text[:start], text[start:], answer
