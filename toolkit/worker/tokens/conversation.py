"""Tokenize conversations and find the spans to train on: each answer of the assistant, including its end token.

A conversation is tokenized once. The start and end of an answer come from rendering the messages before the answer,
and the messages up to and including it, with the chat template.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from toolkit.data.conversations import Message, MessageDict
from toolkit.errors import ToolkitError
from toolkit.worker.tokens.encode import (
    common_prefix_length,
    encode_texts,
    encode_with_offsets,
    render_chats,
)

TokenSpan = tuple[int, int]
"""(start, end) of a range of tokens; the end is exclusive."""


def to_message_dicts(turns: Sequence[Message]) -> list[MessageDict]:
    """Return the messages as chat templates take them."""
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def encode_conversation_prompt(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Message]) -> tuple[str, list[int]]:
    """Return the prompt that makes a model write the last message: (text, ids)."""
    texts = render_chats(tokenizer, [to_message_dicts(turns[:-1])], add_generation_prompt=True)
    return texts[0], encode_texts(tokenizer, texts, add_special_tokens=False)[0]


def encode_conversations(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[Message]]
) -> list[tuple[list[int], list[TokenSpan]]]:
    """Return (ids, trained spans in order) of each conversation; the last message of each is trained.

    Raises ToolkitError: the chat template or the tokenizer can't handle the conversations.
    """
    texts = render_chats(tokenizer, [to_message_dicts(turns) for turns in conversations])
    trained = [(i, k) for i, turns in enumerate(conversations) for k, turn in enumerate(turns) if turn.learned]
    before = [to_message_dicts(conversations[i][:k]) for i, k in trained]
    including = [to_message_dicts(conversations[i][: k + 1]) for i, k in trained]
    prompts = render_chats(tokenizer, before, add_generation_prompt=True)
    answered = render_chats(tokenizer, including)
    encoded = encode_with_offsets(tokenizer, texts)
    spans: list[list[TokenSpan]] = [[] for _ in conversations]
    for (i, _), prompt, text_to_end in zip(trained, prompts, answered, strict=True):
        spans[i].append(_find_answer_span(tokenizer, texts[i], encoded[i], prompt, text_to_end))
    return [_append_eos(tokenizer, ids, answer_spans) for (ids, _), answer_spans in zip(encoded, spans, strict=True)]


def _find_answer_span(
    tokenizer: PreTrainedTokenizerBase, text: str, encoded: tuple[list[int], list[int]], prompt: str, text_to_end: str
) -> TokenSpan:
    """Return the tokens of one answer. prompt, text_to_end: what precedes the answer, and the same with the answer."""
    ids, starts = encoded
    first = bisect_left(starts, common_prefix_length(prompt, text))
    if text.startswith(text_to_end):
        return first, bisect_left(starts, len(text_to_end))
    # some templates rewrite earlier answers (they remove the reasoning): the answer then ends where generation stops
    eos = tokenizer.eos_token_id
    if eos not in ids[first:]:
        message = (
            "The model's chat template rewrites earlier messages, so the tokens of earlier answers can't be found."
        )
        raise ToolkitError(message, "Choose another model, or train on one answer per row with two templates.")
    return first, ids.index(eos, first) + 1


def _append_eos(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], spans: list[TokenSpan]
) -> tuple[list[int], list[TokenSpan]]:
    """Add EOS at the end when the template does not write it: generation stops at EOS only."""
    first, _ = spans[-1]
    if tokenizer.eos_token_id in ids[first:]:
        return ids, spans
    return [*ids, tokenizer.eos_token_id], [*spans[:-1], (first, len(ids) + 1)]
