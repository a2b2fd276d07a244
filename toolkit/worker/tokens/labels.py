"""Turn examples into token ids and labels; training, evaluation and the token view share this preparation.

An example becomes `input_ids` and `labels` (-100 where a token is masked). The completion with its end token is
trained. Truncation keeps the beginning of an example; truncated rows are marked, and rows without a trained token are
reported as lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from toolkit.data.examples.templates import Example
from toolkit.worker.tokens.encode import RejectedConversationsError
from toolkit.worker.tokens.examples import TokenizedExample, tokenize_examples

IGNORED_LABEL = -100
"""Label of a masked token: the default `ignore_index` of PyTorch's cross entropy."""
EXAMPLES_PER_BATCH = 2000
"""Examples that are tokenized together: enough for the tokenizer's threads, and a few megabytes of memory."""


@dataclass(frozen=True, eq=False)
class PreparedBatch:
    """What one batch of examples became, sequence by sequence.

    size: number of examples. examples, tokens: of each sequence; numbers: its example's position among all examples,
    ascending. columns: the sequences with a trained token, as PREPARED_SCHEMA; kept: their positions in `tokens`.
    rejected: position of an example that the chat template rejects -> the example and the reason.
    """

    size: int
    numbers: np.ndarray
    examples: Sequence[Example]
    tokens: Sequence[TokenizedExample]
    columns: pa.RecordBatch
    kept: np.ndarray
    rejected: dict[int, tuple[Example, str]]


BatchInspector = Callable[[PreparedBatch], None]


@dataclass(frozen=True)
class PreparedExamples:
    """Rows with at least one trained token.

    table: columns `row` (int32, the position among the given examples), `input_ids` and `labels` (list<int32>, equally
    long), `truncated` (bool). lost: positions of examples without a trained token; they are not in the table.
    """

    table: pa.Table
    lost: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.table.num_rows)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row."""
        lengths: np.ndarray = pc.list_value_length(self.table["input_ids"]).to_numpy()
        return lengths

    @property
    def tokens(self) -> int:
        """Number of tokens of all rows."""
        return int(self.lengths.sum())

    @property
    def longest(self) -> int:
        """Number of tokens of the longest row; 0 without rows."""
        return int(self.lengths.max(initial=0))


def prepare_examples(
    examples: Iterable[Example],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    chat: bool,
    *,
    completion_only: bool = True,
) -> PreparedExamples:
    """Return token ids and labels of all examples, truncated to `max_length` tokens; examples are read once.

    completion_only: mask the prompt; otherwise it is trained too. Raises ToolkitError: the tokenizer has no EOS token,
    so that no model could learn to stop.
    """
    lost: list[int] = []
    batches = list(prepare_batches(examples, tokenizer, max_length, chat, lost, completion_only=completion_only))
    return PreparedExamples(pa.Table.from_batches(batches, PREPARED_SCHEMA), tuple(lost))


def prepare_batches(
    examples: Iterable[Example],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    chat: bool,
    lost: list[int],
    *,
    completion_only: bool = True,
    inspect: BatchInspector | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yield what `prepare_examples` returns, EXAMPLES_PER_BATCH examples at a time, to bound the memory.

    lost: the positions of lost examples are appended to it. inspect: is called with each batch.

    Raises RejectedConversationsError: the chat template rejects an example, and there is no `inspect` to report it to.
    """
    remaining = iter(examples)
    start = 0
    while batch := list(islice(remaining, EXAMPLES_PER_BATCH)):
        sequences, rejected = _tokenize_accepted(batch, tokenizer, chat, can_reject=inspect is not None)
        numbers = np.array([start + at for at, _ in sequences], dtype=np.int64)
        tokens = [each for _, each in sequences]
        columns, kept = _label_batch(numbers, tokens, max_length, lost, completion_only)
        if inspect is not None:
            found = [batch[at] for at, _ in sequences]
            reasons = {start + at: (batch[at], reason) for at, reason in rejected.items()}
            inspect(PreparedBatch(len(batch), numbers, found, tokens, columns, kept, reasons))
        yield columns
        start += len(batch)


def _tokenize_accepted(
    batch: Sequence[Example], tokenizer: PreTrainedTokenizerBase, chat: bool, *, can_reject: bool
) -> tuple[list[tuple[int, TokenizedExample]], dict[int, str]]:
    """Return (position in the batch, tokens) of each sequence, and why the chat template rejects the other examples."""
    accepted, rejected = list(range(len(batch))), dict[int, str]()
    tokens: list[TokenizedExample] = []
    while accepted and not tokens:
        try:
            tokens = tokenize_examples([batch[at] for at in accepted], tokenizer, chat)
        except RejectedConversationsError as error:
            if not can_reject:
                raise
            rejected |= {accepted[at]: reason for at, reason in error.reasons.items()}
            accepted = [at for at in accepted if at not in rejected]
    pairs = zip(accepted, tokens, strict=True)
    return [(at, sequence) for at, each in pairs for sequence in (*each.earlier, each)], rejected


PREPARED_SCHEMA = pa.schema(
    {"row": pa.int32(), "input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32()), "truncated": pa.bool_()}
)


def _label_batch(
    numbers: np.ndarray, tokens: Sequence[TokenizedExample], max_length: int, lost: list[int], completion_only: bool
) -> tuple[pa.RecordBatch, np.ndarray]:
    """Return (the columns of the sequences with a trained token, their positions). numbers: of their examples."""
    sizes = np.fromiter((len(each.ids) for each in tokens), np.int64, len(tokens))
    ids = np.fromiter(chain.from_iterable(each.ids for each in tokens), np.int32, int(sizes.sum()))
    starts = np.cumsum(sizes) - sizes
    kept = np.arange(len(ids)) - np.repeat(starts, sizes) < max_length
    trained = kept & (trained_token_mask(tokens, starts, len(ids)) if completion_only else True)
    usable = np.logical_or.reduceat(trained, starts) if len(ids) else np.zeros(len(tokens), dtype=bool)
    lost += sorted(set(numbers.tolist()) - set(numbers[usable].tolist()))
    kept &= np.repeat(usable, sizes)
    labels = np.where(trained, ids, np.int32(IGNORED_LABEL))[kept]
    offsets = pa.array(np.concatenate([[0], np.cumsum(np.minimum(sizes[usable], max_length))]), pa.int32())
    rows = pa.array(numbers[usable], pa.int32())
    lists = [pa.ListArray.from_arrays(offsets, pa.array(values, pa.int32())) for values in (ids[kept], labels)]
    columns = [rows, *lists, pa.array(sizes[usable] > max_length)]
    return pa.record_batch(columns, schema=PREPARED_SCHEMA), np.flatnonzero(usable)


def trained_token_mask(tokens: Sequence[TokenizedExample], starts: np.ndarray, total: int) -> np.ndarray:
    """Return a mask of the trained tokens, over the concatenated tokens of all examples.

    starts: position of the first token of each example. total: number of tokens.
    """
    spans = [(at, *span) for at, each in zip(starts.tolist(), tokens, strict=True) for span in each.learned]
    at, first, end = np.array(spans, dtype=np.int64).reshape(-1, 3).T
    steps = np.bincount(at + first, minlength=total + 1) - np.bincount(at + end, minlength=total + 1)
    return np.cumsum(steps)[:total] > 0


def make_collator(tokenizer: PreTrainedTokenizerBase) -> DataCollatorForLanguageModeling:
    """Return the collator that training uses."""
    return DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id)
