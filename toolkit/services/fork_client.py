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

from toolkit.system.build_id import build_id
from toolkit.system.locks import is_process_alive
from toolkit.system.paths import PROJECT_ROOT

MEMORY_WATCH_SECONDS = 20.0
"""A waiting one looks at the machine's memory so often."""
FORK_SERVER_MIN_FREE_BYTES = 1_500_000_000
"""With less free memory it leaves once nothing that it forked trains, and none is started with less than twice that."""
FORK_ANSWER_SECONDS = 5.0
FORK_GO = b"go"
"""What a fork that has told its number waits for: nothing is begun of which its starter has not heard."""
IMPORT_STALL_SECONDS = 20.0
"""Imports that neither compute nor read for so long hang. A slow disk does not."""
MAX_IMPORT_SECONDS = 180.0
"""No imports last so long."""
LOST_EXIT_CODE = 1000
"""In place of an exit code when the process that knew it is gone."""


class ForkServer:
    """Started at once; `ready` some seconds later. build: of the code that it imports. done: of its steps till then.

    niceness: of its imports, 0 where somebody may be waiting for them.
    """

    def __init__(self, environment: Mapping[str, str], niceness: int = 0) -> None:
        self.build = build_id()
        self.ready = self.forks = False
        self.done = self.steps = 0
        self._guard = threading.Lock()
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(FORK_ANSWER_SECONDS)
        self._unread = b""
        self._codes: dict[int, int] = {}
        self._open = True
        self._began = self._moved = time.monotonic()
        self._work: tuple[float, ...] = ()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "toolkit.worker.spare", str(theirs.fileno()), str(niceness)],
                cwd=PROJECT_ROOT, env=environment, start_new_session=True, pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def is_ready(self) -> bool:
        """Whether it has imported everything."""
        with self._guard:
            self._read()
        return self.ready and self.is_alive

    def is_stalled(self) -> bool:
        """Whether its imports come on no more. Look now and then: it is told by what was seen before."""
        now = time.monotonic()
        work = (self.done, *_work_counters(self.process.pid))
        if work != self._work:
            self._work, self._moved = work, now
        return not self.ready and (now - self._moved > IMPORT_STALL_SECONDS or now - self._began > MAX_IMPORT_SECONDS)

    def fork(
        self, kind: str, arguments: list[str], environment: Mapping[str, str], log: Path, handle: int
    ) -> ForkedProcess:  # fmt: skip
        """A process for the order `kind` of `worker/spare.py`, to which the open file `handle` goes.

        Raises OSError when it does not come about: then nothing was begun, nothing will be, and this server is ended.
        """
        order = {"kind": kind, "arguments": arguments, "environment": dict(environment), "log": str(log)}
        ours, theirs = socket.socketpair()
        try:
            with ours:  # closed without a word, the fork that may come late leaves at once
                with theirs, self._guard:
                    self._send_order(json.dumps(order).encode() + b"\n", [handle, theirs.fileno()])
                pid = _read_pid(ours)
                began = psutil.Process(pid).create_time()
                ours.sendall(FORK_GO)
        except (OSError, ValueError, psutil.NoSuchProcess) as error:
            self.kill()  # it may have half of the order
            raise OSError(f"the process that has imported the libraries does not answer: {error}") from error
        return ForkedProcess(self, pid, began)

    def _send_order(self, order: bytes, handles: list[int]) -> None:
        """Call with the guard held. A long order takes several writes, the open files go with the first."""
        sent = socket.send_fds(self._socket, [order], handles)
        self._socket.sendall(order[sent:])

    def exit_code_of(self, pid: int) -> int | None:
        """The exit code of an ended fork as subprocess gives it; None while it is not known."""
        if pid == self.process.pid:
            return self.process.poll()
        with self._guard:
            self._read()
            return self._codes.get(pid)

    def retire(self) -> None:
        """No more orders: it leaves once nothing that it forked trains."""
        with self._guard:
            if self._open:
                self._socket.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        """End it. What it forked goes on."""
        self.process.kill()
        self.process.wait()
        with self._guard:
            self._read()  # how what it forked has ended by now
            self._open = False
            self._socket.close()

    def _read(self) -> None:
        """Take in what it has said. Call with the guard held."""
        while self._open and select.select([self._socket], [], [], 0.0)[0]:
            try:
                new = self._socket.recv(65_536)
            except OSError:  # it died with an order unread
                new = b""
            self._open = bool(new)
            *lines, self._unread = (self._unread + new).split(b"\n")
            for line in lines:
                self._handle_message(json.loads(line))

    def _handle_message(self, said: dict[str, Any]) -> None:
        if "ready" in said:
            self.ready, self.forks = True, bool(said["forks"])
        elif "done" in said:
            self.done, self.steps = int(said["done"]), int(said["steps"])
        elif "ended" in said:
            self._codes[int(said["ended"])] = int(said["code"])


def _read_pid(line: socket.socket) -> int:
    """The number that a fork tells on its own line. Raises OSError (TimeoutError among others) or ValueError."""
    line.settimeout(FORK_ANSWER_SECONDS)
    told = b""
    while not told.endswith(b"\n"):
        more = line.recv(32)
        if not more:
            raise OSError("it is gone")
        told += more
    return int(told)


def _work_counters(pid: int) -> tuple[float, ...]:
    """What grows while a process computes or reads; () once it is gone."""
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        return times.user, times.system, float(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return ()


class ForkedProcess:
    """A process that a ForkServer forked, with the part of subprocess.Popen that its watcher needs."""

    def __init__(self, server: ForkServer, pid: int, began: float) -> None:
        self._server, self.pid, self.began = server, pid, began

    def poll(self) -> int | None:
        """Its exit code; None while it lives; LOST when it ended and nobody is left who knows how."""
        code = self._server.exit_code_of(self.pid)
        if code is None and not self._server.is_alive and not is_process_alive(self.pid, self.began):
            code = self._server.exit_code_of(self.pid)  # it may have arrived since; 0 is a code like any other
            return LOST_EXIT_CODE if code is None else code
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
        if is_process_alive(self.pid, self.began):
            psutil.Process(self.pid).kill()
