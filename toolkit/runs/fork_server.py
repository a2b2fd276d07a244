"""The process that has imported the libraries, as its starter sees it: started, asked for forks, asked how those ended.

A fork is no child of its starter, so its exit code arrives over the line. What the process does is `worker/spare.py`'s;
when there should be one is `spare.py`'s. All methods may be called from any thread.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from toolkit.runs.freshness import build_id
from toolkit.runs.lock import process_lives
from toolkit.runs.spawn import PROJECT_ROOT

WATCH_SECONDS = 20.0
"""A waiting one looks at the machine's memory so often."""
SHORT_BYTES = 1_500_000_000
"""With less free memory it leaves once nothing that it forked trains, and none is started with less than twice that."""
LARGEST_ORDER = 65_536
ANSWER_SECONDS = 5.0
LOST = 1000
"""In place of an exit code when the process that knew it is gone."""


class ForkServer:
    """Started at once; `ready` some seconds later. build: of the code that it imports."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.build = build_id()
        self.ready = self.forks = False
        self._guard = threading.Lock()
        self._line, theirs = socket.socketpair()
        self._unread = b""
        self._answer: int | None = None
        self._codes: dict[int, int] = {}
        self._open = True
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "toolkit.worker.spare", str(theirs.fileno())],
                cwd=PROJECT_ROOT, env=environment, start_new_session=True, pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def is_ready(self) -> bool:
        """Whether it has imported everything."""
        with self._guard:
            self._read(0.0)
        return self.ready and self.alive

    def fork(
        self, kind: str, arguments: list[str], environment: Mapping[str, str], log: Path, handle: int
    ) -> Forked:  # fmt: skip
        """A process for the order `kind` of `worker/spare.py`, to which the open file `handle` goes.

        Raises OSError when it does not come about.
        """
        order = {"kind": kind, "arguments": arguments, "environment": dict(environment), "log": str(log)}
        with self._guard:
            self._answer = None
            socket.send_fds(self._line, [json.dumps(order).encode() + b"\n"], [handle])
            deadline = time.monotonic() + ANSWER_SECONDS
            while self._answer is None and self._open and time.monotonic() < deadline:
                self._read(0.2)
            if self._answer is None:
                raise OSError("the process that has imported the libraries does not answer")
            try:
                return Forked(self, self._answer, psutil.Process(self._answer).create_time())
            except psutil.NoSuchProcess as error:
                raise OSError("the forked process is gone") from error

    def code_of(self, pid: int) -> int | None:
        """The exit code of an ended fork as subprocess gives it; None while it is not known."""
        if pid == self.process.pid:
            return self.process.poll()
        with self._guard:
            self._read(0.0)
            return self._codes.get(pid)

    def retire(self) -> None:
        """No more orders: it leaves once nothing that it forked trains."""
        with self._guard:
            if self._open:
                self._line.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        """End it. What it forked goes on."""
        self.process.kill()
        self.process.wait()
        with self._guard:
            self._open = False
            self._line.close()

    def _read(self, seconds: float) -> None:
        """Take in what it has said. Call with the guard held."""
        while self._open and select.select([self._line], [], [], seconds)[0]:
            seconds = 0.0
            new = self._line.recv(LARGEST_ORDER)
            self._open = bool(new)
            *lines, self._unread = (self._unread + new).split(b"\n")
            for line in lines:
                self._take(json.loads(line))

    def _take(self, said: dict[str, Any]) -> None:
        if "ready" in said:
            self.ready, self.forks = True, bool(said["forks"])
        elif "pid" in said:
            self._answer = int(said["pid"])
        elif "ended" in said:
            self._codes[int(said["ended"])] = int(said["code"])


class Forked:
    """A process that a ForkServer forked, with the part of subprocess.Popen that its watcher needs."""

    def __init__(self, server: ForkServer, pid: int, began: float) -> None:
        self._server, self.pid, self.began = server, pid, began

    def poll(self) -> int | None:
        """Its exit code; None while it lives; LOST when it ended and nobody is left who knows how."""
        code = self._server.code_of(self.pid)
        if code is None and not self._server.alive and not process_lives(self.pid, self.began):
            return self._server.code_of(self.pid) or LOST
        return code

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code once it has ended. Raises subprocess.TimeoutExpired."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a forked worker", timeout or 0.0)
            time.sleep(0.05)
        return code

    def kill(self) -> None:
        """End it at once."""
        if process_lives(self.pid, self.began):
            psutil.Process(self.pid).kill()
