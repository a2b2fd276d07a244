"""A dataset with fixes has the split of its original: each row that is left keeps its side."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.fakes.training import make_table
from toolkit.config import Config
from toolkit.data.doctor.repair_task import write_fixed_table
from toolkit.data.examples.split import plan_split, split_indices
from toolkit.data.examples.stratified_split import answer_codes, original_answer_codes, record_labels
from toolkit.data.findings import Fix
from toolkit.data.storage.versions import original_sha256
from toolkit.data.table import DatasetVersion, RowOrigin, Table, load_table, make_table_footer
from toolkit.data.task_process import ROWS_FILE, TABLE_FILE, RepairRequest
from toolkit.errors import DataError


def fixed(table: Table, folder: Path, fix: Fix) -> Table:
    """Return the version that a fix makes, without a process of its own."""
    folder.mkdir()
    np.save(folder / ROWS_FILE, fix.rows)
    digest = hashlib.sha256(f"{table.sha256} {fix.rows}".encode()).hexdigest()
    version = DatasetVersion(original_sha256(table), table.sha256, "csv", str(table.path), ("fixed",))
    spellings = dict(fix.settings.get("spellings", {}))
    write_fixed_table(
        RepairRequest(str(table.path), str(folder), fix.action, list(fix.columns), digest, version.as_dict(), spellings)
    )
    return load_table(folder / TABLE_FILE)


def sides(table: Table, **sizes: float | int | None) -> tuple[list[str], list[str]]:
    """Return the questions of the training rows and of the test rows."""
    plan = plan_split(table, Config.model_validate({"data": {"prompt": "{q}", "prompt_stub": "{a}", **sizes}}).data)
    train, test = ([str(row["q"]) for row in table.take(part)] for part in (plan.train, plan.test))
    return train, test


@pytest.mark.parametrize(
    "sizes", [{"train_size": None, "test_size": 0.2}, {"train_size": 0.7, "test_size": None},
              {"train_size": 90, "test_size": 40}, {"train_size": None, "test_size": None},
              {"train_size": None, "test_size": 0.2, "stratify": True}],
)  # fmt: skip
def test_the_rows_that_fixes_leave_keep_their_side_of_the_split(
    tmp_path: Path, sizes: dict[str, float | int | None]
) -> None:
    random = np.random.default_rng(5)
    cells = [{"q": f"question {n}", "a": None if n % 9 == 4 else "Yes" if n % 2 else "yes"} for n in range(200)]
    table = original = make_table(tmp_path / "original.parquet", cells)
    train, test = sides(original, **sizes)
    fixes = [
        Fix("Merge", "merge", "merged", np.arange(0, 200, 3), ("a",), {"spellings": {"yes": "Yes"}}),
        Fix("Remove", "drop", "removed", np.flatnonzero([row["a"] is None for row in cells])),
        *(Fix("Remove", "drop", "removed", np.sort(random.choice(150, 20, replace=False))) for _ in range(2)),
    ]
    for number, fix in enumerate(fixes):
        table = fixed(table, tmp_path / str(number), fix)
        left = {str(row["q"]) for row in table.page(0, 200)}
        now_train, now_test = sides(table, **sizes)
        assert not set(now_train) & set(now_test)
        assert set(now_test) >= set(test) & left and not set(now_test) & set(train)
        assert not set(now_train) & set(test)
        if sizes["train_size"] is None:
            assert [name for name in train if name in left] == now_train
    assert table.rows < 145 and len(now_test) >= 0.7 * len(test)
    if sizes["train_size"] == 90:
        assert len(now_train) == 90, "unused rows take the place of removed ones"


def test_labels_of_the_original_are_recorded_as_its_stratified_split_numbers_them(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    texts: list[str | None] = ["b", "a", None, "", "c"]
    cells = [{"q": f"{n}", "x": texts[random.integers(5)], "y": texts[random.integers(3)]} for n in range(17_000)]
    table = make_table(tmp_path / "original.parquet", cells)
    origin = RowOrigin(table.rows, "", labels=record_labels(table))
    assert set(origin.labels) == {"x", "y"}, "a column of many texts is no column of labels"
    for columns in (["x"], ["y", "x"]):
        codes = original_answer_codes(origin, columns)
        assert codes is not None and np.array_equal(codes, answer_codes(table, columns))
    assert original_answer_codes(origin, ["q"]) is None


def test_a_version_of_before_keeps_its_own_split(tmp_path: Path) -> None:
    cells: list[dict[str, str | None]] = [{"q": f"question {n}", "a": "yes"} for n in range(50)]
    version = fixed(
        make_table(tmp_path / "original.parquet", cells), tmp_path / "1", Fix("", "drop", "", np.arange(0, 50, 5))
    )
    before = replace(version, origin=None)  # as its footer is without an origin
    train, test = split_indices(40, 32, 8, Config().data.train_test_split_seed)
    plan = plan_split(before, Config.model_validate({"data": {"prompt": "{q}", "prompt_stub": "{a}"}}).data)
    assert (plan.train.tolist(), plan.test.tolist()) == (train.tolist(), test.tolist())


def test_where_fixes_leave_no_test_row_the_rows_are_split_anew(tmp_path: Path) -> None:
    cells: list[dict[str, str | None]] = [{"q": f"question {n}", "a": "yes"} for n in range(20)]
    table = make_table(tmp_path / "original.parquet", cells)
    _, test = sides(table, test_size=0.2)
    gone = np.sort([int(name.split()[1]) for name in test])
    left = fixed(table, tmp_path / "1", Fix("", "drop", "", gone))
    train, test = sides(left, test_size=0.2)
    assert (len(train), len(test)) == (12, 4)


@pytest.mark.parametrize(
    "origin", [{"rows": 21, "removed": "AAAA"}, {"rows": 10**18, "removed": "AAAA"}, {"rows": -5, "removed": ""},
               {"rows": 24, "removed": "no base64"}, {"rows": 24, "removed": "8AAA", "missing": {"a": "AAAAAA=="}},
               {"rows": 20, "removed": "AAAA", "labels": {"a": "AAAA"}}],
)  # fmt: skip
def test_a_table_whose_origin_is_nonsense_is_refused(tmp_path: Path, origin: dict[str, object]) -> None:
    table = pa.table({"a": [str(n) for n in range(20)]})
    footer = make_table_footer("0" * 64, "made by a test", {"a": 0}, (), origin=origin)
    pq.write_table(table.replace_schema_metadata(footer), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="can't be read"):
        load_table(tmp_path / "t.parquet")
