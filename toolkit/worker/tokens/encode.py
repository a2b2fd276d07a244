"""Messages -> text -> token ids, in batches, at the tokenizer's own speed. Knows no example and no label."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from toolkit.data.conversations import MessageDict
from toolkit.errors import ToolkitError


def render_chats(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Sequence[MessageDict]],
    *,
    add_generation_prompt: bool = False,
) -> list[str]:
    """The text of each conversation. Raises ToolkitError with the first one that the chat template refuses."""
    try:
        return _render(tokenizer, conversations, add_generation_prompt)
    except TemplateError as error:
        raise _explain_refusal(tokenizer, conversations, add_generation_prompt) or ToolkitError(
            f"The model's chat template can't be used: {error}", "Choose another model."
        ) from error


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: list[str], *, special: bool) -> list[list[int]]:
    """Ids of each text; `special` adds what the tokenizer adds around a plain text, never a second BOS."""
    if tokenizer.is_fast:
        encoded = [
            item.ids for item in unpadded_backend(tokenizer).encode_batch_fast(texts, add_special_tokens=special)
        ]
    else:
        encoded = tokenizer(texts, add_special_tokens=special, truncation=False)["input_ids"]
    return [remove_double_bos(ids, tokenizer.bos_token_id) for ids in encoded]


def remove_double_bos(ids: list[int], bos: int | None) -> list[int]:
    """Without the first of two beginnings of sequence: the text had one, and the tokenizer put its own before it."""
    return ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids


def encode_with_offsets(
    tokenizer: PreTrainedTokenizerBase, texts: list[str]
) -> list[tuple[list[int], list[int]]]:  # fmt: skip
    """(ids, the character of the text at which each of them begins) without anything added around.

    Raises ToolkitError for a tokenizer that can't tell.
    """
    if not tokenizer.is_fast:
        message = "This model's tokenizer can't tell where its tokens begin, so that single turns can't be learned."
        raise ToolkitError(message, "Train on two templates instead, or choose a model with a fast tokenizer.")
    found = unpadded_backend(tokenizer).encode_batch(texts, add_special_tokens=False)
    pairs = [(item.ids, [start for start, _ in item.offsets]) for item in found]
    bos = tokenizer.bos_token_id
    return [(i[1:], s[1:]) if bos is not None and i[:2] == [bos, bos] else (i, s) for i, s in pairs]


def common_prefix_length(begin: Sequence[int] | str, full: Sequence[int] | str) -> int:
    """Length of the common beginning: tokens may merge where the completion starts, templates may differ there."""
    if full[: len(begin)] == begin:
        return len(begin)
    longest = min(len(begin), len(full))
    return next((i for i in range(longest) if begin[i] != full[i]), longest)


def unpadded_backend(tokenizer: PreTrainedTokenizerBase):  # type: ignore[no-untyped-def]
    """The library's own tokenizer, which cuts nothing off and pads nothing."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return backend


def _render(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[MessageDict]], add_generation_prompt: bool
) -> list[str]:
    if not conversations:
        return []
    texts = tokenizer.apply_chat_template(
        [list(messages) for messages in conversations], tokenize=False, add_generation_prompt=add_generation_prompt
    )
    return [str(text) for text in texts]


def _explain_refusal(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[MessageDict]], add_generation_prompt: bool
) -> ToolkitError | None:
    for messages in conversations:
        try:
            _render(tokenizer, [messages], add_generation_prompt)
        except TemplateError as error:
            first = next((message["content"] for message in messages if message["role"] == "user"), "")
            roles = ", ".join(message["role"] for message in messages[:8])
            message = f"The model's chat template refuses a conversation ({error}); its roles are {roles}, and it asks "
            return ToolkitError(message + f"'{first[:80]}'.", "Correct this conversation, or choose another model.")
    return None
