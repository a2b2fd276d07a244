"""A script as in OpenAI's guide to fine-tuning, with their own client, against `python -m toolkit api`.

In the middle, worker and server are killed; the same job ends.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.fine_tuning_api import chat_line
from toolkit.api.api_process import ApiInfo, find_api
from toolkit.api.jobs.job_store import JobStore
from toolkit.runs.events import read_events
from toolkit.runs.run_dir import RunDir, kill_run, list_runs, open_run
from toolkit.services.engine_client import stop_engine
from toolkit.services.engine_process import find_engine
from toolkit.services.warm_client import stop_warm_worker
from toolkit.system.locks import read_lock_holder
from toolkit.system.paths import PROJECT_ROOT

pytestmark = pytest.mark.worker

PATIENCE_SECONDS = 240.0
STEPS = 200
"""Of the job: seconds of training, so that it is killed long before its end."""


def wait_until(ready: Callable[[], Any], what: str) -> Any:
    """Return the first true value of `ready`."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (value := ready()):
        assert time.monotonic() < deadline, f"no {what} within {PATIENCE_SECONDS:.0f} s"
        time.sleep(0.1)
    return value


class Server:
    """`python -m toolkit api` as a process, on any free port."""

    def __init__(self, save_dir: Path) -> None:
        command = [sys.executable, "-m", "toolkit", "api", "--port", "0", "--save-dir", str(save_dir)]
        self.output = (save_dir.parent / "api.log").open("ab")
        self.process = subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=self.output, stderr=self.output)
        self.info: ApiInfo = wait_until(lambda: self._find(save_dir), "server")

    def _find(self, save_dir: Path) -> ApiInfo | None:
        assert self.process.poll() is None, (save_dir.parent / "api.log").read_text()
        found = find_api(save_dir)
        return found if found is not None and found.pid == self.process.pid else None

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_SECONDS)
        self.output.close()
        return code


def test_the_script_of_openais_guide_runs_and_its_job_survives_two_kills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import openai

    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    save_dir, training = tmp_path / "save", tmp_path / "mydata.jsonl"
    training.write_text("".join(f"{chat_line(f'say {n} please', f'it is {n}')}\n" for n in range(20)))
    server = Server(save_dir)

    def connect() -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{server.info.url}/v1", api_key=server.info.token)

    try:
        client, key = connect(), server.info.token
        with training.open("rb") as data:
            file = client.files.create(file=data, purpose="fine-tune")
        job = client.fine_tuning.jobs.create(
            training_file=file.id,
            model="gpt-4.1-nano-2025-04-14",
            suffix="guide",
            method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": STEPS // 4, "batch_size": 4}}},
        )
        assert job.status == "validating_files"
        run: RunDir = wait_until(lambda: made_run(save_dir, job.id), "run")
        wait_until(lambda: any(event["kind"] == "log" for event in read_events(run.events_path)[0]), "step")
        holder = read_lock_holder(run.lock_path)
        assert holder is not None
        os.kill(holder.pid, signal.SIGKILL)
        assert server.end(signal.SIGKILL) == -signal.SIGKILL

        server = Server(save_dir)
        client = connect()
        assert server.info.token == key  # a script goes on with the key that it has
        job = wait_until(lambda: ended(client, job.id), "end of the job")
        assert job.status == "succeeded" and [one.id for one in client.fine_tuning.jobs.list()] == [job.id]
        assert [one.id for one in list_runs(save_dir)] == [run.id]
        messages = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=50)]
        assert "Fine-tuning job resumed (attempt 2)" in messages and messages[-1].startswith("Created")
        assert steps_of(client, job.id) == list(range(STEPS, 0, -1))
        content = base64.b64decode(client.files.content(job.result_files[0]).read()).decode()
        assert [row["step"] for row in csv.DictReader(io.StringIO(content))] == [str(n) for n in range(1, STEPS + 1)]

        (newest, *_) = client.fine_tuning.jobs.checkpoints.list(job.id)
        assert newest.step_number == STEPS and newest.metrics.train_loss is not None
        assert client.models.retrieve(job.fine_tuned_model).id == job.fine_tuned_model
        asked: dict[str, Any] = {"messages": [{"role": "user", "content": "say 3 please"}], "max_tokens": 8, "seed": 1}
        answer = client.chat.completions.create(model=job.fine_tuned_model, **asked)
        assert answer.model == job.fine_tuned_model and answer.choices[0].message.content
        parts = list(client.chat.completions.create(model=job.fine_tuned_model, stream=True, **asked))
        assert {part.model for part in parts} == {job.fine_tuned_model}
        streamed = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
        assert streamed == answer.choices[0].message.content
        same = client.chat.completions.create(model=newest.fine_tuned_model_checkpoint, **asked)
        assert same.choices[0].message.content == streamed
        for base in (job.model, "gpt-4o-mini"):
            assert client.chat.completions.create(model=base, **asked).model == base
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{server.info.url}/v1", api_key="sk-wrong").files.list()
        assert client.files.delete(file.id).deleted
        assert json.loads((run.path / "run.json").read_text())["name"] == "guide"
        server.end()
        assert find_api(save_dir) is None
    finally:
        server.process.kill()
        for left in list_runs(save_dir):
            kill_run(left, 0.2)
        stop_warm_worker(save_dir)
        if (engine := find_engine(save_dir)) is not None:
            stop_engine(engine)


def made_run(save_dir: Path, job_id: str) -> RunDir | None:
    record = JobStore(save_dir).find_job(job_id)
    assert record.refused is None, record.refused
    return open_run(save_dir, record.run) if record.run else None


def steps_of(client: Any, job_id: str) -> list[int]:
    events = client.fine_tuning.jobs.list_events(job_id)
    return [event.data["step"] for event in events if event.type == "metrics" and "train_loss" in event.data]


def ended(client: Any, job_id: str) -> Any:
    job = client.fine_tuning.jobs.retrieve(job_id)
    return job if job.status in ("succeeded", "failed", "cancelled") else None
