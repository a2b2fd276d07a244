"""A fix makes a version and leaves the original; undo, redo, and opening a version by its path."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.fakes.training import make_table
from toolkit.config import Config, DataConfig
from toolkit.data.doctor.checks import list_findings
from toolkit.data.doctor.repair_task import write_fixed_table
from toolkit.data.examples.split import plan_split, split_indices
from toolkit.data.findings import Finding, Fix
from toolkit.data.storage.open_table import open_table
from toolkit.data.storage.uploads import store_upload
from toolkit.data.storage.versions import (
    DatasetReference,
    apply_fix,
    find_next_version,
    find_original_dataset,
    find_previous_version,
    open_version,
    original_sha256,
)
from toolkit.data.table import DatasetVersion, Table, load_table, make_table_footer
from toolkit.data.task_process import ROWS_FILE, TABLE_FILE, RepairRequest
from toolkit.errors import DataError
from toolkit.runs.run_dir import create_run, read_run_meta
from toolkit.settings import import_export
from toolkit.settings.ablation import expand_trials
from toolkit.settings.draft import default_draft

ROWS = ["q,a", "one,1", "two,", "three,caf\u00c3\u00a9", "one,1", "f\u200bour,4", "five,5"]


@pytest.fixture
def place(tmp_path: Path) -> DatasetReference:
    return DatasetReference("csv", str(store_upload("\n".join(ROWS).encode(), "numbers.csv", tmp_path)))


def opened(place: DatasetReference, save_dir: Path) -> Table:
    return open_table(_config(place).data, save_dir)


def _config(place: DatasetReference) -> Config:
    data = {"file_type": place.file_type, "path": place.path, "prompt": "{q}", "prompt_stub": "{a}"}
    return Config.model_validate({"data": data})


def fix_of(table: Table, place: DatasetReference, kind: str) -> Fix:
    found: dict[str, Finding] = {f.kind: f for f in list_findings(table, _config(place))}
    return found[kind].fixes[0]


def test_some_rows_of_a_test_file_must_remain(tmp_path: Path, place: DatasetReference) -> None:
    held = store_upload(b"q,a\nsix,6\nseven,7\n", "held.csv", tmp_path)
    data = _config(place).data.model_copy(update={"test_path": str(held)})
    table = open_table(data, tmp_path)
    drop = Fix("Remove", "drop", "two rows removed", np.arange(table.rows - 2, table.rows))
    with pytest.raises(DataError, match="No row of the test file would remain"):
        apply_fix(drop, table, place, tmp_path)


def test_a_fault_in_a_conversation_keeps_its_row_number(tmp_path: Path) -> None:
    good = '[{"role": "user", "content": "%d"}, {"role": "assistant", "content": "yes"}]'
    lines = [f'{{"messages": {good % number}}}' for number in range(16_500)]
    lines[16_450] = '{"messages": [{"role": "user", "content": "?"}, {"role": "nobody", "content": "!"}]}'
    place = DatasetReference("json", str(store_upload("\n".join(lines).encode(), "talks.jsonl", tmp_path)))
    table = open_table(DataConfig(file_type="json", path=place.path), tmp_path)
    assert table.chats["messages"].startswith("Row 16,451, ")
    made = apply_fix(Fix("Remove", "drop", "one row removed", np.array([3])), table, place, tmp_path)
    mended = open_table(DataConfig(file_type="json", path=made.path), tmp_path)
    assert mended.chats["messages"].startswith("Row 16,450, ")


def test_a_fix_leaves_the_original_and_makes_a_version(tmp_path: Path, place: DatasetReference) -> None:
    before = hashlib.sha256(Path(place.path).read_bytes()).hexdigest()
    table = opened(place, tmp_path)
    made = apply_fix(fix_of(table, place, "duplicate"), table, place, tmp_path)
    after = opened(made, tmp_path)
    assert [row["q"] for row in after.page(0, 9)] == ["one", "two", "three", "f\u200bour", "five"]
    assert after.version is not None
    assert after.version.steps == ("1 row that repeated an earlier row removed",)
    assert after.missing == {"q": 0, "a": 1}
    assert after.label == table.label
    assert hashlib.sha256(Path(place.path).read_bytes()).hexdigest() == before
    assert opened(place, tmp_path).rows == 6


def test_repairs_touch_only_the_cells_concerned(tmp_path: Path, place: DatasetReference) -> None:
    table = opened(place, tmp_path)
    made = apply_fix(fix_of(table, place, "mojibake"), table, place, tmp_path)
    made = apply_fix(fix_of(opened(made, tmp_path), made, "unusual"), opened(made, tmp_path), made, tmp_path)
    after = opened(made, tmp_path)
    expected = [dict(row) for row in table.page(0, 9)]
    expected[2]["a"], expected[4]["q"] = "café", "four"
    assert after.page(0, 9) == expected


def test_undo_and_redo_follow_the_versions(tmp_path: Path, place: DatasetReference) -> None:
    table = opened(place, tmp_path)
    second = apply_fix(fix_of(table, place, "duplicate"), table, place, tmp_path)
    other = opened(second, tmp_path)
    third = apply_fix(fix_of(other, second, "missing"), other, second, tmp_path)
    last = opened(third, tmp_path)
    assert find_previous_version(last) == second
    assert find_previous_version(other) == place
    assert find_previous_version(table) is None
    assert find_next_version(table, place, tmp_path) == second
    assert find_next_version(other, second, tmp_path) == third
    assert find_next_version(last, third, tmp_path) is None
    assert find_original_dataset(last) == place
    # another fix of the original: redo goes to the newest, and the same fix again is the same file
    apart = apply_fix(fix_of(table, place, "mojibake"), table, place, tmp_path)
    assert find_next_version(table, place, tmp_path) == apart
    assert apply_fix(fix_of(table, place, "duplicate"), table, place, tmp_path) == second
    assert find_next_version(table, place, tmp_path) == second


def test_a_run_trains_on_the_version_and_says_so(tmp_path: Path, place: DatasetReference) -> None:
    table = opened(place, tmp_path)
    made = apply_fix(fix_of(table, place, "duplicate"), table, place, tmp_path)
    version = opened(made, tmp_path)
    config = _config(made).model_copy(update={"save_dir": str(tmp_path)})
    run = create_run(config, version)
    assert read_run_meta(run)["dataset"]["version"]["steps"] == list(version.version.steps)  # type: ignore[union-attr]
    assert read_run_meta(run)["dataset"]["rows"] == 5
    assert load_table(run.source_path).page(0, 9) == version.page(0, 9)


def test_the_exported_file_and_its_command_train_on_the_same_rows(tmp_path: Path, place: DatasetReference) -> None:
    table = opened(place, tmp_path)
    made = apply_fix(fix_of(table, place, "duplicate"), table, place, tmp_path)
    draft = default_draft()
    draft["data"] |= {"file_type": made.file_type, "path": made.path, "prompt": "{q}", "prompt_stub": "{a}"}
    imported = import_export.import_settings(
        import_export.export_settings(draft, {})
    )  # what the Export dialog gives, as `toolkit run` reads it
    (variant,) = expand_trials(imported.draft, imported.grid)
    again = open_table(variant.config.data, tmp_path / "elsewhere")
    here = opened(made, tmp_path)
    assert again.page(0, 9) == here.page(0, 9)
    first, second = (plan_split(one, variant.config.data) for one in (here, again))
    assert (first.train.tolist(), first.test.tolist()) == (second.train.tolist(), second.test.tolist())


def test_what_is_not_a_version_is_refused(tmp_path: Path, place: DatasetReference) -> None:
    table = opened(place, tmp_path)
    made = Path(apply_fix(fix_of(table, place, "duplicate"), table, place, tmp_path).path)
    forged = made.with_name(f"{made.name[:13]}{'0' * 12}.parquet")
    forged.write_bytes(made.read_bytes())
    with pytest.raises(DataError, match="does not match its file name"):
        opened(DatasetReference("csv", str(forged)), tmp_path)
    with pytest.raises(DataError, match=r"would remain"):
        apply_fix(Fix("", "drop", "", np.arange(table.rows - 1)), table, place, tmp_path)


def test_only_a_version_that_this_installation_signed_is_read_by_the_app_itself(
    tmp_path: Path, place: DatasetReference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    table = opened(place, tmp_path)
    made = Path(apply_fix(fix_of(table, place, "duplicate"), table, place, tmp_path).path)
    assert open_version(made) is not None
    signature = made.with_suffix(".signature")
    elsewhere = tmp_path / "from elsewhere" / "uploads" / "versions" / made.name
    elsewhere.parent.mkdir(parents=True)
    shutil.copyfile(made, elsewhere)
    assert open_version(elsewhere) is None
    read = open_table(DataConfig(file_type="csv", path=str(elsewhere)), tmp_path)  # by the disposable reader
    assert (read.rows, read.version) == (table.rows - 1, None)
    for spoil in (lambda: signature.write_text("0" * 64), signature.unlink, lambda: signature.symlink_to("/dev/zero")):
        spoil()
        os.utime(made, ns=(0, made.stat().st_mtime_ns + 1))
        assert open_version(made) is None
        assert find_next_version(table, place, tmp_path) is None


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
              {"train_size": 90, "test_size": 40}, {"train_size": None, "test_size": None}],
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
               {"rows": 24, "removed": "no base64"}, {"rows": 24, "removed": "8AAA", "missing": {"a": "AAAAAA=="}}],
)  # fmt: skip
def test_a_table_whose_origin_is_nonsense_is_refused(tmp_path: Path, origin: dict[str, object]) -> None:
    table = pa.table({"a": [str(n) for n in range(20)]})
    footer = make_table_footer("0" * 64, "made by a test", {"a": 0}, (), origin=origin)
    pq.write_table(table.replace_schema_metadata(footer), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="can't be read"):
        load_table(tmp_path / "t.parquet")
