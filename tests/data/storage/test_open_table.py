"""Opening by settings: the real child process, its deaths, and tables kept by content."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from toolkit.config import DataConfig
from toolkit.data.child_process import make_table_in_child
from toolkit.data.read_options import ReadOptions, UnreadableError
from toolkit.data.storage import open_table as open_table_module
from toolkit.data.storage.open_table import open_table, reader_version
from toolkit.data.storage.uploads import store_upload
from toolkit.data.table import load_table
from toolkit.errors import DataError
from toolkit.system.paths import PROJECT_ROOT


def _data(path: Path | str, kind: str = "csv") -> DataConfig:
    return DataConfig.model_validate({"file_type": kind, "path": str(path)})


def test_an_upload_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store_upload(b"a,b\n1,2\n3,\n", "My Data!.csv", tmp_path)
    first = open_table(_data(path), tmp_path)
    assert (first.columns, first.rows, first.label) == (("a", "b"), 2, "my-data.csv")
    assert first.path.is_relative_to(tmp_path / "uploads")
    monkeypatch.setattr(open_table_module, "make_table_in_child", _must_not_run)
    assert open_table(_data(path), tmp_path) == first
    assert load_table(first.path).page(0, 9) == [{"a": "1", "b": "2"}, {"a": "3", "b": None}]
    assert not list((tmp_path / "uploads").rglob(".part-*"))


def test_a_file_of_the_user_is_copied_by_content(tmp_path: Path) -> None:
    own = tmp_path / "elsewhere" / "çok güzel.csv"
    own.parent.mkdir()
    own.write_text("a,b\n1,2\n")
    table = open_table(_data(own), tmp_path / "save")
    kept = list((tmp_path / "save" / "uploads").glob("*.csv"))
    assert [file.read_bytes() for file in kept] == [own.read_bytes()]
    own.write_text("a,b\n1,2\n3,4\n")
    assert open_table(_data(own), tmp_path / "save").rows == 2
    assert load_table(table.path).rows == 1


@pytest.mark.parametrize("file_type", ["json", "csv"])
@pytest.mark.parametrize(("name", "word"), [("x.json", ""), ("x.csv", "JSON, and it was read as such")])
def test_the_content_decides_about_the_format(tmp_path: Path, name: str, word: str, file_type: str) -> None:
    table = open_table(_data(store_upload(b'{"a": 1}\n{"a": 2}\n', name, tmp_path), file_type), tmp_path)
    assert (table.rows, table.columns) == (2, ("a",))
    assert word in " ".join(table.notices)


def test_a_refusal_is_kept_with_its_offers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store_upload("a,b\ncafé,2\n".encode("cp1252"), "x.csv", tmp_path)
    with pytest.raises(UnreadableError) as caught:
        open_table(_data(path), tmp_path)
    offers = caught.value.offers
    assert (offers[0].options, offers[0].preview) == (ReadOptions(encoding="cp1252"), ("café,2",))
    chosen = _data(path).model_copy(update={"encoding": "cp1252"})
    assert open_table(chosen, tmp_path).row(0) == {"a": "café", "b": "2"}
    monkeypatch.setattr(open_table_module, "make_table_in_child", _must_not_run)
    with pytest.raises(UnreadableError) as again:
        open_table(_data(path), tmp_path)
    assert (str(again.value), again.value.offers) == (str(caught.value), caught.value.offers)


def test_a_damaged_table_is_read_anew(tmp_path: Path) -> None:
    path = store_upload(b"a,b\n1,2\n", "x.csv", tmp_path)
    table = open_table(_data(path), tmp_path)
    table.path.write_bytes(b"PAR1 not any more")
    with pytest.raises(DataError, match="can't be read"):
        load_table(table.path)
    assert open_table(_data(path), tmp_path).row(0) == {"a": "1", "b": "2"}


@pytest.mark.parametrize("make", ["absent", "folder", "fifo", "link"])
def test_what_is_no_file_is_refused(tmp_path: Path, make: str) -> None:
    path = tmp_path / make
    if make == "folder":
        path.mkdir()
    elif make == "fifo":
        os.mkfifo(path)
    elif make == "link":
        (tmp_path / "own.csv").write_text("a,b\n1,2\n")
        path.symlink_to(tmp_path / "own.csv")
    with pytest.raises(DataError) as caught:
        open_table(_data(path), tmp_path / "save")
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_bundled_names_stay_inside_the_assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assets = tmp_path / "assets"
    assets.mkdir()
    (assets / "small.csv").write_text("message,answer\n1,2\n")
    (tmp_path / "secret.csv").write_text("a\n1\n")
    monkeypatch.setattr(open_table_module, "ASSETS", assets)
    assert open_table(_data("bundled:small.csv"), tmp_path).label == "small.csv"
    for name in ("../secret.csv", "nothing.csv", "", "/etc/passwd"):
        with pytest.raises(DataError, match="does not ship") as caught:
            open_table(_data("bundled:" + name), tmp_path)
        assert "bundled:small.csv" in caught.value.hint


@pytest.mark.parametrize("name", ["../x", "/etc", "a/b/c", "x y", "-x", "https://a.b/c"])
def test_a_hub_id_is_an_id(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="is not a Hugging Face dataset"):
        open_table(_data(name, "huggingface"), tmp_path)


def test_an_unwritable_save_dir_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="can't be written"):
        store_upload(b"a", "a.csv", tmp_path / "file")


DEATHS = {
    "kill": ("import os; os.kill(os.getpid(), 9)", "ran out of memory (SIGKILL)"),
    "crash": ("import os; os.kill(os.getpid(), 11)", "it crashed (SIGSEGV)"),
    "error": ("raise ValueError('in the reader')", "code 1: ValueError: in the reader"),
    "silent": ("pass", "exited with code 0"),
    "slow": ("import time; time.sleep(60)", "more than 1 seconds"),
    "cpu": ("import resource as r; r.setrlimit(r.RLIMIT_CPU, (0, 1))\nwhile True: pass", "SIGXCPU"),
}


@pytest.mark.parametrize("name", DEATHS)
def test_the_death_of_a_child_is_explained(tmp_path: Path, name: str) -> None:
    script, words = DEATHS[name]
    (tmp_path / "dying.py").write_text(script)
    with pytest.raises(DataError) as caught:
        make_table_in_child("dying", "{}", tmp_path, 1 if name == "slow" else 20, {"PYTHONPATH": str(tmp_path)})
    assert words in caught.value.message
    assert caught.value.hint


def test_a_file_too_large_for_the_memory_limit_is_refused(tmp_path: Path) -> None:
    script = "import sys, toolkit.data.read_options as limits, toolkit.data.readers.read_file as reader\n"
    script += "limits.READER_MEMORY_BYTES = 700 << 20\nsys.exit(reader.main())"
    (tmp_path / "small.py").write_text(script)
    source = tmp_path / "big.json"
    with source.open("w") as out:
        out.write("[")
        out.writelines('{"a": "' + "😀" * 25_000 + '"},\n' for _ in range(1_500))
        out.write("{}]")
    content = {"source": str(source), "folder": str(tmp_path), "kind": "json", "sha256": "0" * 64, "label": "big"}
    request = json.dumps({**content, "options": {}})
    environment = {"PYTHONPATH": f"{tmp_path}:{PROJECT_ROOT}"}
    with pytest.raises(DataError, match="of memory") as caught:
        make_table_in_child("small", request, tmp_path, 60, environment)
    assert "JSONL" in caught.value.hint


def test_the_child_is_confined_and_gets_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    script = (
        "import os, resource as r, sys\nfrom toolkit.data.read_options import limit_process_resources\n"
        "from toolkit.data.task_process import run_task\nfrom toolkit.errors import DataError\n"
        "def work(request, report_progress):\n"
        "    limit_process_resources(1000)\n"
        "    names = ('RLIMIT_AS', 'RLIMIT_CPU', 'RLIMIT_FSIZE', 'RLIMIT_NOFILE', 'RLIMIT_CORE')\n"
        "    limits = [r.getrlimit(getattr(r, name))[0] for name in names]\n"
        "    raise DataError(str((limits, sorted(os.environ), sys.argv)))\n"
        "sys.exit(run_task(work))"
    )
    (tmp_path / "confined.py").write_text(script)
    environment = {"PYTHONPATH": f"{tmp_path}:{PROJECT_ROOT}"}
    with pytest.raises(DataError) as caught:
        make_table_in_child("confined", json.dumps({"folder": str(tmp_path)}), tmp_path, 20, environment)
    assert f"[{4 << 30}, 60, {(64 << 20) + 4000}, 64, 0]" in caught.value.message
    assert "HF_TOKEN" not in caught.value.message


def test_two_threads_read_a_file_once(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    path = store_upload(b"a,b\n" + b"1,2\n" * 1000, "x.csv", tmp_path)
    started = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        tables = list(pool.map(lambda _: open_table(_data(path), tmp_path), range(4)))
    assert len(set(tables)) == 1
    assert time.monotonic() - started < 30


def _must_not_run(*_: object) -> Path:
    raise AssertionError("the file was read a second time")


def test_a_refusal_names_its_file(tmp_path: Path) -> None:
    for name in ("first.csv", "second.csv"):  # the same bytes: the second refusal is a kept one
        with pytest.raises(DataError) as caught:
            open_table(_data(store_upload(b"a,b\n1\n", name, tmp_path)), tmp_path)
        assert caught.value.message.startswith(f"{name}: 1 row does not fit")


def test_the_rows_of_a_test_file_follow_the_data(tmp_path: Path) -> None:
    from toolkit.data.examples.split import plan_split

    data = _data(store_upload(b"q,a,x\n" + b"1,2,3\n" * 7, "data.csv", tmp_path))
    test = store_upload(
        b'{"a": "t", "q": "u"}\n{"q": "no answer"}\n{"a": "t", "q": "w", "new": 1}', "test.jsonl", tmp_path
    )
    both = data.model_copy(update={"test_path": str(test), "prompt": "{q}", "prompt_stub": "{a}"})
    table = open_table(both, tmp_path)
    assert (table.rows, table.held_out, table.columns) == (10, 3, ("q", "a", "x", "new"))
    assert table.row(9) == {"q": "w", "a": "t", "x": None, "new": "1"}
    plan = plan_split(table, both)
    assert sorted(plan.train) == list(range(7))
    assert sorted(plan.test) == [7, 9]
    assert plan.dropped.tolist() == [8]
    assert table.sha256 != open_table(data, tmp_path).sha256
    other = store_upload(b"z\n1\n", "other.csv", tmp_path)
    with pytest.raises(DataError, match="no column in common with the data"):
        open_table(data.model_copy(update={"test_path": str(other)}), tmp_path)


def test_a_damaged_table_of_two_files_names_what_and_where(tmp_path: Path) -> None:
    data = _data(store_upload(b"q,a\n" + b"1,2\n" * 7, "data.csv", tmp_path))
    both = data.model_copy(update={"test_path": str(store_upload(b"q,a\n3,4\n", "held.csv", tmp_path))})
    table = open_table(both, tmp_path)
    whole = table.path.read_bytes()
    table.path.write_bytes(whole[:-100])
    assert open_table(both, tmp_path).row(7) == {"q": "3", "a": "4"}, "without its end it is made anew"
    table.path.write_bytes(whole[:4] + b"\0" * 60 + whole[64:])
    for read, last in ((lambda: table.page(0, 3), 7), (lambda: list(table.batches(["q"])), 8)):
        with pytest.raises(DataError) as caught:
            read()
        assert caught.value.message.startswith(f"The prepared data of data.csv is damaged in rows 1 to {last} ")
        assert str(table.path) in caught.value.message and "Delete this file" in caught.value.hint


def test_a_fault_in_a_test_file_names_that_file(tmp_path: Path) -> None:
    good = b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n'
    data = _data(store_upload(good * 3, "data.jsonl", tmp_path)).model_copy(update={"file_type": "json"})
    for name, content, words in (
        (
            "tools.jsonl",
            good + good.replace(b"assistant", b"wizard"),
            "Row 2, column 'messages': message 2 has the unknown role",
        ),
        ("text.jsonl", b'{"messages": "hello"}', "Column 'messages' contains no conversations."),
    ):
        table = open_table(data.model_copy(update={"test_path": str(store_upload(content, name, tmp_path))}), tmp_path)
        assert table.chats["messages"].startswith(f"In the test file {name}: {words}")


def test_a_file_is_read_again_when_the_reader_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made.csv").write_text('a,b\n"open,1\n')
    for version in ("aaaaaa", "bbbbbb"):
        monkeypatch.setattr(open_table_module, "reader_version", lambda version=version: version)
        with pytest.raises(DataError):
            open_table(_data(tmp_path / "made.csv"), tmp_path)
    kept = sorted(path.name.split("-")[-1] for path in (tmp_path / "uploads" / "tables").glob("*.refused.json"))
    assert kept == ["aaaaaa.refused.json", "bbbbbb.refused.json"]
    assert len(reader_version()) == 6
