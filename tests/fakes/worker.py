"""A worker without torch: takes the run's lock, writes events as `fake.json` in the run says, obeys `stop`.

fake.json (all optional): steps, step_seconds, die ("kill", "abort", "segv", "exit", "raise", "oom", "fill") at step
die_at, linger (seconds to stay after the last event), before_lock (seconds to wait before taking the lock), children
(processes to start in sessions of their own, as a launcher does), deaf (ignore SIGTERM and `stop`), save_every (steps
between two `saved` events, from which a later attempt goes on), dying (how many attempts die; default all), hold (a
moment of the first attempt at which it leaves a file `here` and waits for a file `go` or a stop: "starting", "loading",
"training", "saving", "evaluating" or "stopping"), holds (hold in every attempt). Every start leaves a line in `starts`,
before any lock is taken; every slot that it has leaves one in `slots`, with the visible GPUs, or in `double` while
another worker has it too.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from toolkit.runs.events import EventWriter, read_events
from toolkit.runs.run_dir import PAUSE_REQUEST, RunDir, open_run
from toolkit.system.locks import WorkerLock, try_lock

DEATHS = {"kill": signal.SIGKILL, "abort": signal.SIGABRT, "segv": signal.SIGSEGV, "term": signal.SIGTERM}


def main(run_id: str) -> int:
    run = open_run(Path(os.environ["FTK_SAVE_DIR"]), run_id)
    script: dict[str, Any] = {}
    if (run.path / "fake.json").exists():
        script = json.loads((run.path / "fake.json").read_text())
    if script.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with (run.path / "starts").open("a") as starts:
        starts.write(f"{os.getpid()}\n")
    used = [hold_slot(run, number) for number in os.environ.get("FTK_SLOTS", "").split(",") if number]
    hold(run, script, "starting")
    time.sleep(script.get("before_lock", 0))
    for _ in range(script.get("children", 0)):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    attempt = int(os.environ["FTK_ATTEMPT"])
    with WorkerLock(run.lock_path, attempt, run.id), EventWriter(run.events_path, attempt) as events:
        train(run, script, events)
        time.sleep(script.get("linger", 0))
    del used
    return 0


def hold_slot(run: RunDir, number: str) -> int | None:
    """Hold a lock of the fake's own for its slot, until the process dies; leave a file `double` if another one does."""
    handle = try_lock(run.save_dir / f"used-{number}")
    with (run.path / ("double" if handle is None else "slots")).open("a") as told:
        told.write(f"{number} {os.environ.get('CUDA_VISIBLE_DEVICES', '-')}\n")
    return handle


def train(run: RunDir, script: dict[str, Any], events: EventWriter) -> None:
    steps, every = script.get("steps", 3), script.get("save_every")
    start = max((event["step"] for event in read_events(run.events_path)[0] if event["kind"] == "saved"), default=0)
    dies = events.attempt <= script.get("dying", 99)
    events.append("started", pid=os.getpid(), versions={}, device="cpu", host="here")
    events.reserve_space()
    events.append("phase", phase="loading model")
    hold(run, script, "loading")
    events.append("plan", total_steps=steps, epochs=1)
    events.append("phase", phase="training")
    if start:
        events.append("resumed", step=start)
    for step in range(start + 1, steps + 1):
        if run.stop_path.exists() and not script.get("deaf"):
            hold(run, script, "stopping")
            paused = {"paused": True} if run.stop_path.read_text() == PAUSE_REQUEST else {}
            events.append("stopped", step=step - 1, **paused)
            return
        if script.get("die_at") == step and dies:
            die(script["die"], run)
        if step == 2:
            hold(run, script, "training")
        time.sleep(script.get("step_seconds", 0.01))
        events.append("progress", step=step, epoch=step / steps)
        events.append("log", step=step, epoch=step / steps, loss=1 / step, learning_rate=0.1)
        if every and step % every == 0:
            hold(run, script, "saving")
            events.append("saved", step=step, bytes=1000, seconds=0.01)
    events.append("phase", phase="evaluating")
    hold(run, script, "evaluating")
    run.adapter_dir.mkdir(exist_ok=True)
    events.append("scores", rows=2, exact_match=1.0, exact_match_base=0.0)
    events.append("finished", step=steps)


def hold(run: RunDir, script: dict[str, Any], moment: str) -> None:
    attempt = os.environ["FTK_ATTEMPT"]
    if script.get("hold") != moment or (attempt != "1" and not script.get("holds")):
        return
    (run.path / "here").write_text(attempt)
    deadline = time.monotonic() + 60
    asked = run.stop_path.exists()
    while not (run.path / "go").exists() and time.monotonic() < deadline:
        if run.stop_path.exists() and not asked:
            return
        time.sleep(0.01)


def die(how: str, run: RunDir) -> None:
    print("last words", flush=True)
    if how in DEATHS:
        os.kill(os.getpid(), DEATHS[how])
        time.sleep(5)
    if how == "fill":
        with (run.save_dir / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 4096)
    if how == "exit":
        os._exit(3)
    if how == "oom":
        raise MemoryError
    raise ValueError("a wrong turn")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
