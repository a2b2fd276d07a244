"""What a chat template writes between the prompt of a generation and the answer: it is no part of the answer.

Qwen3 writes an empty block of reasoning there, other families a channel or a recipient. A trained model writes it
itself, since it is in the rows; scores, sample outputs and chat leave it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

from toolkit.errors import ToolkitError
from toolkit.worker.tokens.encode import common_prefix_length, encode_texts, render_chats

_ANSWER = "\u2063answer\u2063"
_HEADERS: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[int, ...]] = WeakKeyDictionary()


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
