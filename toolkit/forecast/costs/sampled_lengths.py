"""The token lengths of the examples: counted by the background worker, or estimated from a sample of the training rows.

The sample is rendered with the templates and tokenized with the model's tokenizer.json. The longest rows, which decide
the memory, are found by their characters. In a very large table all usable rows stand for the training rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer

from toolkit.config import DataConfig
from toolkit.data.examples.batches import IntegerArray
from toolkit.data.examples.renderers import renderer_of
from toolkit.data.examples.split import count_parts, plan_split, usable_indices
from toolkit.data.table import Table

SAMPLED_ROWS, LONGEST_SAMPLED_ROWS = 384, 64  # rows spread over the table, and the longest ones
MAX_SAMPLED_CHARACTERS = 400_000
"""Of the sampled text: tokenizing it takes about 0.1 s."""
MAX_SCANNED_BYTES = 64_000_000
"""A larger table is neither split nor searched for its longest rows: reading it takes too long for a page."""
CHAT_TEMPLATE_TOKENS = 12
"""Tokens that a chat template usually adds to one question and answer; an estimate."""
CHARACTERS_PER_TOKEN = 3.6
"""Of English text in common vocabularies; used only without a tokenizer.json."""

TokenCounts = np.ndarray[Any, np.dtype[np.int32]]
LengthSource = Literal["counted", "sampled", "characters"]
"""counted: exact, for every row. sampled: by the tokenizer, for a sample. characters: estimated from the text."""


@dataclass(frozen=True)
class SampledLengths:
    """Token lengths of the examples.

    train, test: numbers of rows. tokens, trained: tokens of each sampled row, and those with a loss. longest: tokens of
    the longest rows, descending. source: how the tokens were counted.
    """

    train: int
    test: int
    tokens: IntegerArray
    trained: IntegerArray
    longest: IntegerArray
    source: LengthSource

    def row_tokens(self, limit: int) -> IntegerArray:
        """Return the tokens of every training row, truncated to `limit`: the sample repeated, the longest rows once."""
        spread = _spread_sample(self)
        top = min(len(self.longest), self.train)
        spread = np.sort(spread)
        spread[len(spread) - top :] = np.maximum(spread[len(spread) - top :], np.sort(self.longest[:top]))
        return np.minimum(spread, limit)

    def trained_share(self, limit: int) -> float:
        """Return the share of tokens with a loss in rows that are truncated to `limit`."""
        kept = np.minimum(self.tokens, limit)
        with_loss = np.maximum(kept - (self.tokens - self.trained), 0)
        return float(with_loss.sum() / max(int(kept.sum()), 1))


def _spread_sample(lengths: SampledLengths) -> IntegerArray:
    """Repeat or thin out the sample evenly over its sorted lengths, to one length per training row."""
    places = (np.arange(lengths.train) + 0.5) / lengths.train * len(lengths.tokens)
    return np.sort(lengths.tokens)[places.astype(np.int64)]


def sample_lengths(table: Table, data: DataConfig, tokenizer: Path | None, chat: bool) -> SampledLengths:
    """Estimate the lengths of a table's examples; the result is cached. chat: whether a chat template is used.

    Raises DataError for invalid templates and splits.
    """
    settings = {name: getattr(data, name) for name in _ROW_SETTINGS} | {"optional_columns": None}
    if data.optional_columns:
        settings["optional_columns"] = tuple(data.optional_columns)
    return _sample_lengths(_TableKey(table), tuple(settings.items()), tokenizer, chat)


def counted_lengths(table: Table, data: DataConfig, counts: TokenCounts) -> SampledLengths:
    """Return the exact lengths of a table's examples.

    counts: shape (rows of the table, 2), tokens of prompt and completion, -1 for skipped rows; from the background
    worker. Raises DataError for invalid templates and splits.
    """
    renderer = renderer_of(data, table.columns)
    rows, train, test = _training_rows(table, data, renderer.columns_required)
    tokens, trained = counts[rows].sum(axis=1).astype(np.int64), counts[rows, 1].astype(np.int64)
    usable = tokens > 0
    longest = np.sort(tokens[usable])[::-1][:LONGEST_SAMPLED_ROWS]
    return SampledLengths(train, test, tokens[usable], trained[usable], longest, "counted")


_ROW_SETTINGS = (
    "prompt", "prompt_stub", "messages", "train_size", "test_size", "train_test_split_seed", "stratify",
)  # fmt: skip
"""Settings that decide the training rows and their text."""


class _TableKey:
    """A table as a cache key. The path is part of it: the same bytes read with other options are other rows."""

    def __init__(self, table: Table) -> None:
        self.table, self._key = table, (table.path, table.sha256, table.rows, table.held_out)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _TableKey) and other._key == self._key


@lru_cache(maxsize=32)
def _sample_lengths(
    table_key: _TableKey, settings: tuple[tuple[str, Any], ...], tokenizer: Path | None, chat: bool
) -> SampledLengths:
    table, data = table_key.table, DataConfig(**dict(settings))
    renderer = renderer_of(data, table.columns)
    rows, train, test = _training_rows(table, data, renderer.columns_required)
    even = rows[np.linspace(0, len(rows) - 1, min(SAMPLED_ROWS, len(rows))).astype(np.int64)]
    long = rows[_row_characters(table, renderer.columns_needed)[rows].argsort()[::-1][:LONGEST_SAMPLED_ROWS]]

    def count(rows: IntegerArray) -> tuple[IntegerArray, IntegerArray]:
        examples = [renderer.example(cells) for cells in table.take(rows, renderer.columns_needed)]
        texts = _within_character_limit([(example.prompt, example.completion) for example in examples])
        prompt, completion = _count_tokens(texts, tokenizer)
        # one more for the end-of-sequence token
        return prompt + completion + 1 + (CHAT_TEMPLATE_TOKENS if chat else 0), completion + 1

    tokens, trained = count(even)
    source: LengthSource = "sampled" if tokenizer is not None else "characters"
    return SampledLengths(train, test, tokens, trained, np.sort(count(long)[0])[::-1], source)


def _training_rows(table: Table, data: DataConfig, columns: tuple[str, ...]) -> tuple[IntegerArray, int, int]:
    """Return (training rows, ascending; number of training rows; number of test rows)."""
    if table.path.stat().st_size > MAX_SCANNED_BYTES:
        usable = usable_indices(table, columns)
        return usable, *count_parts(table, usable, data.train_size, data.test_size)
    plan = plan_split(table, data)
    return np.sort(plan.train), len(plan.train), len(plan.test)


def _row_characters(table: Table, columns: tuple[str, ...]) -> IntegerArray:
    """Return the characters of each row; zeros for a table that is too large to read."""
    if not columns or table.path.stat().st_size > MAX_SCANNED_BYTES:
        return np.zeros(table.rows, dtype=np.int64)
    total = np.zeros(table.rows, dtype=np.int64)
    for column in table.read(columns).columns:
        lengths: pa.ChunkedArray = pc.fill_null(pc.utf8_length(column), 0)
        total += lengths.to_numpy()
    return total


def _within_character_limit(texts: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the first texts whose characters together stay below the limit, but at least one."""
    sizes = np.cumsum([len(prompt) + len(completion) for prompt, completion in texts])
    return texts[: max(1, int(np.searchsorted(sizes, MAX_SAMPLED_CHARACTERS)))]


def _count_tokens(texts: list[tuple[str, str]], tokenizer: Path | None) -> tuple[IntegerArray, IntegerArray]:
    """Return (tokens of each prompt, tokens of each completion)."""
    if tokenizer is None:
        counts = [[max(1, round(len(part) / CHARACTERS_PER_TOKEN)) for part in text] for text in texts]
    else:
        encode = _load_tokenizer(tokenizer, tokenizer.stat().st_mtime_ns)
        found = encode.encode_batch_fast([part for text in texts for part in text], add_special_tokens=False)
        flat = [len(item.ids) for item in found]
        counts = [flat[at : at + 2] for at in range(0, len(flat), 2)]
    both = np.asarray(counts, dtype=np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


@lru_cache(maxsize=4)
def _load_tokenizer(path: Path, stamp: int) -> Tokenizer:
    """stamp: time of the last change, part of the cache key."""
    loaded = Tokenizer.from_file(str(path))
    loaded.no_truncation()
    loaded.no_padding()
    return loaded
