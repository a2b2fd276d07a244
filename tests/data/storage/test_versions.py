"""A fix makes a version and leaves the original; undo, redo, and opening a version by its path."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from toolkit.config import Config, DataConfig
from toolkit.data.doctor.checks import list_findings
from toolkit.data.examples.split import plan_split
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
)
from toolkit.data.table import Table, load_table
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
