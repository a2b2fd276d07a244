"""Tokenize examples: how a prompt is given to a model, and which tokens of an example are answers.

EOS is appended where a chat template does not write it, and a second BOS is removed. Nothing is truncated here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from toolkit.config import Config
from toolkit.data.chat_messages import Message
from toolkit.data.conversations import MessageDict
from toolkit.data.examples.templates import Example
from toolkit.errors import ConfigError, Problem, ToolkitError
from toolkit.worker.tokens.conversation import (
    EncodedConversation,
    TokenSpan,
    encode_conversation_prompt,
    encode_conversations,
)
from toolkit.worker.tokens.encode import common_prefix_length, encode_texts, render_chats
from toolkit.worker.tokens.shared_prefix import encode_pairs


def chat_enabled(config: Config, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether prompts are rendered with the chat template.

    Raises ConfigError: the template is needed, but the tokenizer has none or the settings turn it off.
    """
    wanted = config.data.use_chat_template
    needed = config.data.messages is not None
    if (wanted or needed) and not tokenizer.chat_template:
        message = f"The tokenizer of '{config.model.hf_model_ckpt}' has no chat template."
        if needed:
            message += " Training on conversations needs one."
            hint = "Choose a chat model, or train with a prompt and a completion template."
            raise ConfigError([Problem("model.hf_model_ckpt", message, hint)])
        raise ConfigError([Problem("data.use_chat_template", message, "Turn it off, or choose a chat model.")])
    if needed and wanted is False:
        message = "Training on conversations needs the chat template, but it is turned off."
        raise ConfigError([Problem("data.use_chat_template", message, "Turn it on, or leave it empty.")])
    return bool(tokenizer.chat_template) if wanted is None else wanted


def encode_prompt(
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    system: str | None = None,
    history: Sequence[MessageDict] = (),
) -> tuple[str, list[int]]:
    """Return (text, ids) of a prompt, exactly as training examples begin.

    history: the messages before the prompt. Without a chat template, all texts are joined by line breaks.
    """
    chat = chat_enabled(config, tokenizer)
    earlier = ([{"role": "system", "content": system}] if system else []) + list(history)
    if chat:
        text = render_chats(tokenizer, [[*earlier, _user_message(prompt)]], add_generation_prompt=True)[0]
    else:
        text = "\n".join([*(message["content"] for message in earlier), prompt])
    ids = encode_texts(tokenizer, [text], add_special_tokens=not chat)[0]
    return text, ids if chat else _without_trailing_eos(ids, tokenizer.eos_token_id)


def encode_example_prompt(
    config: Config, tokenizer: PreTrainedTokenizerBase, prompt: str, turns: Sequence[Message] = ()
) -> tuple[str, list[int]]:
    """Return (text, ids) that make a model write the completion of an example, or the last message of `turns`."""
    return encode_conversation_prompt(tokenizer, turns) if turns else encode_prompt(config, tokenizer, prompt)


class TokenizedExample(NamedTuple):
    """One example before truncation.

    prompt: the ids that the model gets in use. ids: the whole example with its end token. learned: the trained spans
    of `ids`, in order. The first one starts before len(prompt) where a token of the prompt changes because the
    completion follows. earlier: sequences of their own for earlier answers of a conversation, which its template
    writes otherwise once more messages follow.
    """

    prompt: list[int]
    ids: list[int]
    learned: list[TokenSpan]
    earlier: tuple[TokenizedExample, ...] = ()

    @property
    def completion_start(self) -> int:
        """Position of the first token of the completion, or of the first answer of a conversation."""
        return self.learned[0][0] if self.learned else len(self.ids)

    @property
    def merged_at_boundary(self) -> bool:
        """Whether the last token of the prompt changes when the completion follows."""
        return self.completion_start < len(self.prompt)


def tokenize_examples(
    batch: Sequence[Example], tokenizer: PreTrainedTokenizerBase, chat: bool
) -> list[TokenizedExample]:
    """Return the token ids of each example; either all examples of a batch are conversations, or none is.

    Raises ToolkitError: the tokenizer has no EOS token (no model could learn to stop), or the template rejects an
    example.
    """
    if tokenizer.eos_token_id is None:
        hint = "Name it as eos_token in the model's tokenizer_config.json, or choose a model whose tokenizer has one."
        raise ToolkitError("The tokenizer has no end-of-sequence token.", hint)
    if batch[0].turns:
        encoded = encode_conversations(tokenizer, [example.turns for example in batch])
        return [_from_sequences(*sequences) for sequences in encoded]
    pairs = _encode_examples(batch, tokenizer, chat)
    return [TokenizedExample(prompt, ids, [(common_prefix_length(prompt, ids), len(ids))]) for prompt, ids in pairs]


def _from_sequences(*sequences: EncodedConversation) -> TokenizedExample:
    found = [TokenizedExample(ids[: answers[0][0]], ids, answers) for ids, answers in sequences]
    return found[-1]._replace(earlier=tuple(found[:-1]))


def _encode_examples(
    batch: Sequence[Example], tokenizer: PreTrainedTokenizerBase, chat: bool
) -> list[tuple[list[int], list[int]]]:
    """Return (ids of the prompt alone, ids of prompt and completion with EOS) for each example."""
    eos, eos_id = str(tokenizer.eos_token), tokenizer.eos_token_id
    if chat:
        questions = [[_user_message(example.prompt)] for example in batch]
        answered = [
            [*messages, {"role": "assistant", "content": example.completion}]
            for messages, example in zip(questions, batch, strict=True)
        ]
        prompts = render_chats(tokenizer, questions, add_generation_prompt=True)
        pairs = encode_pairs(tokenizer, prompts, render_chats(tokenizer, answered), add_special_tokens=False)
        # a template may end a message with nothing, or with a marker that does not stop generation
        return [(prompt, full if eos_id in full[len(prompt) :] else [*full, eos_id]) for prompt, full in pairs]
    texts = [example.prompt + example.completion.removesuffix(eos) + eos for example in batch]
    # some tokenizers append EOS to every text: remove it from the prompt, and keep only one after the completion
    pairs = encode_pairs(tokenizer, [example.prompt for example in batch], texts, add_special_tokens=True)
    return [
        (_without_trailing_eos(prompt, eos_id), full[:-1] if full[-2:] == [eos_id, eos_id] else full)
        for prompt, full in pairs
    ]


def _without_trailing_eos(ids: list[int], eos_id: int | None) -> list[int]:
    return ids[:-1] if ids and ids[-1] == eos_id else ids


def _user_message(prompt: str) -> MessageDict:
    return {"role": "user", "content": prompt}
