"""A small model of a run's life cycle, compared with two supervisors on one folder and every action of a user.

After each act the supervisors look until nothing moves any more; then every run must be in the state that the model
says, one worker at most may live, and no attempt may have begun twice.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from tests.fakes.run_fixtures import fake_command, queue
from toolkit.errors import RunError
from toolkit.lifecycle import queue as order
from toolkit.lifecycle import supervisor as supervising
from toolkit.lifecycle.launcher import LocalLauncher
from toolkit.lifecycle.resume_policy import MAX_ATTEMPTS_WITHOUT_CHECKPOINT, request_resume
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.runs.events import read_events
from toolkit.runs.run_dir import RunDir, delete_run, is_run_alive, kill_run, list_runs, request_run_stop
from toolkit.runs.status import read_run_status
from toolkit.system.locks import read_lock_holder

PATIENCE = float(os.environ.get("LIFE_PATIENCE", "60"))
GRACE = 0.1


@dataclass
class Life:
    """The model of one run. barren: attempts in a row that saved no checkpoint."""

    state: str = "queued"
    attempt: int = 0
    barren: int = 0
    fresh: bool = True  # no attempt has saved its first step yet


class RunLife(RuleBasedStateMachine):
    runs = Bundle("runs")

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.lives: dict[RunDir, Life] = {}
        self.acts = 0
        self._grace = supervising.FOREIGN_GRACE_SECONDS
        supervising.FOREIGN_GRACE_SECONDS = GRACE  # type: ignore[misc]
        self.apps = [self._app(), self._app()]

    def teardown(self) -> None:
        if not hasattr(self, "folder"):
            return
        supervising.FOREIGN_GRACE_SECONDS = self._grace  # type: ignore[misc]
        for run in list_runs(self.folder):
            kill_run(run, 0.2)
        for app in self.apps:
            app.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @rule(target=runs)
    def create(self) -> RunDir:
        run = queue(self.folder, steps=4, save_every=3, hold="training", holds=True)
        self.lives[run] = Life()
        self._settle()
        return run

    @rule()
    def both_apps_at_once(self) -> None:
        threads = [threading.Thread(target=app.tick) for app in self.apps * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._settle()

    @rule(run=runs)
    def let_finish(self, run: RunDir) -> None:
        if self._going() is not run:
            return
        (run.path / "go").touch()
        self.lives[run].state = "finished"
        self._settle()

    @rule(run=runs)
    def stop(self, run: RunDir) -> None:
        life = self.lives[run]
        request_run_stop(run)
        if life.state == "queued":
            life.state = "stopped" if life.attempt else "cancelled"
        elif life.state == "running":
            life.state = "stopped"
        self._settle()

    @rule(run=runs)
    def kill(self, run: RunDir) -> None:
        life = self.lives[run]
        assert kill_run(run, 2.0) is (life.state == "running")
        if life.state in ("queued", "running"):
            life.state = "cancelled" if not life.attempt else "stopped"
        self._settle()

    @rule(run=runs)
    def worker_dies(self, run: RunDir) -> None:
        if self._going() is not run:
            return
        holder = read_lock_holder(run.lock_path)
        assert holder is not None
        os.kill(holder.pid, signal.SIGKILL)
        life = self.lives[run]
        life.barren += 1
        life.state = "queued" if life.barren < MAX_ATTEMPTS_WITHOUT_CHECKPOINT else "failed"
        self._settle()

    @rule(which=st.integers(0, 1))
    def app_restarts(self, which: int) -> None:
        self.apps[which].stop()
        self.apps[which] = self._app()
        self._settle()

    @rule(run=runs)
    def resume(self, run: RunDir) -> None:
        life = self.lives[run]
        if life.state in ("queued", "running", "finished"):
            if life.state != "queued":
                with pytest.raises(RunError):
                    request_resume(run)
            return
        request_resume(run)
        life.state, life.barren = "queued", 0
        self._settle()

    @rule(run=runs, where=st.sampled_from(["first", "up", "down"]))
    def move(self, run: RunDir, where: order.QueueMove) -> None:
        waiting = order.list_queued_runs(self.folder)
        assert not order.move_queued_run(run, where) or run in waiting
        self._settle()

    @rule(run=runs)
    def delete_a_living_one(self, run: RunDir) -> None:
        if self._going() is run:
            with pytest.raises(RunError, match="still running"):
                delete_run(run)

    @rule(run=consumes(runs))
    def delete(self, run: RunDir) -> None:
        if self._going() is run:
            kill_run(run, 2.0)
            self.lives[run].state = "stopped"
            self._settle()
        delete_run(run)
        del self.lives[run]
        self._settle()

    @invariant()
    def the_world_is_as_the_model_says(self) -> None:
        if not hasattr(self, "folder"):
            return
        self.acts += 1
        assert set(list_runs(self.folder)) == set(self.lives)
        assert sum(is_run_alive(run) for run in self.lives) <= 1
        for run, life in self.lives.items():
            status = read_run_status(run)
            # it has ended and nobody saw how: the page shows "interrupted" until a user resumes it
            told = "failed" if status.state == "interrupted" and status.explained else status.state
            assert (told, status.attempt) == (life.state, life.attempt), (run.id, status, life)
            began = [event["attempt"] for event in read_events(run.events_path)[0] if event["kind"] == "started"]
            assert began == list(range(1, life.attempt + 1)), "an attempt started twice, or one was skipped"
            starts = run.path / "starts"
            assert len(starts.read_text().split() if starts.exists() else []) == life.attempt, "one worker per attempt"

    def _app(self) -> Supervisor:
        return Supervisor(self.folder, launcher=LocalLauncher(fake_command), poll_seconds=0.01)

    def _going(self) -> RunDir | None:
        return next((run for run, life in self.lives.items() if life.state == "running"), None)

    def _settle(self) -> None:
        """Look until the runs that must end have ended, and the next one is there, holding at its second step."""
        self._until(lambda: all(self._has_ended(run) for run in self.lives))
        if self._going() is None and (run := self._next()) is not None:
            life = self.lives[run]
            life.state, life.attempt = "running", life.attempt + 1
            self._until(lambda: self._holds(run, life.attempt))

    def _next(self) -> RunDir | None:
        """The run that goes on by now, else the first that waits."""
        on = (run for run, life in self.lives.items() if read_run_status(run).attempt > life.attempt)
        return next(on, None) or next((run for run in order.list_queued_runs(self.folder) if run in self.lives), None)

    def _has_ended(self, run: RunDir) -> bool:
        life, status = self.lives[run], read_run_status(run)
        if life.state == "running":
            return status.state == "running"
        if life.state == "queued":  # it waits, or has already resumed
            return status.attempt > life.attempt or (status.state == "queued" and status.attempt == life.attempt)
        return not is_run_alive(run) and status.explained

    def _holds(self, run: RunDir, attempt: int) -> bool:
        here = run.path / "here"
        there = here.exists() and here.read_text() == str(attempt)
        return there or (run.path / "go").exists()

    def _until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            for app in self.apps:
                app.tick()
            assert time.monotonic() < deadline, {
                run.id: (life, read_run_status(run)) for run, life in self.lives.items()
            }
            time.sleep(0.005)
