"""Render messages as text and encode text as token ids, in batches at the speed of the tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import SimpleNamespace
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils
from transformers.utils.chat_template_utils import render_jinja_template

from toolkit.data.conversations import MessageDict
from toolkit.errors import ToolkitError

TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, LookupError, AttributeError)
"""What a chat template raises for a conversation that it rejects or does not expect."""
CharacterSpan = tuple[int, int]


@contextmanager
def chat_templates_at(moment: datetime | None) -> Iterator[None]:
    """Let chat templates that write the date write that of `moment` inside the block, in all threads; None is now."""
    library, before = vars(chat_template_utils), chat_template_utils.datetime
    try:
        if moment is not None:
            library["datetime"] = SimpleNamespace(now=lambda: moment)
        yield
    finally:
        library["datetime"] = before


class RejectedConversationsError(ToolkitError):
    """The chat template rejects conversations. reasons: position among the given conversations -> reason."""

    def __init__(self, message: str, hint: str, reasons: dict[int, str]) -> None:
        super().__init__(message, hint)
        self.reasons = reasons


def render_chats(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Sequence[MessageDict]],
    *,
    tools: Sequence[str] = (),
    add_generation_prompt: bool = False,
) -> list[str]:
    """Return the text of each conversation. tools: the JSON list of the tools of each, "" for none; empty: no tools.

    Raises RejectedConversationsError: the chat template rejects a conversation; the message shows the first one.
    """
    try:
        return _render(tokenizer, conversations, tools, add_generation_prompt)
    except TEMPLATE_ERRORS as error:
        raise _explain_rejection(tokenizer, conversations, tools, add_generation_prompt) or ToolkitError(
            f"The model's chat template failed: {error}", "Choose another model."
        ) from error


def find_generation_spans(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[MessageDict]], tools: Sequence[str]
) -> list[list[CharacterSpan]]:
    """Return the spans of each conversation's text that its template marks with {% generation %}.

    Call it after `render_chats` has accepted the conversations. tools: as there.
    """
    found: list[list[CharacterSpan]] = []
    for messages, listed in zip(conversations, tools, strict=True):
        loaded = json.loads(listed) if listed else None
        _, spans = _render_calls(
            lambda chats, loaded=loaded: render_jinja_template(  # type: ignore[misc]
                chats,
                tools=loaded,
                chat_template=tokenizer.get_chat_template(None, loaded),
                return_assistant_tokens_mask=True,
                **tokenizer.special_tokens_map,
            ),
            [list(messages)],
        )
        found.append([(int(start), int(end)) for start, end in spans[0]])
    return found


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


def encode_with_offsets(
    tokenizer: PreTrainedTokenizerBase, texts: list[str]
) -> list[tuple[list[int], list[int], list[int]]]:
    """Return (ids, start and end of each token as character offsets) of each text, without added special tokens.

    Raises ToolkitError: the tokenizer does not report offsets.
    """
    if not tokenizer.is_fast:
        message = "This model's tokenizer does not report the position of its tokens, so training on single messages "
        hint = "Train with a prompt and a completion template instead, or choose a model with a fast tokenizer."
        raise ToolkitError(message + "is not possible.", hint)
    encodings = unpadded_backend(tokenizer).encode_batch(texts, add_special_tokens=False)
    found = [(item.ids, [at for at, _ in item.offsets], [at for _, at in item.offsets]) for item in encodings]
    bos = tokenizer.bos_token_id
    return [(i[1:], s[1:], e[1:]) if bos is not None and i[:2] == [bos, bos] else (i, s, e) for i, s, e in found]


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
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Sequence[MessageDict]],
    tools: Sequence[str],
    add_generation_prompt: bool,
) -> list[str]:
    texts = [""] * len(conversations)
    # one call for all conversations with the same tools, because a call for each is slow
    groups: dict[str, list[int]] = {}
    for at, listed in enumerate(tools or [""] * len(conversations)):
        groups.setdefault(listed, []).append(at)
    for listed, numbers in groups.items():
        loaded = json.loads(listed) if listed else None
        rendered = _render_calls(
            lambda chats, loaded=loaded: tokenizer.apply_chat_template(  # type: ignore[misc]
                chats, tools=loaded, tokenize=False, add_generation_prompt=add_generation_prompt
            ),
            [list(conversations[at]) for at in numbers],
        )
        for at, text in zip(numbers, rendered, strict=True):
            texts[at] = _check_whole(str(text))
    return texts


def _check_whole(text: str) -> str:
    """Return the text. Raises ValueError for half of a character, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("it writes half of a character") from error
    return text


def _render_calls(render: Callable[[list[list[MessageDict]]], Any], chats: list[list[MessageDict]]) -> Any:
    """Return what `render` makes of the chats; a template may want the arguments of tool calls as JSON text."""
    try:
        return render(chats)
    except TypeError:
        as_text = [[_with_text_arguments(message) for message in messages] for messages in chats]
        if as_text == chats:
            raise
        return render(as_text)


def _with_text_arguments(message: MessageDict) -> MessageDict:
    calls = []
    for call in message.get("tool_calls", ()):
        arguments = call["function"]["arguments"]
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        calls.append({**call, "function": {**call["function"], "arguments": text}})
    return {**message, "tool_calls": calls} if calls else message


def _explain_rejection(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Sequence[MessageDict]],
    tools: Sequence[str],
    add_generation_prompt: bool,
) -> ToolkitError | None:
    reasons: dict[int, str] = {}
    for at, messages in enumerate(conversations):
        try:
            _render(tokenizer, [messages], tools[at : at + 1], add_generation_prompt)
        except TEMPLATE_ERRORS as error:
            reasons[at] = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    if not reasons:
        return None
    first, reason = next(iter(reasons.items()))
    asked = next((str(message["content"]) for message in conversations[first] if message["role"] == "user"), "")
    roles = ", ".join(str(message["role"]) for message in conversations[first][:8])
    message = (
        f"The model's chat template rejects a conversation ({reason}). Its roles are {roles}, and its first "
        f"user message is '{asked[:80]}'."
    )
    return RejectedConversationsError(message, "Correct this conversation, or choose another model.", reasons)
