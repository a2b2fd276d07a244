"""Processes of the toolkit that start in milliseconds: forks of a process that has made their imports.

Imports take nearly all the time of a short process. Its module, arguments, environment, folder and open files are those
of a new process, and so are its pid, limits, signals and exit code. Only its parent is another: the fork server.
"""

from __future__ import annotations

import faulthandler
import fcntl
import gc
import importlib
import json
import math
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAKE_WORKER = str(ROOT / "tests" / "fakes" / "worker.py")
DATA_TASKS = (
    "toolkit.data.readers.read_file",
    "toolkit.data.storage.bounded_tables",
    "toolkit.data.storage.join_tables",
    "toolkit.data.doctor.examine_task",
    "toolkit.data.doctor.repair_task",
)
IMPORTS = (
    *DATA_TASKS,
    "toolkit.data.readers.csv_reader",
    "toolkit.data.readers.json_reader",
    "toolkit.data.readers.parquet_reader",
    "toolkit.runs.events",
    "toolkit.runs.run_dir",
)
STREAMS = ("stdin", "stdout", "stderr")
FOLLOWED = {*STREAMS, "cwd", "env", "start_new_session", "pass_fds"}
"""The options of `Popen` that a fork follows; with any other, a new process is started."""
_NewProcess = subprocess.Popen


class ForkServer:
    """The process that has made the imports. It ends with the process that started it."""

    def __init__(self) -> None:
        self._door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            script = f"from tests.fakes.forked_processes import serve; serve({theirs.fileno()})()"
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            self._process = _NewProcess(
                [sys.executable, "-c", script], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()], start_new_session=True,
            )  # fmt: skip

    def start(self, request: dict[str, Any], files: list[int]) -> tuple[int, socket.socket]:
        """Fork a process; return its pid, and the socket from which its wait status can be read at its end."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(self._door, [json.dumps(request).encode()], [theirs.fileno(), *files])
        return int(ours.recv(20)), ours

    def end(self) -> None:
        """End the server; the processes that it has started go on."""
        self._process.kill()
        self._process.wait()
        self._door.close()


class ForkingPopen(subprocess.Popen):  # type: ignore[type-arg]
    """A `Popen` that asks the fork server for the processes that it can start."""

    server: ForkServer | None = None
    _ended: socket.socket | None = None
    _guard = threading.Lock()

    def __init__(self, args: Any, **options: Any) -> None:
        if not can_fork(args, options):
            super().__init__(args, **options)
            return
        with ForkingPopen._guard:
            if ForkingPopen.server is None:
                ForkingPopen.server = ForkServer()
        self._child_created = False  # nothing for the base class to wait for
        self.args, self.returncode = args, None
        self.stdin = self.stdout = self.stderr = None
        self._reading = threading.Lock()
        nothing = os.open(os.devnull, os.O_RDWR)
        try:
            standard = [self._descriptor(options.get(name), nothing, at) for at, name in enumerate(STREAMS)]
            if options.get("stderr") == subprocess.STDOUT:
                standard[2] = standard[1]
            kept = list(options.get("pass_fds", ()))
            request = {
                "argv": list(args[1:]),
                "cwd": str(options.get("cwd") or Path.cwd()),
                "env": dict(os.environ if options.get("env") is None else options["env"]),
                "session": bool(options.get("start_new_session")),
                "numbers": [0, 1, 2, *kept],
            }
            self.pid, self._ended = ForkingPopen.server.start(request, [*standard, *kept])
        finally:
            os.close(nothing)

    @staticmethod
    def _descriptor(stream: Any, nothing: int, own: int) -> int:
        if stream is None:
            return own
        if isinstance(stream, int):
            return nothing if stream < 0 else stream
        return int(stream.fileno())

    def poll(self) -> int | None:
        if self._ended is None:
            return super().poll()
        with self._reading:
            if self.returncode is None:
                with suppress(BlockingIOError):
                    status = self._ended.recv(20, socket.MSG_DONTWAIT)
                    self.returncode = os.waitstatus_to_exitcode(int(status)) if status else -signal.SIGKILL
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self._ended is None:
            return super().wait(timeout)
        end = time.monotonic() + (timeout if timeout is not None else math.inf)
        ended = select.poll()
        ended.register(self._ended, select.POLLIN)
        while (code := self.poll()) is None:
            left = end - time.monotonic()
            if left <= 0:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            ended.poll(1000 * min(left, 0.1))  # another thread may have read it
        return code


def can_fork(args: Any, options: dict[str, Any]) -> bool:
    """Return whether this is a process of which the server has made the imports, without pipes."""
    if not isinstance(args, list) or args[0] != sys.executable or not options.keys() <= FOLLOWED:
        return False
    if any(options.get(name) == subprocess.PIPE for name in STREAMS):
        return False
    return args[1] == FAKE_WORKER or (args[1] == "-m" and args[2] in DATA_TASKS)


@contextmanager
def fork_short_processes() -> Iterator[None]:
    """Let every `subprocess.Popen` of this process use the fork server, which is started when it is first needed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", ForkingPopen)
        yield
    if ForkingPopen.server is not None:
        ForkingPopen.server.end()
        ForkingPopen.server = None


def serve(number: int) -> Any:
    """Fork a process for each request. Returns in each of them, with what it must call; never in the server itself."""
    door = socket.socket(fileno=number)
    for name in IMPORTS:
        importlib.import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
    while True:
        content, files, _, _ = socket.recv_fds(door, 1 << 20, 64)
        if not content:
            os._exit(0)
        if os.fork() == 0:
            door.close()
            return attend(json.loads(content), files)
        for file in files:
            os.close(file)


def attend(request: dict[str, Any], files: list[int]) -> Any:
    """Fork the process itself, report its pid and then its wait status. Returns in that process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    caller = socket.socket(fileno=files[0])
    pid = os.fork()
    if pid == 0:
        caller.close()
        become(request, files[1:])
        return lambda: run_module(request["argv"])
    for file in files[1:]:
        os.close(file)
    caller.send(str(pid).encode())
    _, status = os.waitpid(pid, 0)
    try:
        caller.send(str(status).encode())
    finally:
        os._exit(0)


def become(request: dict[str, Any], files: list[int]) -> None:
    """Take over the session, the folder, the environment and the files of a new process."""
    if request["session"]:
        os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    apart = [fcntl.fcntl(file, fcntl.F_DUPFD, 500) for file in files]  # none of them has a number that is wanted
    for file in files:
        os.close(file)
    for file, wanted in zip(apart, request["numbers"], strict=True):
        os.dup2(file, wanted)
        os.close(file)
    sys.stdout.reconfigure(write_through=bool(os.environ.get("PYTHONUNBUFFERED")))  # type: ignore[union-attr]
    if os.environ.get("PYTHONFAULTHANDLER"):
        faulthandler.enable()


def run_module(argv: list[str]) -> None:
    if argv[0] == "-m":
        sys.argv = argv[1:]
        sys.modules.pop(argv[1])  # it runs once more, as __main__
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = argv
        runpy.run_path(argv[0], run_name="__main__")
