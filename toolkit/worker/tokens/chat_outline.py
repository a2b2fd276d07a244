"""What the chat template makes of conversations of one outline: its BOS tokens, and the parts that it does not write.

An outline is a conversation whose texts are replaced by marks, so that all rows of one shape are rendered once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from toolkit.data.chat_messages import TOOLS_ROLE, Message
from toolkit.worker.tokens.conversation import read_listed_tools, to_message_dicts
from toolkit.worker.tokens.encode import RejectedConversationsError, encode_texts, render_chats

UNWRITTEN_PARTS = {
    "tools_unwritten": "list of tools",
    "calls_unwritten": "tool calls",
    "results_unwritten": "tool results",
    "reasoning_unwritten": "reasoning",
    "text_unwritten": "text of some messages",
}
"""Kind of blocking problem -> the part of a conversation that the chat template leaves out."""
_PARAMETERS = {"type": "object", "properties": {"a": {"type": "string", "description": "d"}}, "required": ["a"]}
MIN_MARK_CHARACTERS = 4
"""Characters; shorter parts of a chat template also occur in ordinary text."""
_USER, _ANSWER = "\u2063user\u2063", "\u2063answer\u2063"
_CALL_ID = "callmark1"
"""Nine letters and digits, as some templates demand of the id of a call."""


class OutlineFacts(NamedTuple):
    """written_bos: number of BOS tokens around the texts. unwritten: kinds of UNWRITTEN_PARTS that are left out."""

    written_bos: int
    unwritten: tuple[str, ...] = ()


def outline_conversation(turns: Sequence[Message]) -> tuple[Message, ...]:
    """Return the conversation with marks in place of its texts; an empty text stays empty: templates may skip it."""
    return tuple(_outline_message(at, turn) for at, turn in enumerate(turns))


def _outline_message(at: int, turn: Message) -> Message:
    if turn.role == TOOLS_ROLE:
        function = {"name": _mark(at, "tool"), "description": "c", "parameters": _PARAMETERS}
        return Message(TOOLS_ROLE, json.dumps([{"type": "function", "function": function}]))
    calls = []
    for call in json.loads(turn.tool_calls or "[]"):
        function = {"name": _mark(at, "call"), "arguments": {"a": "b"} if call["function"]["arguments"] else {}}
        calls.append({**({"id": _CALL_ID} if call.get("id") else {}), "type": "function", "function": function})
    return Message(
        turn.role,
        _mark(at, "text") if turn.content.strip() else "",
        turn.learned,
        _mark(at, "reason") if turn.reasoning.strip() else "",
        json.dumps(calls) if calls else "",
        _mark(at, "name") if turn.name else "",
        _CALL_ID if turn.tool_call_id else "",
    )


def read_outline(tokenizer: PreTrainedTokenizerBase, outline: Sequence[Message]) -> OutlineFacts | None:
    """Return what the template makes of an outline; None if it rejects it, although it accepted a conversation."""
    try:
        text = _render_outline(tokenizer, outline)
        unwritten = dict.fromkeys(_find_unwritten(tokenizer, outline, text))
    except RejectedConversationsError:
        return None
    (ids,) = encode_texts(tokenizer, [text], add_special_tokens=False)
    return OutlineFacts(count_intended_bos(tokenizer, ids), tuple(unwritten))


def count_intended_bos(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> int:
    """Count the BOS tokens of an example with neutral texts; two at its start are never intended."""
    bos = tokenizer.bos_token_id
    return 0 if list(ids[:2]) == [bos, bos] else list(ids).count(bos)


def _find_unwritten(tokenizer: PreTrainedTokenizerBase, outline: Sequence[Message], text: str) -> Iterator[str]:
    for at, turn in enumerate(outline):
        if turn.role == TOOLS_ROLE:
            if _mark(at, "tool") not in text:
                yield "tools_unwritten"
            continue
        # an answer counts as the model writes it: templates may shorten it once more messages follow
        shown = _render_outline(tokenizer, outline[: at + 1]) if turn.role == "assistant" else text
        if turn.content and turn.content not in shown:
            yield "results_unwritten" if turn.role == "tool" else "text_unwritten"
        if turn.tool_calls and _mark(at, "call") not in shown:
            yield "calls_unwritten"
        if turn.learned and turn.reasoning and turn.reasoning not in shown:
            yield "reasoning_unwritten"


def _render_outline(tokenizer: PreTrainedTokenizerBase, outline: Sequence[Message]) -> str:
    return render_chats(tokenizer, [to_message_dicts(outline)], tools=[read_listed_tools(outline)])[0]


def _mark(at: int, part: str) -> str:
    """Return a text that no template writes."""
    return f"q{at}x{part}"


def read_template_marks(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Return what the chat template writes around two messages, and its special tokens, in order of appearance."""
    turns = [{"role": "user", "content": _USER}, {"role": "assistant", "content": _ANSWER}]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    around = [part.strip() for part in re.split(f"{_USER}|{_ANSWER}", text)]
    marks = {
        mark for mark in [*tokenizer.all_special_tokens, *around] if len(mark) >= MIN_MARK_CHARACTERS and mark in text
    }
    return tuple(sorted(marks, key=text.index))


def find_dropped_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return which text of a question and its answer the chat template does not write.

    Some templates take the content of a message as a list of parts only: of a plain text they write nothing.
    """
    turns = [{"role": "user", "content": _USER}, {"role": "assistant", "content": _ANSWER}]
    (text,) = render_chats(tokenizer, [turns])
    return "question" if _USER not in text else "answer" if _ANSWER not in text else ""
