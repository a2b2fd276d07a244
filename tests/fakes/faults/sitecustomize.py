"""Faults for the real worker, without a line of it knowing: Python imports this at its start when it is on PYTHONPATH.

A run's fault.json says what happens and when: {"at": {"kind": "log", "step": 3}, "do": "segv", "attempt": 1}. `at` is
an event, right after it was written ("phase" with its name, "log" with its step), or {"kind": "commit"}: inside the
commit of a directory, before its rename; in a fork of the spare also {"kind": "taken"}: when it begins. `attempt`
(default 1) 0 means: in every attempt. In any other process this module does nothing.

do: kill, segv, abort, exit, raise (with "type" and "text"), memory (this much address space more, then no more:
"bytes"), group (join the memory control group "path"), eat (allocate until something stops it), fill (the volume of
save_dir, up to "leave" bytes), wait (tell by the file `here`, go on when there is a file `go`).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PATIENCE = 120.0


ARMED: dict[str, Any] = {}
"""run and fault of this process, once it is a run's worker; a fault happens once."""


def install() -> None:
    from toolkit.runs import events
    from toolkit.system import durable

    append, commit = events.EventWriter.append, durable.commit_dir

    def watched_append(self: Any, kind: str, **fields: Any) -> Any:
        event = append(self, kind, **fields)
        when(lambda at: all(event.get(name) == value for name, value in at.items()))
        return event

    def watched_commit(*args: Any, **more: Any) -> Any:
        when(lambda at: at["kind"] == "commit")
        return commit(*args, **more)

    events.EventWriter.append = watched_append  # type: ignore[method-assign]
    durable.commit_dir = watched_commit


def install_in_spare() -> None:
    """Its forks learn only at their beginning which run they are for."""
    from toolkit.worker import train

    main = train.main

    def watched_main(run_id: str) -> int:
        arm(os.environ, run_id)
        when(lambda at: at["kind"] == "taken")
        return main(run_id)

    train.main = watched_main


def arm(environment: Mapping[str, str], run_id: str) -> None:
    run = Path(environment["FTK_SAVE_DIR"]) / "runs" / run_id
    if not (run / "fault.json").exists() or int(environment.get("RANK", "0")):
        return
    fault: dict[str, Any] = json.loads((run / "fault.json").read_text())
    if fault.get("attempt", 1) in (0, int(environment["FTK_ATTEMPT"])):
        ARMED.update(run=run, fault=fault)


def when(fits: Callable[[dict[str, Any]], bool]) -> None:
    if ARMED and fits(ARMED["fault"]["at"]):
        run, fault = ARMED.pop("run"), ARMED.pop("fault")
        happen(run, fault)


def happen(run: Path, fault: dict[str, Any]) -> None:
    import ctypes
    import resource
    import signal

    match fault["do"]:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segv":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "exit":
            os._exit(3)
        case "raise":
            raise named(fault["type"])(fault["text"])
        case "memory":
            used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (used + fault["bytes"],) * 2)
        case "group":
            Path(fault["path"], "cgroup.procs").write_text(str(os.getpid()))
        case "eat":
            eaten = []
            while True:
                eaten.append(os.urandom(2**20))
        case "fill":
            fill(run, fault.get("leave", 0))
        case "wait":
            wait(run)
    if then := fault.pop("then", None):
        happen(run, {**fault, "do": then})


def named(name: str) -> type[BaseException]:
    """An exception class by its name: a built-in one, or torch's."""
    import builtins

    if name.startswith("torch."):
        import torch

        return getattr(torch, name.removeprefix("torch."))
    return getattr(builtins, name)


def fill(run: Path, leave: int) -> None:
    with (run / "filler").open("wb") as filler:
        for size in (2**20, 2**12):
            try:
                while os.statvfs(run).f_bavail * os.statvfs(run).f_frsize > leave + size:
                    filler.write(b"\0" * size)
                    filler.flush()
            except OSError:
                return


def wait(run: Path) -> None:
    (run / "here").touch()
    deadline = time.monotonic() + PATIENCE
    while not (run / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.01)


def begin() -> None:
    """Nothing in any process but a worker and a spare."""
    if "toolkit.worker.spare" in sys.orig_argv:
        install()
        install_in_spare()
    elif "toolkit.worker.train" in sys.orig_argv and "FTK_SAVE_DIR" in os.environ:
        arm(os.environ, sys.orig_argv[-1])
        if ARMED:
            install()


sys.path.insert(0, str(Path.cwd()))
begin()
sys.path.pop(0)
