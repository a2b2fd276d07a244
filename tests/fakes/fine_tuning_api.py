"""The fine-tuning API without a server, a background worker or training: its routes, called in this process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from starlette.testclient import TestClient

from toolkit.api.api_desk import ApiDesk
from toolkit.api.api_routes import build_api_app
from toolkit.api.files.file_store import FileStore
from toolkit.api.jobs.job_checks import JobChecker
from toolkit.api.jobs.job_intake import JobIntake
from toolkit.api.jobs.job_store import JobStore
from toolkit.data.table import load_table
from toolkit.runs.events import EventWriter
from toolkit.runs.run_dir import RunDir, open_run

API_KEY = "sk-test-key-of-the-api-0123456789"
STAND_IN = "bundled:demo-model"


def chat_line(question: str, answer: str, **more: Any) -> str:
    """Return a line of a training file in OpenAI's format."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages, **more})


GOOD_LINES = [chat_line(f"question {number}", f"answer {number}") for number in range(10)]


class ApiWithoutProcesses:
    """The API of a save_dir. faults, longest: what the background worker would answer about the rows."""

    def __init__(self, save_dir: Path) -> None:
        self.save_dir = save_dir
        self.faults: list[dict[str, Any]] = []
        self.longest = 40
        self.woken = 0
        files, jobs = FileStore(save_dir), JobStore(save_dir)
        self.jobs = jobs
        self.intake = JobIntake(jobs, JobChecker(save_dir, files, self._answer), self._wake)
        desk = ApiDesk(save_dir, files, jobs, self.intake, STAND_IN, self._wake)
        self.http = TestClient(build_api_app(desk, API_KEY), base_url="http://127.0.0.1", raise_server_exceptions=True)
        self.http.headers["Authorization"] = f"Bearer {API_KEY}"

    def _wake(self) -> None:
        self.woken += 1

    def _answer(self, save_dir: Path, kind: str, body: dict[str, Any], **_: Any) -> dict[str, Any]:
        if kind == "faults":
            return {"faults": self.faults}
        path = save_dir / "lengths.npy"
        np.save(path, np.array([[self.longest - 1, 1]] * load_table(Path(body["table"])).rows, dtype=np.int32))
        return {"path": str(path)}

    def upload(self, lines: Sequence[str], name: str = "data.jsonl") -> str:
        """Upload a training file and return its id."""
        content = "\n".join([*lines, ""]).encode()
        reply = self.http.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": (name, content)})
        assert reply.status_code == 200, reply.text
        return str(reply.json()["id"])

    def create(self, **asked: Any) -> dict[str, Any]:
        """Create a job, make its checks, and return it as it is then."""
        reply = self.http.post("/v1/fine_tuning/jobs", json={"model": STAND_IN, **asked})
        assert reply.status_code == 200, reply.text
        assert reply.json()["status"] == "validating_files"
        self.intake.take_in(reply.json()["id"])
        return self.read(reply.json()["id"])

    def read(self, job_id: str, part: str = "") -> dict[str, Any]:
        """Return a job, or with "/events" or "/checkpoints" that list."""
        body: dict[str, Any] = self.http.get(f"/v1/fine_tuning/jobs/{job_id}{part}").json()
        return body

    def post(self, job_id: str, action: str) -> Any:
        """Send cancel, pause or resume, and return the reply."""
        return self.http.post(f"/v1/fine_tuning/jobs/{job_id}/{action}")

    def run_of(self, job_id: str) -> RunDir:
        """Return the run of a job."""
        return open_run(self.save_dir, self.jobs.find_job(job_id).run)


LOSSES = {1: 3.0, 2: 2.5, 3: 1.25}


def write_attempt(run: RunDir, attempt: int, steps: range, end: str | None, **fields: Any) -> None:
    """Write the events of an attempt, as a worker does."""
    with EventWriter(run.events_path, attempt) as events:
        events.append("started", pid=1)
        events.append("plan", total_steps=3, epochs=1)
        for step in steps:
            events.append("log", step=step, loss=LOSSES[step], tokens=100 * step)
            events.append("saved", step=step)
            run.checkpoints_dir.mkdir(exist_ok=True)
            (run.checkpoints_dir / f"step-{step:06d}").mkdir(exist_ok=True)
        if end == "finished":
            events.append("eval", step=3, eval_loss=1.5)
            events.append("adapter", step=3, path="adapter", bytes=1)
        if end is not None:
            events.append(end, **fields)
