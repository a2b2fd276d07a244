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

SAMPLE, LONGEST = 384, 64
MOST_CHARACTERS = 400_000
"""Of the sampled text: tokenising it takes about a tenth of a second."""
SCANNED_BYTES = 64_000_000
"""A larger table is neither split nor searched for its longest rows."""
CHAT_TOKENS = 12
"""What a chat template usually adds to one question and answer."""
CHARACTERS_A_TOKEN = 3.6
"""English text in the usual vocabularies; only where the tokenizer is not at hand."""

Numbers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Lengths:
    """train: training rows; test: held-out rows. tokens, trained: of each sampled row, whole and in its completion.

    longest: tokens of the longest rows that were found, descending. counted: whether by the model's own tokenizer.
    """

    train: int
    test: int
    tokens: Numbers
    trained: Numbers
    longest: Numbers
    counted: bool

    def of_all(self, limit: int) -> Numbers:
        """Tokens of every training row, cut to `limit`: the sample repeated, with the longest rows put in once."""
        spread = np.resize(np.sort(self.tokens), self.train) if self.train <= len(self.tokens) else _repeat(self)
        top = min(len(self.longest), self.train)
        spread = np.sort(spread)
        spread[len(spread) - top :] = np.maximum(spread[len(spread) - top :], np.sort(self.longest[:top]))
        return np.minimum(spread, limit)

    def trained_share(self, limit: int) -> float:
        """Tokens with a label among all tokens, of rows cut to `limit`."""
        kept = np.minimum(self.tokens, limit)
        learned = np.maximum(kept - (self.tokens - self.trained), 0)
        return float(learned.sum() / max(int(kept.sum()), 1))


def _repeat(lengths: Lengths) -> Numbers:
    places = (np.arange(lengths.train) + 0.5) / lengths.train * len(lengths.tokens)
    return np.sort(lengths.tokens)[places.astype(np.int64)]


def measure_lengths(table: Table, data: DataConfig, tokenizer: Path | None, chat: bool) -> Lengths:
    """Look at a table through `data`'s templates. The same question is answered from memory.

    Raises DataError for templates that don't compile and sizes that don't fit.
    """
    seen = {name: getattr(data, name) for name in _DECIDING}
    return _measure(_Kept(table), tuple(seen.items()), tokenizer, chat)


_DECIDING = (
    "prompt", "prompt_stub", "messages", "train_size", "test_size", "train_test_split_seed", "stratify",
)  # fmt: skip
"""Settings that decide which rows train, and what they say."""


class _Kept:
    """A table as a cache key: its file, and the hash of what was read. The same bytes read otherwise are other rows."""

    def __init__(self, table: Table) -> None:
        self.table, self._key = table, (table.path, table.sha256, table.rows, table.held_out)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Kept) and other._key == self._key


@lru_cache(maxsize=32)
def _measure(kept: _Kept, seen: tuple[tuple[str, Any], ...], tokenizer: Path | None, chat: bool) -> Lengths:
    table, data = kept.table, DataConfig(**dict(seen))
    renderer = renderer_of(data, table.columns)
    rows, train, test = _rows(table, data, renderer.columns_needed)
    even = rows[np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(np.int64)]
    long = rows[_longest(table, renderer.columns_needed)[rows].argsort()[::-1][:LONGEST]]

    def count(rows: Numbers) -> tuple[Numbers, Numbers]:
        examples = [renderer.example(cells) for cells in table.take(rows, renderer.columns_needed)]
        asked, answered = _count(_within([(example.prompt, example.completion) for example in examples]), tokenizer)
        return asked + answered + 1 + (CHAT_TOKENS if chat else 0), answered + 1

    tokens, trained = count(even)
    return Lengths(train, test, tokens, trained, np.sort(count(long)[0])[::-1], tokenizer is not None)


def _rows(table: Table, data: DataConfig, columns: tuple[str, ...]) -> tuple[Numbers, int, int]:
    """(rows to look at, ascending; training rows; test rows)."""
    if table.path.stat().st_size > SCANNED_BYTES:
        usable = usable_indices(table, columns)
        return usable, *count_parts(table, usable, data.train_size, data.test_size)
    plan = plan_split(table, data)
    return np.sort(plan.train), len(plan.train), len(plan.test)


def _longest(table: Table, columns: tuple[str, ...]) -> Numbers:
    """Characters of each row; zeros for a table that is too large to be read for this."""
    if not columns or table.path.stat().st_size > SCANNED_BYTES:
        return np.zeros(table.rows, dtype=np.int64)
    total = np.zeros(table.rows, dtype=np.int64)
    for column in table.read(columns).columns:
        lengths: pa.ChunkedArray = pc.fill_null(pc.utf8_length(column), 0)
        total += lengths.to_numpy()
    return total


def _within(texts: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The first texts whose characters stay below the limit, at least one."""
    sizes = np.cumsum([len(prompt) + len(completion) for prompt, completion in texts])
    return texts[: max(1, int(np.searchsorted(sizes, MOST_CHARACTERS)))]


def _count(texts: list[tuple[str, str]], tokenizer: Path | None) -> tuple[Numbers, Numbers]:
    """(tokens of each prompt, of each completion)."""
    if tokenizer is None:
        counts = [[max(1, round(len(part) / CHARACTERS_A_TOKEN)) for part in text] for text in texts]
    else:
        encode = _tokenizer(tokenizer, tokenizer.stat().st_mtime_ns)
        found = encode.encode_batch_fast([part for text in texts for part in text], add_special_tokens=False)
        flat = [len(item.ids) for item in found]
        counts = [flat[at : at + 2] for at in range(0, len(flat), 2)]
    both = np.asarray(counts, dtype=np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


@lru_cache(maxsize=4)
def _tokenizer(path: Path, stamp: int) -> Tokenizer:
    loaded = Tokenizer.from_file(str(path))
    loaded.no_truncation()
    loaded.no_padding()
    return loaded
