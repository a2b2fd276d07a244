"""The client of the background worker: started by a question, shared, replaced, ended with its app."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from toolkit.data.doctor.truncation import read_row_lengths
from toolkit.data.storage.open_table import open_table
from toolkit.errors import DataError, WarmError
from toolkit.services import warm_client, warm_process
from toolkit.services.warm_process import WarmInfo
from toolkit.system import build_id


@pytest.fixture
def save_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    folder = tmp_path / "save"
    folder.mkdir()
    yield folder
    warm_client.stop_warm_worker(folder)
    warm_client._STARTERS.clear()


def until(found: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, "the condition was not met in time"
        time.sleep(0.05)
    return value


def lengths_body(save_dir: Path, rows: list[dict[str, str]], model: Path) -> dict[str, Any]:
    file = save_dir.parent / "rows.json"
    file.write_text(json.dumps(rows))
    data = {"file_type": "json", "path": str(file), "prompt": "{ask} ", "prompt_stub": "{say}"}
    from toolkit.config import DataConfig

    table = open_table(DataConfig.model_validate(data), save_dir)
    return {"config": {"data": data, "model": {"hf_model_ckpt": str(model)}}, "table": str(table.path)}


def test_a_disabled_background_worker_is_reported(save_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTK_WARM", "off")
    warm_client.ensure_warm_worker(save_dir)
    seen = warm_client.poll_warm_question(save_dir, "lengths", {})
    assert (seen.state, seen.is_final) == ("off", True)
    with pytest.raises(WarmError, match="turned off"):
        warm_client.ask_warm_worker(save_dir, "lengths", {})
    with pytest.raises(WarmError, match="turned off"):
        warm_process.start_warm_worker(save_dir)
    assert warm_client.find_warm_worker(save_dir) is None


def test_no_background_worker_is_started_when_memory_is_short(save_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_process, "free_memory_bytes", lambda: 300_000_000)
    assert warm_client.poll_warm_question(save_dir, "lengths", {}).state == "starting"
    seen = until(lambda: (look := warm_client.poll_warm_question(save_dir, "lengths", {})).is_final and look)
    assert seen.state == "failed"
    assert "286.1 MiB of memory are free" in seen.message
    assert warm_client.find_warm_worker(save_dir) is None


def test_a_start_that_outlives_a_change_of_the_code_is_followed_by_another(
    save_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds, started = ["old"], []
    is_starting, may_finish = threading.Event(), threading.Event()

    def start(folder: Path) -> None:
        started.append(WarmInfo(folder, 1, 1, 0.0, "token", builds[-1]))
        is_starting.set()
        assert may_finish.wait(30)

    monkeypatch.setattr(warm_process, "start_warm_worker", start)
    monkeypatch.setattr(warm_client, "find_warm_worker", lambda _: started[-1] if started else None)
    monkeypatch.setattr(warm_client, "build_id", lambda: builds[-1])
    warm_client.ensure_warm_worker(save_dir)
    assert is_starting.wait(30)
    builds.append("new")
    assert warm_client.poll_warm_question(save_dir, "lengths", {}).state == "starting", "and asked only this once"
    may_finish.set()
    until(lambda: not warm_client._STARTERS[save_dir].thread.is_alive())
    assert [info.build for info in started] == builds
    started.clear()  # the fixture ends what is found


def test_the_free_memory_is_a_number() -> None:
    assert warm_process.free_memory_bytes() > 0


@pytest.mark.worker
def test_the_tokens_of_every_row_are_counted(save_dir: Path, tiny_plain_model: Path) -> None:
    rows = [
        {"ask": "the quick", "say": "brown fox"},
        {"ask": "none"},
        {"ask": "", "say": ""},
        {"ask": "a" * 300, "say": "b"},
    ]
    body = lengths_body(save_dir, rows, tiny_plain_model)
    first = warm_client.poll_warm_question(save_dir, "lengths", body)
    assert (first.state, first.phase) == ("starting", "starting a process with the training libraries")
    seen = [warm_client.poll_warm_question(save_dir, "lengths", body, wait=0.2)]
    while not seen[-1].is_final:
        seen.append(warm_client.poll_warm_question(save_dir, "lengths", body, wait=0.2))
    assert any("importing" in look.phase for look in seen)
    assert seen[-1].state == "done", seen[-1]
    lengths = read_row_lengths(Path(seen[-1].value["path"]))
    assert lengths.total.tolist()[1] == -1
    # <s>, the prompt's tokens; the completion's and </s>
    assert (lengths.prompt[2], lengths.completion[2]) == (2, 1)
    assert lengths.prompt[3] > 256 > lengths.completion[3] == 2
    again = warm_client.ask_warm_worker(save_dir, "lengths", body)
    assert again == seen[-1].value, "counted once"
    Path(again["path"]).write_bytes(b"damaged")
    with pytest.raises(DataError):
        read_row_lengths(Path(again["path"]))
    assert (
        read_row_lengths(Path(warm_client.ask_warm_worker(save_dir, "lengths", body)["path"])).total == lengths.total
    ).all()

    def changed(section: str, **values: Any) -> dict[str, Any]:
        config = {**body["config"], section: {**body["config"].get(section, {}), **values}}
        return {**body, "config": config}

    with pytest.raises(WarmError, match=r"No column of rows\.json is named"):
        warm_client.ask_warm_worker(save_dir, "lengths", changed("data", prompt="{no}"))
    with pytest.raises(WarmError, match="does not exist"):
        warm_client.ask_warm_worker(save_dir, "lengths", changed("model", hf_model_ckpt="/no/such/folder"))
    assert warm_client.ask_warm_worker(save_dir, "lengths", changed("lora", r=4))["rows"] == 4


NESTED_LOOPS = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"


def with_template(model: Path, template: str, folder: Path) -> Path:
    shutil.copytree(model, folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


def is_computing(save_dir: Path, kind: str, body: dict[str, Any]) -> bool:
    state = warm_client.poll_warm_question(save_dir, kind, body)
    assert not state.is_final, state
    return state.phase in ("loading the tokenizer", "checking rows", "counting tokens")


@pytest.mark.worker
def test_a_template_without_end_or_with_all_memory_does_not_stop_the_questions_about_others(
    save_dir: Path, tiny_model: Path, tmp_path: Path
) -> None:
    body = {**lengths_body(save_dir, [{"ask": "the quick", "say": "brown fox"}], tiny_model), "row": 0}

    def about(model: Path) -> dict[str, Any]:
        return {**body, "config": {**body["config"], "model": {"hf_model_ckpt": str(model)}}}

    endless = about(with_template(tiny_model, NESTED_LOOPS, tmp_path / "endless"))
    large = about(with_template(tiny_model, "{{ 'a' * 10**11 }}", tmp_path / "large"))
    for kind in ("xray", "faults", "lengths"):
        until(partial(is_computing, save_dir, kind, endless))
        # the next question of the same page replaces it, although the template never returns
        with pytest.raises(WarmError, match=r"'.*large' needed over 3.* of memory"):
            warm_client.ask_warm_worker(save_dir, kind, large)
        assert warm_client.ask_warm_worker(save_dir, kind, about(tiny_model))


@pytest.mark.worker
def test_a_dead_or_outdated_worker_is_replaced(save_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = warm_process.start_warm_worker(save_dir)
    assert warm_process.start_warm_worker(save_dir) == first == warm_client.find_warm_worker(save_dir)
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: warm_client.find_warm_worker(save_dir) is None)
    assert warm_client.poll_warm_question(save_dir, "lengths", {}).state == "starting"
    second: WarmInfo = until(lambda: warm_client.find_warm_worker(save_dir))
    assert second.pid != first.pid
    until(lambda: warm_client.poll_warm_question(save_dir, "lengths", {}).state == "working")

    monkeypatch.setattr(warm_client, "build_id", lambda: "another")
    monkeypatch.setattr(warm_process, "build_id", lambda: "another")
    assert warm_client.poll_warm_question(save_dir, "lengths", {}).state == "starting"
    third: WarmInfo = until(
        lambda: (info := warm_client.find_warm_worker(save_dir)) and info.build == "another" and info
    )
    assert third.pid != second.pid
    warm_client.stop_warm_worker(save_dir)
    assert warm_client.find_warm_worker(save_dir) is None
    assert not warm_process.WARM_SERVICE.file(
        save_dir, "json"
    ).exists() or not warm_process.service_process.is_service_alive(third)


@pytest.mark.worker
def test_it_ends_with_the_program_that_started_it(save_dir: Path) -> None:
    script = "import sys; from pathlib import Path; from toolkit.services import warm_process; "
    script += "print(warm_process.start_warm_worker(Path(sys.argv[1])).pid, flush=True); sys.stdin.read()"
    starter = subprocess.Popen(
        [sys.executable, "-c", script, str(save_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    info = warm_client.find_warm_worker(save_dir)
    assert info is not None
    assert info.pid == pid
    starter.kill()
    starter.wait()
    until(lambda: warm_client.find_warm_worker(save_dir) is None)


def test_the_build_changes_with_the_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build_id, "PROJECT_ROOT", tmp_path)
    monkeypatch.setattr(build_id, "BUILD_ID_CACHE_SECONDS", 0.0)
    code = tmp_path / "toolkit" / "worker" / "one.py"
    code.parent.mkdir(parents=True)
    code.write_text("a = 1")
    before = build_id.build_id()
    assert build_id.build_id() == before
    code.write_text("a = 12")
    assert build_id.build_id() != before
    build_id._CACHED_BUILD_ID.clear()


def test_each_installation_has_its_own_background_worker(
    save_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert warm_process.WARM_SERVICE.own == build_id.installation_id()
    monkeypatch.setattr(build_id, "PROJECT_ROOT", tmp_path)
    other = replace(warm_process.WARM_SERVICE, own=build_id.installation_id())
    assert other.file(save_dir, "lock") != warm_process.WARM_SERVICE.file(save_dir, "lock")
