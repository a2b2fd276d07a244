"""Large files are opened in the background: they are found again, report progress and can be canceled."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from toolkit.config import Config, DataConfig
from toolkit.data.examples.split import usable_count, usable_indices
from toolkit.data.progress import DataWorkStopped, Watch
from toolkit.data.storage import background_open, open_table
from toolkit.data.storage.background_open import StillOpeningError, cancel_opening, open_or_wait
from toolkit.errors import DataError


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(background_open, "BIG_FILE_BYTES", 0)
    monkeypatch.setattr(background_open, "FILE_OPEN_WAIT_S", 0.01)
    yield
    background_open._running.clear()


def settings(path: Path) -> DataConfig:
    return Config.model_validate({"data": {"file_type": "csv", "path": str(path)}}).data


def big_csv(path: Path, rows: int) -> Path:
    path.write_text("question,answer\n" + "".join(f"what is {i}?,{i} it is\n" for i in range(rows)))
    return path


def finally_opened(data: DataConfig, folder: Path) -> Any:
    for _ in range(100):
        try:
            return open_or_wait(data, folder)
        except StillOpeningError as still:
            assert still.opening.over.wait(60)
    raise AssertionError("it never ends")


def test_a_second_request_finds_the_same_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_go, reads = threading.Event(), []
    real = background_open.open_table

    def slow(*args: Any) -> Any:
        reads.append(args)
        assert may_go.wait(60)
        return real(*args)

    monkeypatch.setattr(background_open, "open_table", slow)
    data = settings(big_csv(tmp_path / "big.csv", 10))
    with pytest.raises(StillOpeningError) as first:
        open_or_wait(data, tmp_path)
    with pytest.raises(StillOpeningError) as second:
        open_or_wait(data, tmp_path)
    assert first.value.opening is second.value.opening
    assert "big.csv" in first.value.message
    may_go.set()
    assert finally_opened(data, tmp_path).rows == 10
    assert len(reads) == 1


def test_a_small_file_is_opened_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_open, "BIG_FILE_BYTES", 30_000_000)
    assert open_or_wait(settings(big_csv(tmp_path / "small.csv", 3)), tmp_path).rows == 3


def test_a_refused_file_is_read_again_at_the_next_request(tmp_path: Path) -> None:
    path = tmp_path / "torn.csv"
    path.write_text('a,b\n"1,2\n')
    for _ in range(2):
        with pytest.raises(DataError, match="without a closing quote"):
            finally_opened(settings(path), tmp_path)
    assert not background_open._running


def test_every_step_is_reported_and_its_share_only_grows(tmp_path: Path) -> None:
    told: list[tuple[float, str]] = []
    data = settings(big_csv(tmp_path / "big.csv", 120_000))
    table = open_table.open_table(data, tmp_path, Watch(lambda share, words: told.append((share, words))))
    assert table.rows == 120_000
    assert {words for _, words in told} >= {"copying"}
    assert all(0 <= share <= 1 for share, _ in told)
    taking = [share for share, words in told if words == "copying"]
    assert taking == sorted(taking) and taking[-1] == 1


def test_the_reader_writes_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.data import task_process
    from toolkit.data.readers import read_file

    monkeypatch.setattr(task_process, "TASK_PROGRESS_INTERVAL_S", 0)
    big_csv(tmp_path / "a.csv", 40_000)
    lines = (f'{{"question": "{i}", "answer": "{i}"}}\n' for i in range(40_000))
    (tmp_path / "a.jsonl").write_text("".join(lines))
    for name, kind in (("a.csv", "csv"), ("a.jsonl", "json")):
        folder, shares = tmp_path / f"{name}-out", list[float]()
        folder.mkdir()
        request = read_file.ReadRequest(str(tmp_path / name), str(folder), kind, "0" * 64, name)
        read_file.read_file_to_table(request, lambda share, words, into=shares: into.append(share))
        assert shares == sorted(shares) and shares[-1] == 1 and len(shares) >= 3
    report_progress = task_process.make_progress_writer(tmp_path)
    report_progress(0.5, "reading")
    assert '"share": 0.5' in (tmp_path / "progress.json").read_text()


def test_an_opening_can_be_canceled(tmp_path: Path) -> None:
    data = settings(big_csv(tmp_path / "big.csv", 50_000))
    one = background_open.request_opening(data, tmp_path)
    cancel_opening(one)
    assert one.over.wait(60)
    assert one.table is None or one.table.rows == 50_000  # it may have been quicker
    if one.table is None:
        assert isinstance(one.error, DataWorkStopped)
    assert background_open.request_opening(data, tmp_path) is not one
    assert finally_opened(data, tmp_path).rows == 50_000


def test_usable_rows_are_counted_without_reading_where_that_is_possible(tmp_path: Path) -> None:
    path = tmp_path / "gaps.csv"
    path.write_text("a,b,c\n1,,x\n,2,x\n3,3,x\n,,x\n")
    table = finally_opened(settings(path), tmp_path)
    for columns in (["c"], ["a"], ["b", "c"], ["a", "b"], []):
        assert usable_count(table, columns) == len(usable_indices(table, columns))


def test_what_breaks_is_told_and_its_trace_is_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(*_: Any) -> Any:
        raise ZeroDivisionError("one too few")

    monkeypatch.setattr(background_open, "open_table", breaks)
    with pytest.raises(DataError, match=r"could not be opened: ZeroDivisionError: one too few\."):
        finally_opened(settings(big_csv(tmp_path / "big.csv", 3)), tmp_path)
    assert "Traceback" in caplog.text
