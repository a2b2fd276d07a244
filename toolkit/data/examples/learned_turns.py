"""The trained messages of conversations as a table of pairs, in memory, for the checks that compare pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from toolkit.data.chat_messages import Message
from toolkit.data.conversations import format_conversation, format_message
from toolkit.data.examples.renderers import ChatRenderer
from toolkit.data.table import RowNumbers, Table
from toolkit.errors import DataError

TURN_PROMPT, TURN_ANSWER = "prompt", "answer"
"""Columns: what precedes a trained message (hashed, since it is only compared), and the message."""
_TURNS_PER_BATCH = 16_384


@dataclass(frozen=True)
class TurnTable(Table):
    """A table in memory. content: its Parquet file."""

    content: Any = field(default=None, hash=False)

    @contextmanager
    def _opened(self, first: int = 0, stop: int | None = None) -> Iterator[pq.ParquetFile]:
        with pq.ParquetFile(pa.BufferReader(self.content)) as file:
            yield file


def make_turn_table(table: Table, renderer: ChatRenderer, rows: RowNumbers) -> tuple[TurnTable, RowNumbers]:
    """Return (the trained messages of these rows, the row in `table` of each). rows: ascending."""
    sink, schema = pa.BufferOutputStream(), pa.schema([(TURN_PROMPT, pa.string()), (TURN_ANSWER, pa.string())])
    numbers: list[int] = []
    pairs: list[tuple[str, str]] = []
    with pq.ParquetWriter(sink, schema, compression="zstd") as out:
        for row, turns in _scan_turns(table, renderer, rows):
            for at, turn in enumerate(turns):
                if turn.learned:
                    numbers.append(row)
                    pairs.append((_digest(turns[:at]), format_message(turn)))
            if len(pairs) >= _TURNS_PER_BATCH:
                out.write_table(pa.table(list(zip(*pairs, strict=True)), schema=schema))
                pairs = []
        if pairs:
            out.write_table(pa.table(list(zip(*pairs, strict=True)), schema=schema))
    missing = {TURN_PROMPT: 0, TURN_ANSWER: 0}
    columns = (TURN_PROMPT, TURN_ANSWER)
    made = TurnTable(table.path, table.sha256, table.label, columns, len(numbers), missing, content=sink.getvalue())
    return made, np.array(numbers, dtype=np.int64)


def _scan_turns(table: Table, renderer: ChatRenderer, rows: RowNumbers) -> Iterator[tuple[int, tuple[Message, ...]]]:
    at = 0
    for part in table.scan(rows, [renderer.column]):
        for cell in part.column(renderer.column).to_pylist():
            try:
                turns = renderer.example({renderer.column: cell}).turns
            except DataError:  # a conversation that can't be trained on; the page names the first one
                turns = ()
            yield int(rows[at]), turns
            at += 1


def _digest(turns: tuple[Message, ...]) -> str:
    """Return a short text that is equal for equal conversations; blank for one without any text."""
    text = format_conversation(turns) if any(turn.content.strip() for turn in turns) else ""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest() if text else ""
