"""A conversation -> token ids and the spans that are learned: every answer of the assistant, with its end.

The whole conversation is tokenised once; where an answer begins and ends is read from what the chat template makes of
the turns before it and up to it. Knows no table, no length limit and no loss mask.
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
"""First token and the one behind the last."""


def to_message_dicts(turns: Sequence[Message]) -> list[MessageDict]:
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def encode_conversation_prompt(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Message]) -> tuple[str, list[int]]:
    """What a model is asked with so that it writes the last turn: text and ids."""
    texts = render_chats(tokenizer, [to_message_dicts(turns[:-1])], add_generation_prompt=True)
    return texts[0], encode_texts(tokenizer, texts, special=False)[0]


def encode_conversations(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[Message]]
) -> list[tuple[list[int], list[TokenSpan]]]:
    """(ids, learned spans in order) of each conversation, whose last turn is learned. Raises ToolkitError."""
    texts = render_chats(tokenizer, [to_message_dicts(turns) for turns in conversations])
    learned = [(i, k) for i, turns in enumerate(conversations) for k, turn in enumerate(turns) if turn.learned]
    before = [to_message_dicts(conversations[i][:k]) for i, k in learned]
    until = [to_message_dicts(conversations[i][: k + 1]) for i, k in learned]
    begins = render_chats(tokenizer, before, add_generation_prompt=True)
    ends = render_chats(tokenizer, until)
    encoded = encode_with_offsets(tokenizer, texts)
    spans: list[list[TokenSpan]] = [[] for _ in conversations]
    for (i, _), begin, end in zip(learned, begins, ends, strict=True):
        spans[i].append(_find_answer_span(tokenizer, texts[i], encoded[i], begin, end))
    return [_append_eos(tokenizer, ids, found) for (ids, _), found in zip(encoded, spans, strict=True)]


def _find_answer_span(
    tokenizer: PreTrainedTokenizerBase, text: str, encoded: tuple[list[int], list[int]], begin: str, end: str
) -> TokenSpan:
    ids, starts = encoded
    first = bisect_left(starts, common_prefix_length(begin, text))
    if text.startswith(end):
        return first, bisect_left(starts, len(end))
    # a template that writes earlier answers differently (it takes their reasoning out): up to where generation stops
    eos = tokenizer.eos_token_id
    if eos not in ids[first:]:
        message = "The model's chat template rewrites earlier turns: which tokens an earlier answer is can't be told."
        raise ToolkitError(message, "Choose another model, or train on one answer a row with two templates.")
    return first, ids.index(eos, first) + 1


def _append_eos(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], spans: list[TokenSpan]
) -> tuple[list[int], list[TokenSpan]]:
    """A template may end a turn with nothing, or with a mark that is not where generation stops: add EOS at the end."""
    first, _ = spans[-1]
    if tokenizer.eos_token_id in ids[first:]:
        return ids, spans
    return [*ids, tokenizer.eos_token_id], [*spans[:-1], (first, len(ids) + 1)]
