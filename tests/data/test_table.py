"""Rows, pages and columns of a table that spans several batches."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.conftest import open_in
from toolkit.data.readers.table_writer import BATCH_ROWS
from toolkit.data.table import MAX_ROWS_BY_GROUP, Table, load_table
from toolkit.errors import DataError

ROWS = 2 * BATCH_ROWS + 100


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    lines = "".join(f"m{i},{'' if i % 100 == 0 else i}\n" for i in range(ROWS))
    return open_in(tmp_path_factory.mktemp("table"), "message,answer\n" + lines)


def _row(i: int) -> dict[str, str | None]:
    return {"message": f"m{i}", "answer": None if i % 100 == 0 else str(i)}


def test_what_is_known_about_it(table: Table, tmp_path: Path) -> None:
    assert (table.rows, table.columns) == (ROWS, ("message", "answer"))
    assert table.missing == {"message": 0, "answer": len(range(0, ROWS, 100))}
    copy = tmp_path / "run" / "source.parquet"
    copy.parent.mkdir()
    shutil.copy(table.path, copy)
    again = load_table(copy)
    assert (again.sha256, again.label, again.missing, again.rows) == (table.sha256, "test", table.missing, ROWS)


@pytest.mark.parametrize("start", [0, 1, BATCH_ROWS - 2, BATCH_ROWS, 2 * BATCH_ROWS - 1, ROWS - 3, ROWS, ROWS + 5, -5])
def test_pages_cross_batches(table: Table, start: int) -> None:
    expected = [_row(i) for i in range(max(start, 0), min(start + 5, ROWS)) if start < ROWS]
    assert table.page(start, 5) == expected


def test_rows_columns_and_batches(table: Table) -> None:
    assert table.row(ROWS - 1) == _row(ROWS - 1)
    assert table.column("message")[7].as_py() == "m7"
    assert sum(batch.num_rows for batch in table.batches(["answer"])) == ROWS
    for index in (-1, ROWS):
        with pytest.raises(DataError, match="There is no row"):
            table.row(index)


@pytest.mark.parametrize("count", [5, MAX_ROWS_BY_GROUP + 1, 5_000])
def test_take_keeps_the_order_asked_for(table: Table, count: int) -> None:
    wanted = [(i * 7919) % ROWS for i in range(count)]
    assert list(table.take(wanted)) == [_row(i) for i in wanted]
    assert next(iter(table.take(wanted, ["answer"]))) == {"answer": _row(wanted[0])["answer"]}
    assert list(table.take([])) == []
    assert list(table.take(wanted, [])) == [{}] * len(wanted), "a row without columns is still a row"
    with pytest.raises(DataError, match="outside"):
        list(table.take([ROWS]))


def test_columns_that_appear_late_are_missing_before(open_bytes: Callable[..., Table]) -> None:
    lines = "".join('{"a": 1}\n' for _ in range(BATCH_ROWS + 5))
    table = open_bytes(lines + '{"a": 1, "b": 2}\n{"b": 3, "c": 4}\n', "json")
    assert table.columns == ("a", "b", "c")
    assert table.missing == {"a": 1, "b": BATCH_ROWS + 5, "c": BATCH_ROWS + 6}
    assert table.page(BATCH_ROWS + 4, 9) == [
        {"a": "1", "b": None, "c": None},
        {"a": "1", "b": "2", "c": None},
        {"a": None, "b": "3", "c": "4"},
    ]
    assert table.row(0) == {"a": "1", "b": None, "c": None}
