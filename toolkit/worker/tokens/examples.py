"""Texts -> token ids: how a prompt is put to a model, and which tokens of a completion or a conversation are answers.

The tokenizer's EOS is appended where a chat template does not put it; never a second BOS. Nothing is cut here and
nothing labelled: that is `dataset.py`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from toolkit.config import Config
from toolkit.data.conversations import Message, MessageDict
from toolkit.data.examples.templates import Example
from toolkit.errors import ConfigError, Problem, ToolkitError
from toolkit.worker.tokens.conversation import TokenSpan, encode_conversation_prompt, encode_conversations
from toolkit.worker.tokens.encode import common_prefix_length, encode_texts, render_chats
from toolkit.worker.tokens.shared_prefix import encode_pairs


def chat_enabled(config: Config, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether prompts travel in the chat template; raises ConfigError when it is needed and there is none."""
    wanted = config.data.use_chat_template
    needed = config.data.messages is not None
    if (wanted or needed) and not tokenizer.chat_template:
        message = f"The tokenizer of '{config.model.hf_model_ckpt}' has no chat template."
        if needed:
            message += " Conversations can't be trained on without one."
            hint = "Choose a chat model, or train on two templates."
            raise ConfigError([Problem("model.hf_model_ckpt", message, hint)])
        raise ConfigError([Problem("data.use_chat_template", message, "Switch it off, or choose a chat model.")])
    if needed and wanted is False:
        message = "Conversations need the chat template, and it is switched off."
        raise ConfigError([Problem("data.use_chat_template", message, "Switch it on, or leave it empty.")])
    return bool(tokenizer.chat_template) if wanted is None else wanted


def encode_prompt(
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    system: str | None = None,
    history: Sequence[MessageDict] = (),
) -> tuple[str, list[int]]:
    """The text and the token ids that a model is asked with: exactly the beginning of a training example.

    `history` holds {"role", "content"} messages. A model without turns gets their texts line by line.
    """
    chat = chat_enabled(config, tokenizer)
    earlier = ([{"role": "system", "content": system}] if system else []) + list(history)
    if chat:
        text = render_chats(tokenizer, [[*earlier, _user_message(prompt)]], add_generation_prompt=True)[0]
    else:
        text = "\n".join([*(message["content"] for message in earlier), prompt])
    ids = encode_texts(tokenizer, [text], special=not chat)[0]
    return text, ids if chat else _without_trailing_eos(ids, tokenizer.eos_token_id)


def encode_example_prompt(
    config: Config, tokenizer: PreTrainedTokenizerBase, prompt: str, turns: Sequence[Message] = ()
) -> tuple[str, list[int]]:
    """What a model is asked with to write an example's completion, or its conversation's last turn: text and ids."""
    return encode_conversation_prompt(tokenizer, turns) if turns else encode_prompt(config, tokenizer, prompt)


class TokenizedExample(NamedTuple):
    """One example, nothing cut. prompt: what the model would be asked with. ids: all of it, with its end.

    learned: spans of `ids`, in order; the first one begins before len(prompt) where the two begin differently.
    """

    prompt: list[int]
    ids: list[int]
    learned: list[TokenSpan]

    @property
    def completion_start(self) -> int:
        """The position where the completion, or the first answer of a conversation, begins."""
        return self.learned[0][0] if self.learned else len(self.ids)

    @property
    def merged(self) -> bool:
        """Whether the prompt's last token is another one when the completion follows."""
        return self.completion_start < len(self.prompt)


def tokenize_examples(
    batch: Sequence[Example], tokenizer: PreTrainedTokenizerBase, chat: bool
) -> list[TokenizedExample]:
    """The token ids of each example. Raises ToolkitError as `prepare` does."""
    if tokenizer.eos_token_id is None:
        raise ToolkitError("The tokenizer has no end-of-sequence token.", "Choose a model whose tokenizer has one.")
    if batch[0].turns:
        found = encode_conversations(tokenizer, [example.turns for example in batch])
        return [TokenizedExample(ids[: learned[0][0]], ids, learned) for ids, learned in found]
    pairs = _encode_examples(batch, tokenizer, chat)
    return [TokenizedExample(begin, full, [(common_prefix_length(begin, full), len(full))]) for begin, full in pairs]


def _encode_examples(
    batch: Sequence[Example], tokenizer: PreTrainedTokenizerBase, chat: bool
) -> list[tuple[list[int], list[int]]]:
    """(ids of the prompt alone, ids of prompt and completion with the end) for each example."""
    eos, eos_id = str(tokenizer.eos_token), tokenizer.eos_token_id
    if chat:
        asked = [[_user_message(example.prompt)] for example in batch]
        answered = [
            [*messages, {"role": "assistant", "content": example.completion}]
            for messages, example in zip(asked, batch, strict=True)
        ]
        begins = render_chats(tokenizer, asked, add_generation_prompt=True)
        pairs = encode_pairs(tokenizer, begins, render_chats(tokenizer, answered), special=False)
        # a template may end a turn with nothing, or with a mark that is not where generation stops
        return [(begin, full if eos_id in full[len(begin) :] else [*full, eos_id]) for begin, full in pairs]
    closed = [example.prompt + example.completion.removesuffix(eos) + eos for example in batch]
    # some plain tokenizers close every text by themselves: a prompt stays open, an answer is closed once
    pairs = encode_pairs(tokenizer, [example.prompt for example in batch], closed, special=True)
    return [
        (_without_trailing_eos(begin, eos_id), full[:-1] if full[-2:] == [eos_id, eos_id] else full)
        for begin, full in pairs
    ]


def _without_trailing_eos(ids: list[int], eos_id: int | None) -> list[int]:
    return ids[:-1] if ids and ids[-1] == eos_id else ids


def _user_message(prompt: str) -> MessageDict:
    return {"role": "user", "content": prompt}
