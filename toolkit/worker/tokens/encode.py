"""Render messages as text and encode text as token ids, in batches at the speed of the tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import TemplateError
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from toolkit.data.conversations import MessageDict
from toolkit.errors import ToolkitError


def render_chats(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Sequence[MessageDict]],
    *,
    add_generation_prompt: bool = False,
) -> list[str]:
    """Return the text of each conversation.

    Raises ToolkitError: the chat template rejects a conversation; the message shows the first one.
    """
    try:
        return _render(tokenizer, conversations, add_generation_prompt)
    except TemplateError as error:
        raise _explain_rejection(tokenizer, conversations, add_generation_prompt) or ToolkitError(
            f"The model's chat template failed: {error}", "Choose another model."
        ) from error


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: list[str], *, add_special_tokens: bool) -> list[list[int]]:
    """Return the ids of each text.

    add_special_tokens: add what the tokenizer puts around a plain text; a second BOS is removed.
    """
    if tokenizer.is_fast:
        backend = unpadded_backend(tokenizer)
        encoded = [item.ids for item in backend.encode_batch_fast(texts, add_special_tokens=add_special_tokens)]
    else:
        encoded = tokenizer(texts, add_special_tokens=add_special_tokens, truncation=False)["input_ids"]
    return [remove_double_bos(ids, tokenizer.bos_token_id) for ids in encoded]


def remove_double_bos(ids: list[int], bos: int | None) -> list[int]:
    """Remove the first of two BOS tokens: the text had one, and the tokenizer added its own."""
    return ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids


def encode_with_offsets(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[tuple[list[int], list[int]]]:
    """Return (ids, start of each token as a character offset) of each text, without added special tokens.

    Raises ToolkitError: the tokenizer does not report offsets.
    """
    if not tokenizer.is_fast:
        message = "This model's tokenizer does not report the position of its tokens, so training on single messages "
        hint = "Train with a prompt and a completion template instead, or choose a model with a fast tokenizer."
        raise ToolkitError(message + "is not possible.", hint)
    encodings = unpadded_backend(tokenizer).encode_batch(texts, add_special_tokens=False)
    pairs = [(item.ids, [start for start, _ in item.offsets]) for item in encodings]
    bos = tokenizer.bos_token_id
    return [(i[1:], s[1:]) if bos is not None and i[:2] == [bos, bos] else (i, s) for i, s in pairs]


def common_prefix_length(prompt: Sequence[int] | str, full: Sequence[int] | str) -> int:
    """Return the length of the common prefix of a prompt and the full text, in tokens or characters.

    It can be shorter than the prompt: tokens may merge where the completion starts, and templates may differ there.
    """
    if full[: len(prompt)] == prompt:
        return len(prompt)
    longest = min(len(prompt), len(full))
    return next((i for i in range(longest) if prompt[i] != full[i]), longest)


def unpadded_backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """Return the tokenizer of the `tokenizers` library, with truncation and padding turned off."""
    backend: Tokenizer = tokenizer.backend_tokenizer
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


def _explain_rejection(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[MessageDict]], add_generation_prompt: bool
) -> ToolkitError | None:
    for messages in conversations:
        try:
            _render(tokenizer, [messages], add_generation_prompt)
        except TemplateError as error:
            first = next((message["content"] for message in messages if message["role"] == "user"), "")
            roles = ", ".join(message["role"] for message in messages[:8])
            message = (
                f"The model's chat template rejects a conversation ({error}). Its roles are {roles}, and its first "
            )
            hint = "Correct this conversation, or choose another model."
            return ToolkitError(message + f"user message is '{first[:80]}'.", hint)
    return None
