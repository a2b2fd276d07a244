"""Parquet: what becomes of its types, and what is refused."""

from __future__ import annotations

import datetime
import io
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from toolkit.data.readers import parquet_reader
from toolkit.data.table import Table
from toolkit.errors import DataError

Opener = Callable[..., Table]


def written(columns: dict[str, Any], **more: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, **more)
    return out.getvalue()


def test_text_stays_and_other_values_become_text(open_bytes: Opener) -> None:
    day = datetime.date(2024, 1, 2)
    columns = {
        "text": ["007", None], "whole": [1, -2], "float": [0.1, None], "flag": [True, False], "day": [day, None],
        "money": [Decimal("3.10"), None], "few": pa.array(["a", "b"]).dictionary_encode(),
    }  # fmt: skip
    table = open_bytes(written(columns), "parquet")
    assert list(table.row(0).values()) == ["007", "1", "0.1", "true", "2024-01-02", "3.10", "a"]
    assert list(table.row(1).values()) == [None, "-2", None, "false", None, None, "b"]
    assert "were converted to text" in " ".join(table.notices)


def test_conversations_are_recognized(open_bytes: Opener) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    assert open_bytes(written({"messages": [turns, turns]}), "parquet").chats == {"messages": ""}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (written({"a": [b"\xff", b"x"]}), "contains bytes"),
        (written({"a": pa.array([], pa.string())}), "0 rows"),
        (written({f"c{i}": ["x"] for i in range(1001)}), "1,001 columns"),
        (written({"a": ["x" * 1_000_001]}), "1,000,001 characters"),
        (written({"a": ["x", "y\0"]}), "Row 2"),
        (written({"a": ["x"] * 99})[:-20], "can't be read"),
        (b"PAR1" + b"\0" * 50, "can't be read"),
        (b"a,b\n1,2\n", "not a Parquet file"),
    ],
)
def test_what_is_refused(open_bytes: Opener, content: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        open_bytes(content, "parquet")
    assert caught.value.hint


def test_a_decompression_bomb_is_refused(open_bytes: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_reader, "MAX_UNPACKED_CHARACTERS", 1_000_000)
    bomb = written({"a": ["x" * 1_000] * 100_000}, compression="zstd")
    assert len(bomb) < 50_000
    with pytest.raises(DataError, match="unpacked text exceeds the limit"):
        open_bytes(bomb, "parquet")
