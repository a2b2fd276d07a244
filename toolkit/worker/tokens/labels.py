"""Prompt and completion, or a conversation -> token ids and labels: the one preparation that training, evaluation and
chat share.

An example becomes `input_ids` and `labels` (-100 where nothing is learned). Learned is the completion with its end;
which ids a text gets is `tokens.py`'s. Truncation keeps the beginning, and what it
takes away is counted, never dropped in silence. Knows no file, no run and no model.
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
from toolkit.worker.tokens.examples import TokenizedExample, tokenize_examples

IGNORED_LABEL = -100
EXAMPLES_PER_BATCH = 2000
BatchInspector = Callable[[int, Sequence[Example], Sequence[TokenizedExample], pa.RecordBatch], None]


@dataclass(frozen=True)
class PreparedExamples:
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
        lengths: np.ndarray = pc.list_value_length(self.table["input_ids"]).to_numpy()
        return lengths

    @property
    def tokens(self) -> int:
        return int(self.lengths.sum())

    @property
    def longest(self) -> int:
        return int(self.lengths.max(initial=0))


def prepare_examples(
    examples: Iterable[Example],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    chat: bool,
    *,
    completion_only: bool = True,
) -> PreparedExamples:
    """Token ids and labels of every example, cut to `max_length` tokens; examples are read once, batch by batch.

    completion_only: whether the prompt is masked; else it is learned like the rest.

    Raises ToolkitError when the tokenizer has no end-of-sequence token: nothing could be taught to stop.
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
    """What `prepare` returns, BATCH examples at a time for those who must not hold all; `lost` fills meanwhile.

    inspect: sees every batch with what was made of it: the number of its first example, the examples, their tokens.
    """
    rest = iter(examples)
    start = 0
    while batch := list(islice(rest, EXAMPLES_PER_BATCH)):
        tokens = tokenize_examples(batch, tokenizer, chat)
        columns = _label_batch(start, tokens, max_length, lost, completion_only)
        if inspect is not None:
            inspect(start, batch, tokens, columns)
        yield columns
        start += len(batch)


PREPARED_SCHEMA = pa.schema(
    {"row": pa.int32(), "input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32()), "truncated": pa.bool_()}
)


def _label_batch(
    start: int, tokens: Sequence[TokenizedExample], max_length: int, lost: list[int], completion_only: bool
) -> pa.RecordBatch:
    sizes = np.fromiter((len(each.ids) for each in tokens), np.int64, len(tokens))
    ids = np.fromiter(chain.from_iterable(each.ids for each in tokens), np.int32, int(sizes.sum()))
    starts = np.cumsum(sizes) - sizes
    kept = np.arange(len(ids)) - np.repeat(starts, sizes) < max_length
    learned = kept & (trained_token_mask(tokens, starts, len(ids)) if completion_only else True)
    some = np.logical_or.reduceat(learned, starts) if len(ids) else np.zeros(0, dtype=bool)
    lost += (start + np.flatnonzero(~some)).tolist()
    kept &= np.repeat(some, sizes)
    labels = np.where(learned, ids, np.int32(IGNORED_LABEL))[kept]
    offsets = pa.array(np.concatenate([[0], np.cumsum(np.minimum(sizes[some], max_length))]), pa.int32())
    rows = pa.array(start + np.flatnonzero(some), pa.int32())
    lists = [pa.ListArray.from_arrays(offsets, pa.array(values, pa.int32())) for values in (ids[kept], labels)]
    return pa.record_batch([rows, *lists, pa.array(sizes[some] > max_length)], schema=PREPARED_SCHEMA)


def trained_token_mask(tokens: Sequence[TokenizedExample], starts: np.ndarray, total: int) -> np.ndarray:
    """Which of the `total` tokens are learned, one example's after the other's; `starts`: where each example begins."""
    spans = [(at, *span) for at, each in zip(starts.tolist(), tokens, strict=True) for span in each.learned]
    at, first, end = np.array(spans, dtype=np.int64).reshape(-1, 3).T
    steps = np.bincount(at + first, minlength=total + 1) - np.bincount(at + end, minlength=total + 1)
    return np.cumsum(steps)[:total] > 0


def make_collator(tokenizer: PreTrainedTokenizerBase) -> DataCollatorForLanguageModeling:
    return DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id)
