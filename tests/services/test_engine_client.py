"""The client of the engine: it is found, started, replaced and stopped, and failures are reported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from toolkit.config import InferenceConfig
from toolkit.errors import EngineError, ToolkitError
from toolkit.services import engine_client
from toolkit.services.engine_http import Done
from toolkit.services.engine_process import EngineInfo, find_engine
from toolkit.services.engine_requests import stream_chat

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def save_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    yield tmp_path / "save"
    left = find_engine(tmp_path / "save")
    if left is not None:
        engine_client.stop_engine(left)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 2}', '{"schema": 1, "port": 5}'])
def test_no_engine_is_found_when_none_runs(tmp_path: Path, text: str) -> None:
    assert find_engine(tmp_path) is None
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "engine.json").write_text(text)
    assert find_engine(tmp_path) is None


def test_a_missing_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="no run"):
        engine_client.start_engine(tmp_path, "nope")


@pytest.mark.worker
def test_one_engine_serves_a_save_dir_and_attaches_adapters(
    save_dir: Path, tiny_model: Path, tiny_plain_model: Path
) -> None:
    from tests.fakes.engine_runs import finished_run

    a, b = finished_run(save_dir, tiny_model, 1), finished_run(save_dir, tiny_model, 2)
    plain = finished_run(save_dir, tiny_plain_model)
    got: list[EngineInfo] = []
    racing = [
        threading.Thread(target=lambda r=run: got.append(engine_client.start_engine(save_dir, r.id))) for run in (a, b)
    ]
    began = time.monotonic()
    for thread in racing:
        thread.start()
    for thread in racing:
        thread.join()
    assert time.monotonic() - began < 20, "the start waited for the model"
    assert got[0] == got[1] == find_engine(save_dir)
    assert engine_client.read_engine_status(got[0]).phase
    ready = engine_client.wait_for_engine(got[0], 120)
    assert set(engine_client.list_engine_models(got[0])) == {"base", a.id, b.id} and set(ready.runs) == {a.id, b.id}

    other = engine_client.start_engine(save_dir, plain.id)  # another base model: the idle engine is stopped
    assert other.pid != got[0].pid and engine_client.read_engine_status(got[0]).status == "stopped"
    engine_client.wait_for_engine(other, 120)
    *_, done = stream_chat(other, plain.id, [{"role": "user", "content": "send: "}], InferenceConfig())
    assert isinstance(done, Done) and done.prompt == "send: "
    with pytest.raises(EngineError, match="another base model"):
        engine_client.attach_adapter(other, a.id)
    with pytest.raises(EngineError, match="is already running on port"):
        engine_client.start_engine(save_dir, plain.id, port=1)
    second = subprocess.run(
        [sys.executable, "-m", "toolkit.worker.serve"],
        env={**os.environ, "FTK_SAVE_DIR": str(save_dir), "FTK_ENGINE_RUN": a.id, "FTK_SERVICE_TOKEN": "x"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert second.returncode == 3 and "Another process (engine)" in second.stderr
    engine_client.stop_engine(other)
    engine_client.stop_engine(other)
    ended = engine_client.read_engine_status(other)
    assert (ended.status, ended.hint) == ("stopped", "") and find_engine(save_dir) is None
    assert not (save_dir / "engine" / "engine.json").exists()
    with pytest.raises(EngineError):
        engine_client.list_engine_models(other)


@pytest.mark.worker
def test_a_failed_load_is_reported_and_a_killed_engine_is_not_found(save_dir: Path, tiny_model: Path) -> None:
    from tests.fakes.engine_runs import finished_run, make_config
    from toolkit.runs.run_dir import create_run

    unfinished = create_run(make_config(save_dir, tiny_model), None)
    info = engine_client.start_engine(save_dir, unfinished.id)
    with pytest.raises(EngineError, match="no adapter yet"):
        engine_client.wait_for_engine(info, 120)
    with pytest.raises(EngineError, match="no adapter yet"):
        list(stream_chat(info, "base", HELLO, InferenceConfig()))
    run = finished_run(save_dir, tiny_model)
    replaced = engine_client.start_engine(save_dir, run.id)  # a failed engine does not prevent a new one
    assert replaced.pid != info.pid
    engine_client.wait_for_engine(replaced, 120)
    os.kill(replaced.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while find_engine(save_dir) is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert find_engine(save_dir) is None and engine_client.read_engine_status(replaced).status == "stopped"


@pytest.mark.worker
def test_an_idle_engine_stops_by_itself(save_dir: Path, tiny_model: Path) -> None:
    from tests.fakes.engine_runs import finished_run

    info = engine_client.start_engine(save_dir, finished_run(save_dir, tiny_model).id, idle_minutes=1 / 60)
    deadline = time.monotonic() + 60
    while find_engine(save_dir) is not None and time.monotonic() < deadline:
        engine_client.read_engine_status(info)  # reading the status does not count as use
        time.sleep(0.1)
    assert find_engine(save_dir) is None
    # it has let go of its lock, and may still be writing the line that says that it ended normally
    while (ended := engine_client.read_engine_status(info)).hint and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (ended.status, ended.hint) == ("stopped", "")


@pytest.mark.worker
def test_serving_in_the_foreground_until_interrupted(save_dir: Path, tiny_model: Path) -> None:
    from tests.fakes.engine_runs import finished_run

    run = finished_run(save_dir, tiny_model)
    script = "import sys; from pathlib import Path; from toolkit.services import engine_client; "
    script += "engine_client.serve_in_foreground(Path(sys.argv[1]), sys.argv[2], None, sys.argv[3:])"
    second = finished_run(save_dir, tiny_model, seed=2)
    shown = subprocess.Popen(
        [sys.executable, "-c", script, str(save_dir), run.id, second.id],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert shown.stdout is not None
    lines = []
    while "Ctrl-C" not in (line := shown.stdout.readline()):
        assert line, shown.communicate()[1]
        lines.append(line)
    info = find_engine(save_dir)
    assert info is not None
    text = "".join(lines)
    assert f"models   {run.id}, base, {second.id}" in text
    assert info.url in text and info.token in text and "from openai import OpenAI" in text and "curl" in text
    shown.send_signal(signal.SIGINT)
    rest, errors = shown.communicate(timeout=90)
    assert (shown.returncode, errors) == (0, "") and "Stopping the engine" in rest
    assert find_engine(save_dir) is None
