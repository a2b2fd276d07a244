"""Tokenize conversations and find the spans to train on: each answer of the assistant, including its end token.

A conversation is tokenized once. Where the chat template marks what the assistant writes ({% generation %}), the marks
are the answers. Elsewhere the start and end of an answer come from rendering the messages before the answer, and the
messages up to and including it.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from toolkit.data.chat_messages import TOOLS_ROLE, Message
from toolkit.data.conversations import MessageDict, train_only
from toolkit.worker.tokens.encode import (
    CharacterSpan,
    RejectedConversationsError,
    common_prefix_length,
    encode_texts,
    encode_with_offsets,
    find_generation_spans,
    render_chats,
)

TokenSpan = tuple[int, int]
"""(start, end) of a range of tokens; the end is exclusive."""
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


def to_message_dicts(turns: Sequence[Message]) -> list[MessageDict]:
    """Return the messages as chat templates take them, without the entry of the tools."""
    return [_to_message_dict(turn) for turn in turns if turn.role != TOOLS_ROLE]


def read_listed_tools(turns: Sequence[Message]) -> str:
    """Return the JSON list of the tools of a conversation, or ""."""
    return turns[0].content if turns and turns[0].role == TOOLS_ROLE else ""


def _to_message_dict(turn: Message) -> MessageDict:
    message: MessageDict = {"role": turn.role, "content": turn.content}
    if turn.reasoning:
        message["reasoning_content"] = turn.reasoning
    if turn.tool_calls:
        message["tool_calls"] = json.loads(turn.tool_calls)
    optional = {"name": turn.name, "tool_call_id": turn.tool_call_id}
    return message | {key: value for key, value in optional.items() if value}


def encode_conversation_prompt(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Message]) -> tuple[str, list[int]]:
    """Return the prompt that makes a model write the last message: (text, ids)."""
    texts = _render_turns(tokenizer, [turns[:-1]], add_generation_prompt=True)
    return texts[0], encode_texts(tokenizer, texts, add_special_tokens=False)[0]


class EncodedConversation(NamedTuple):
    """One sequence of a conversation. ids: its tokens; answers: the trained spans of them, in order."""

    ids: list[int]
    answers: list[TokenSpan]


def encode_conversations(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[Message]]
) -> list[list[EncodedConversation]]:
    """Return the sequences of each conversation; the last message of each conversation is trained.

    The last sequence is the whole conversation. Where the template writes an earlier answer otherwise once more
    messages follow (thinking models drop old reasoning), that answer is masked in it and trained in a sequence of its
    own, which ends after it: so it is trained as the model writes it in a chat.

    Raises RejectedConversationsError: the chat template rejects conversations; ToolkitError: the template or the
    tokenizer can't handle them.
    """
    texts = _render_turns(tokenizer, conversations)
    trained = [(i, k) for i, turns in enumerate(conversations) for k, turn in enumerate(turns) if turn.learned]
    answered = _render_parts(tokenizer, [conversations[i][: k + 1] for i, k in trained], trained)
    answered = [
        _end_answer(tokenizer, texts[i], text, conversations[i][k])
        for (i, k), text in zip(trained, answered, strict=True)
    ]
    kept = [texts[i].startswith(text) for (i, _), text in zip(trained, answered, strict=True)]
    rewritten: dict[int, list[int]] = {}
    for (i, k), is_kept in zip(trained, kept, strict=True):
        if not is_kept:
            rewritten.setdefault(i, []).append(k)
    # the shorter conversation trains all rewritten answers that it keeps, and so on
    earlier = [train_only(conversations[i][: at[-1] + 1], at) for i, at in rewritten.items()]
    split = dict(zip(rewritten, encode_conversations(tokenizer, earlier) if earlier else [], strict=True))
    parts = [_Answer(i, k, text) for (i, k), text, is_kept in zip(trained, answered, kept, strict=True) if is_kept]
    whole = _encode_kept_answers(tokenizer, conversations, texts, parts)
    return [[*split.get(i, []), sequence] for i, sequence in enumerate(whole)]


def _end_answer(tokenizer: PreTrainedTokenizerBase, whole: str, text: str, answer: Message) -> str:
    """Return the text up to the end of an answer without the end token that some templates write after the last one.

    whole: the text of the conversation, in which more messages may follow.
    """
    if whole.startswith(text):
        return text
    for token in tokenizer.all_special_tokens:
        kept = text.rstrip().removesuffix(token)
        # a template that writes nothing else after an answer ends it with this token
        is_ended = not kept.rstrip().endswith(answer.content.rstrip())
        if text.rstrip().endswith(token) and is_ended and whole.startswith(kept):
            return kept
    return text


class _Answer(NamedTuple):
    """An answer that the whole text contains as it was written. text: of the conversation up to its end."""

    conversation: int
    turn: int
    text: str


def _encode_kept_answers(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Sequence[Message]],
    texts: list[str],
    answers: Sequence[_Answer],
) -> list[EncodedConversation]:
    marks = _find_marked_answers(tokenizer, conversations)
    unmarked = [one for one in answers if marks[one.conversation] is None]
    prompts = _render_parts(
        tokenizer,
        [conversations[one.conversation][: one.turn] for one in unmarked],
        [one[:2] for one in unmarked],
        add_generation_prompt=True,
    )
    starts = {one[:2]: common_prefix_length(text, one.text) for one, text in zip(unmarked, prompts, strict=True)}
    encoded = encode_with_offsets(tokenizer, texts)
    spans: list[list[TokenSpan]] = [[] for _ in conversations]
    for one in answers:
        found = marks[one.conversation]
        tokens = encoded[one.conversation]
        if found is None:
            # a token that begins in the prompt belongs to it
            first, end = (bisect_left(tokens[1], at) for at in (starts[one[:2]], len(one.text)))
        else:
            first, end = _cover_characters(tokens, found[one.turn])
        spans[one.conversation].append((first, end))
    return [
        EncodedConversation(*_append_eos(tokenizer, row[0], found)) for row, found in zip(encoded, spans, strict=True)
    ]


def _render_turns(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Sequence[Message]],
    *,
    add_generation_prompt: bool = False,
) -> list[str]:
    """Return the text of each conversation. Raises RejectedConversationsError."""
    messages = [to_message_dicts(turns) for turns in conversations]
    tools = [read_listed_tools(turns) for turns in conversations]
    return render_chats(tokenizer, messages, tools=tools, add_generation_prompt=add_generation_prompt)


def _render_parts(
    tokenizer: PreTrainedTokenizerBase,
    parts: Sequence[Sequence[Message]],
    trained: Sequence[tuple[int, int]],
    *,
    add_generation_prompt: bool = False,
) -> list[str]:
    """Render the beginnings of conversations. trained: (number of the conversation, ...) of each part."""
    try:
        return _render_turns(tokenizer, parts, add_generation_prompt=add_generation_prompt)
    except RejectedConversationsError as error:
        # a template may reject a beginning of a conversation that it accepts as a whole
        reasons = {trained[at][0]: reason for at, reason in error.reasons.items()}
        raise RejectedConversationsError(error.message, error.hint, reasons) from error


def _find_marked_answers(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[Message]]
) -> list[dict[int, CharacterSpan] | None]:
    """Return {turn: characters that the template marks as the assistant's}; None where it does not mark each answer."""
    templates = tokenizer.chat_template
    written = "".join(templates.values()) if isinstance(templates, dict) else str(templates)
    if not _GENERATION.search(written):
        return [None] * len(conversations)
    messages = [to_message_dicts(turns) for turns in conversations]
    tools = [read_listed_tools(turns) for turns in conversations]
    found: list[dict[int, CharacterSpan] | None] = []
    for turns, spans in zip(conversations, find_generation_spans(tokenizer, messages, tools), strict=True):
        answers = [at for at, turn in enumerate(turns) if turn.role == "assistant"]
        found.append(dict(zip(answers, spans, strict=True)) if len(answers) == len(spans) else None)
    return found


def _cover_characters(encoded: tuple[list[int], list[int], list[int]], span: CharacterSpan) -> TokenSpan:
    """Return the tokens that have a character of the span."""
    _, starts, ends = encoded
    return bisect_right(ends, span[0]), bisect_left(starts, span[1])


def _append_eos(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], spans: list[TokenSpan]
) -> tuple[list[int], list[TokenSpan]]:
    """Add EOS at the end when the template does not write it: generation stops at EOS only."""
    first, _ = spans[-1]
    if tokenizer.eos_token_id in ids[first:]:
        return ids, spans
    return [*ids, tokenizer.eos_token_id], [*spans[:-1], (first, len(ids) + 1)]
