"""What a Parquet file may unpack to before the app reads it, and which tables need not be measured."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from toolkit.config import DataConfig
from toolkit.data import child_process
from toolkit.data.storage import bounded_tables
from toolkit.data.storage.bounded_tables import ensure_bounded, load_bounded_table, measure_table, sign_table
from toolkit.data.storage.open_table import open_table
from toolkit.data.table import load_table, make_table_footer
from toolkit.errors import DataError, RunError
from toolkit.evaluation.row_table import read_row_table, write_row_table


@pytest.fixture(autouse=True)
def nothing_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_tables, "_measured", {})


def write_bomb(path: Path, rows: int = 1_000_000, cell: int = 4_096, footer: dict[str, str] | None = None) -> Path:
    """Write a table of one text that is repeated: some kB stand for `rows * cell` bytes."""
    words = pa.array(["x" * cell])
    column = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), words)
    options: dict[str, Any] = {"data_page_size": 1 << 30, "write_batch_size": rows, "max_rows_per_page": rows}
    with pq.ParquetWriter(path, pa.schema([("q", column.type)]), store_schema=False, **options) as out:
        out.write_table(pa.table({"q": column}), row_group_size=rows)
        out.add_key_value_metadata(footer or make_table_footer("0" * 64, "bomb", {"q": 0}, ()))
    return path


def test_a_few_kilobytes_that_stand_for_gigabytes_are_refused(tmp_path: Path) -> None:
    bomb = write_bomb(tmp_path / "bomb.parquet")
    assert bomb.stat().st_size < 40_000
    assert load_table(bomb).rows == 1_000_000
    for read in (load_bounded_table, ensure_bounded):
        with pytest.raises(DataError) as refused:
            read(bomb)
        assert "unpacks to more" in refused.value.message and str(bomb) in refused.value.message
    with pytest.raises(RunError, match="unpacks to more") as told:
        read_row_table(bomb)
    assert told.value.hint == "Start a new evaluation."


def test_the_whole_counts_as_well_as_each_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"q": ["x" * 100] * 1_000})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=100)
    size = measure_table(tmp_path / "t.parquet")
    assert 100_000 <= size < 120_000
    monkeypatch.setattr(bounded_tables, "MAX_BYTES_PER_BYTE", 1)
    for name, limit in (("MAX_TABLE_BYTES", 50_000), ("MAX_ROW_GROUP_BYTES", 5_000)):
        with monkeypatch.context() as changed, pytest.raises(DataError, match="unpacks to more"):
            changed.setattr(bounded_tables, name, limit)
            measure_table(tmp_path / "t.parquet")


def test_what_this_installation_has_made_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    source = tmp_path / "given.csv"
    source.write_text("q,a\n1,2\n")
    data = DataConfig(file_type="csv", path=str(source))
    made = open_table(data, tmp_path)
    measured: list[Any] = []
    monkeypatch.setattr(bounded_tables, "run_in_child", lambda *given, **more: measured.append(given))
    ensure_bounded(made.path)
    bounded_tables._measured.clear()  # as after a start of the app
    assert open_table(data, tmp_path).rows == 1
    os.link(made.path, tmp_path / "run.parquet")
    ensure_bounded(tmp_path / "run.parquet")
    assert not measured, "a run's link is the same file"
    shutil.copy2(made.path, tmp_path / "copy.parquet")
    shutil.copy2(made.path.with_suffix(".signature"), tmp_path / "copy.signature")
    for _ in range(2):
        ensure_bounded(tmp_path / "copy.parquet")
    assert len(measured) == 1, "a copy is another file, and is measured once"


def test_a_forged_table_of_a_foreign_folder_is_read_from_its_source_again(tmp_path: Path) -> None:
    source = tmp_path / "given.csv"
    source.write_text("q,a\n1,2\n")
    data = DataConfig(file_type="csv", path=str(source))
    made = open_table(data, tmp_path)
    footer = pq.read_metadata(made.path).metadata[b"finetuning-toolkit"].decode()
    write_bomb(made.path, footer={"finetuning-toolkit": footer})
    assert load_table(made.path).sha256 == made.sha256
    opened = open_table(data, tmp_path)
    assert (opened.rows, opened.columns) == (1, ("q", "a"))


def test_rows_of_an_evaluation_are_signed_by_those_who_write_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    path = tmp_path / "rows.parquet"
    write_row_table(path, pa.table({"row": [1]}))
    bounded_tables._measured.clear()
    monkeypatch.setattr(child_process.subprocess, "Popen", None)
    assert read_row_table(path).num_rows == 1
    sign_table(path)


def test_without_the_installation_key_a_table_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state").write_text("a file in the place of the folder")
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    pq.write_table(pa.table({"q": ["x"]}), tmp_path / "t.parquet")
    sign_table(tmp_path / "t.parquet")
    bounded_tables._measured.clear()
    ensure_bounded(tmp_path / "t.parquet")
    assert not (tmp_path / "t.signature").exists()


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" * 100, b"x" * 1000])
def test_what_is_no_parquet_is_refused_in_words(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(DataError, match="can't be read"):
        ensure_bounded(tmp_path / "t.parquet")
