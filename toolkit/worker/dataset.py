"""Prompt and completion, or a conversation -> token ids and labels: the one preparation that training, evaluation and
chat share.

An example becomes `input_ids` and `labels` (-100 where nothing is learned). Learned is the completion with its end:
the tokenizer's EOS is appended where a chat template does not put it. Truncation keeps the beginning, and what it
takes away is counted, never dropped in silence. Knows no file, no run and no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase

from toolkit.config import Config
from toolkit.errors import ConfigError, Problem, ToolkitError
from toolkit.worker.conversation import Span, Turn, asked, encode_conversations
from toolkit.worker.encode import Message as Message
from toolkit.worker.encode import encode, render_chats, shared_beginning

IGNORED = -100
BATCH = 2000


class PromptAndCompletion(Protocol):
    """What `toolkit.data.prompt.Example` offers."""

    @property
    def prompt(self) -> str: ...
    @property
    def completion(self) -> str: ...
    @property
    def turns(self) -> Sequence[Turn]: ...


@dataclass(frozen=True)
class Prepared:
    """Rows that train.

    table: columns `row` (int32, the position among the given examples), `input_ids` and `labels` (list<int32>, of one
    length), `truncated` (bool).  lost: positions of examples without any trainable token left, not in the table.
    """

    table: pa.Table
    lost: tuple[int, ...]

    @property
    def rows(self) -> int:
        return int(self.table.num_rows)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row."""
        return pc.list_value_length(self.table["input_ids"]).to_numpy()

    @property
    def tokens(self) -> int:
        return int(self.lengths.sum())

    @property
    def trained_tokens(self) -> int:
        return sum(int((part.flatten().to_numpy() != IGNORED).sum()) for part in self.table["labels"].chunks)

    @property
    def longest(self) -> int:
        return int(self.lengths.max(initial=0))

    @property
    def truncated_rows(self) -> int:
        """Rows that lost tokens, those that lost their whole completion included."""
        return int(np.count_nonzero(self.table["truncated"].to_numpy())) + len(self.lost)


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


def prompt_ids(
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    system: str | None = None,
    history: Sequence[Message] = (),
) -> tuple[str, list[int]]:
    """The text and the token ids that a model is asked with: exactly the beginning of a training example.

    `history` holds {"role", "content"} messages. A model without turns gets their texts line by line.
    """
    chat = chat_enabled(config, tokenizer)
    earlier = ([{"role": "system", "content": system}] if system else []) + list(history)
    if chat:
        text = render_chats(tokenizer, [[*earlier, _user(prompt)]], add_generation_prompt=True)[0]
    else:
        text = "\n".join([*(message["content"] for message in earlier), prompt])
    ids = encode(tokenizer, [text], special=not chat)[0]
    # some plain tokenizers close every text: a prompt stays open
    return text, ids[:-1] if not chat and ids and ids[-1] == tokenizer.eos_token_id else ids


def question(
    config: Config, tokenizer: PreTrainedTokenizerBase, prompt: str, turns: Sequence[Turn] = ()
) -> tuple[str, list[int]]:
    """What a model is asked with to write an example's completion, or its conversation's last turn: text and ids."""
    return asked(tokenizer, turns) if turns else prompt_ids(config, tokenizer, prompt)


def prepare(
    examples: Iterable[PromptAndCompletion], tokenizer: PreTrainedTokenizerBase, max_length: int, chat: bool
) -> Prepared:
    """Token ids and labels of every example, cut to `max_length` tokens; examples are read once, batch by batch.

    Raises ToolkitError when the tokenizer has no end-of-sequence token: nothing could be taught to stop.
    """
    lost: list[int] = []
    batches = list(prepare_batches(examples, tokenizer, max_length, chat, lost))
    return Prepared(pa.Table.from_batches(batches, SCHEMA), tuple(lost))


def prepare_batches(
    examples: Iterable[PromptAndCompletion],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    chat: bool,
    lost: list[int],
) -> Iterator[pa.RecordBatch]:
    """What `prepare` returns, BATCH examples at a time for those who must not hold all; `lost` fills meanwhile."""
    rest = iter(examples)
    start = 0
    while batch := list(islice(rest, BATCH)):
        yield _columns(start, tokenize(batch, tokenizer, chat), max_length, lost)
        start += len(batch)


class Tokens(NamedTuple):
    """One example, nothing cut. prompt: what the model would be asked with. ids: all of it, with its end.

    learned: spans of `ids`, in order; the first one begins before len(prompt) where the two begin differently.
    """

    prompt: list[int]
    ids: list[int]
    learned: list[Span]

    @property
    def learned_from(self) -> int:
        """The position where the completion, or the first answer of a conversation, begins."""
        return self.learned[0][0] if self.learned else len(self.ids)


def tokenize(batch: Sequence[PromptAndCompletion], tokenizer: PreTrainedTokenizerBase, chat: bool) -> list[Tokens]:
    """The token ids of each example. Raises ToolkitError as `prepare` does."""
    if tokenizer.eos_token_id is None:
        raise ToolkitError("The tokenizer has no end-of-sequence token.", "Choose a model whose tokenizer has one.")
    if batch[0].turns:
        found = encode_conversations(tokenizer, [example.turns for example in batch])
        return [Tokens(ids[: learned[0][0]], ids, learned) for ids, learned in found]
    pairs = _pairs(batch, tokenizer, chat)
    return [Tokens(begin, full, [(shared_beginning(begin, full), len(full))]) for begin, full in pairs]


SCHEMA = pa.schema(
    {"row": pa.int32(), "input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32()), "truncated": pa.bool_()}
)


def _columns(start: int, tokens: Sequence[Tokens], max_length: int, lost: list[int]) -> pa.RecordBatch:
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for row, (_, full, learned) in enumerate(tokens, start):
        if not any(first < min(end, max_length) for first, end in learned):
            lost.append(row)
            continue
        labels: list[int] = []
        for first, end in learned:
            labels += [IGNORED] * (first - len(labels)) + full[first:end]
        labels += [IGNORED] * (len(full) - len(labels))
        columns["row"].append(row)
        columns["input_ids"].append(full[:max_length])
        columns["labels"].append(labels[:max_length])
        columns["truncated"].append(len(full) > max_length)
    return pa.record_batch(columns, schema=SCHEMA)


def _pairs(
    batch: Sequence[PromptAndCompletion], tokenizer: PreTrainedTokenizerBase, chat: bool
) -> list[tuple[list[int], list[int]]]:
    """(ids of the prompt alone, ids of prompt and completion with the end) for each example."""
    eos, eos_id = str(tokenizer.eos_token), tokenizer.eos_token_id
    if chat:
        asked = [[_user(example.prompt)] for example in batch]
        answered = [
            [*messages, {"role": "assistant", "content": example.completion}]
            for messages, example in zip(asked, batch, strict=True)
        ]
        begins = encode(tokenizer, render_chats(tokenizer, asked, add_generation_prompt=True), special=False)
        fulls = encode(tokenizer, render_chats(tokenizer, answered), special=False)
        # a template may end a turn with nothing, or with a mark that is not where generation stops
        pairs = zip(begins, fulls, strict=True)
        return [(begin, full if eos_id in full[len(begin) :] else [*full, eos_id]) for begin, full in pairs]
    closed = [example.prompt + example.completion.removesuffix(eos) + eos for example in batch]
    begins = encode(tokenizer, [example.prompt for example in batch], special=True)
    fulls = encode(tokenizer, closed, special=True)
    # some plain tokenizers close every text by themselves
    fulls = [full[:-1] if full[-2:] == [eos_id, eos_id] else full for full in fulls]
    return list(zip(begins, fulls, strict=True))


def _user(prompt: str) -> Message:
    return {"role": "user", "content": prompt}
