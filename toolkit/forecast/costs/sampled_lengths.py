"""How many tokens the examples have: a sample of the training rows, rendered and tokenised as training does it.

The longest rows are looked for by their characters, because they decide the memory. A sample of a large table is one,
and says so by its size: there all usable rows stand for those that train. Knows no model beyond its tokenizer.json,
and no screen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer

from toolkit.config import DataConfig
from toolkit.data.examples.renderers import renderer_of
from toolkit.data.examples.split import count_parts, plan_split, usable_indices
from toolkit.data.table import Table

SAMPLED_ROWS, LONGEST_SAMPLED_ROWS = 384, 64
MAX_SAMPLED_CHARACTERS = 400_000
"""Of the sampled text: tokenising it takes about a tenth of a second."""
MAX_SCANNED_BYTES = 64_000_000
"""A larger table is neither split nor searched for its longest rows."""
CHAT_TEMPLATE_TOKENS = 12
"""What a chat template usually adds to one question and answer."""
CHARACTERS_PER_TOKEN = 3.6
"""English text in the usual vocabularies; only where the tokenizer is not at hand."""

LengthArray = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class SampledLengths:
    """train: training rows; test: held-out rows. tokens, trained: of each sampled row, whole and in its completion.

    longest: tokens of the longest rows that were found, descending. counted: whether by the model's own tokenizer.
    """

    train: int
    test: int
    tokens: LengthArray
    trained: LengthArray
    longest: LengthArray
    counted: bool

    def row_tokens(self, limit: int) -> LengthArray:
        """Tokens of every training row, cut to `limit`: the sample repeated, with the longest rows put in once."""
        spread = np.resize(np.sort(self.tokens), self.train) if self.train <= len(self.tokens) else _spread_sample(self)
        top = min(len(self.longest), self.train)
        spread = np.sort(spread)
        spread[len(spread) - top :] = np.maximum(spread[len(spread) - top :], np.sort(self.longest[:top]))
        return np.minimum(spread, limit)

    def trained_share(self, limit: int) -> float:
        """Tokens with a label among all tokens, of rows cut to `limit`."""
        kept = np.minimum(self.tokens, limit)
        learned = np.maximum(kept - (self.tokens - self.trained), 0)
        return float(learned.sum() / max(int(kept.sum()), 1))


def _spread_sample(lengths: SampledLengths) -> LengthArray:
    places = (np.arange(lengths.train) + 0.5) / lengths.train * len(lengths.tokens)
    return np.sort(lengths.tokens)[places.astype(np.int64)]


def sample_lengths(table: Table, data: DataConfig, tokenizer: Path | None, chat: bool) -> SampledLengths:
    """Look at a table through `data`'s templates. The same question is answered from memory.

    Raises DataError for templates that don't compile and sizes that don't fit.
    """
    seen = {name: getattr(data, name) for name in _ROW_SETTINGS}
    return _sample_lengths(_TableKey(table), tuple(seen.items()), tokenizer, chat)


_ROW_SETTINGS = (
    "prompt", "prompt_stub", "messages", "train_size", "test_size", "train_test_split_seed", "stratify",
)  # fmt: skip
"""Settings that decide which rows train, and what they say."""


class _TableKey:
    """A table as a cache key: its file, and the hash of what was read. The same bytes read otherwise are other rows."""

    def __init__(self, table: Table) -> None:
        self.table, self._key = table, (table.path, table.sha256, table.rows, table.held_out)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _TableKey) and other._key == self._key


@lru_cache(maxsize=32)
def _sample_lengths(
    kept: _TableKey, seen: tuple[tuple[str, Any], ...], tokenizer: Path | None, chat: bool
) -> SampledLengths:
    table, data = kept.table, DataConfig(**dict(seen))
    renderer = renderer_of(data, table.columns)
    rows, train, test = _training_rows(table, data, renderer.columns_needed)
    even = rows[np.linspace(0, len(rows) - 1, min(SAMPLED_ROWS, len(rows))).astype(np.int64)]
    long = rows[_row_characters(table, renderer.columns_needed)[rows].argsort()[::-1][:LONGEST_SAMPLED_ROWS]]

    def count(rows: LengthArray) -> tuple[LengthArray, LengthArray]:
        examples = [renderer.example(cells) for cells in table.take(rows, renderer.columns_needed)]
        asked, answered = _count_tokens(
            _within_character_limit([(example.prompt, example.completion) for example in examples]), tokenizer
        )
        return asked + answered + 1 + (CHAT_TEMPLATE_TOKENS if chat else 0), answered + 1

    tokens, trained = count(even)
    return SampledLengths(train, test, tokens, trained, np.sort(count(long)[0])[::-1], tokenizer is not None)


def _training_rows(table: Table, data: DataConfig, columns: tuple[str, ...]) -> tuple[LengthArray, int, int]:
    """(rows to look at, ascending; training rows; test rows)."""
    if table.path.stat().st_size > MAX_SCANNED_BYTES:
        usable = usable_indices(table, columns)
        return usable, *count_parts(table, usable, data.train_size, data.test_size)
    plan = plan_split(table, data)
    return np.sort(plan.train), len(plan.train), len(plan.test)


def _row_characters(table: Table, columns: tuple[str, ...]) -> LengthArray:
    """Characters of each row; zeros for a table that is too large to be read for this."""
    if not columns or table.path.stat().st_size > MAX_SCANNED_BYTES:
        return np.zeros(table.rows, dtype=np.int64)
    total = np.zeros(table.rows, dtype=np.int64)
    for column in table.read(columns).columns:
        lengths: pa.ChunkedArray = pc.fill_null(pc.utf8_length(column), 0)
        total += lengths.to_numpy()
    return total


def _within_character_limit(texts: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The first texts whose characters stay below the limit, at least one."""
    sizes = np.cumsum([len(prompt) + len(completion) for prompt, completion in texts])
    return texts[: max(1, int(np.searchsorted(sizes, MAX_SAMPLED_CHARACTERS)))]


def _count_tokens(texts: list[tuple[str, str]], tokenizer: Path | None) -> tuple[LengthArray, LengthArray]:
    """(tokens of each prompt, of each completion)."""
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
    loaded = Tokenizer.from_file(str(path))
    loaded.no_truncation()
    loaded.no_padding()
    return loaded
