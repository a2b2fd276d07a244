"""Client of the fork server, a process that has imported the training libraries and forks workers on request.

They talk over a socket pair in JSON lines; `worker/spare.py` is the other end. A fork is a child of the server, so its
exit code arrives over that socket. All methods may be called from any thread.
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
from typing import Any, NamedTuple

import psutil

from toolkit.system.build_id import build_id
from toolkit.system.locks import is_process_alive
from toolkit.system.paths import PROJECT_ROOT

MEMORY_WATCH_SECONDS = 20.0
"""How often an idle fork server checks the machine's memory."""
FORK_SERVER_MIN_FREE_BYTES = 1_500_000_000
"""With less free memory it exits once none of its forks trains. It is started only with twice as much."""
FORK_ANSWER_SECONDS = 5.0
"""Time for a fork to report its pid; forking takes a few milliseconds."""
FORK_GO = b"go"
"""The message that a fork waits for after reporting its pid; otherwise a late answer would leave two workers."""
IMPORT_STALL_SECONDS = 20.0
"""Imports that neither compute nor read for so long hang. A slow disk still reads."""
MAX_IMPORT_SECONDS = 180.0
"""Upper bound on the time for the imports."""
LOST_EXIT_CODE = 1000
"""Stands for an exit code that nobody knows, because the fork server died first. Real codes are below 256."""


class ImportProgress(NamedTuple):
    """The finished steps of a process's imports, their total, and the library that is imported now."""

    done: int
    steps: int
    library: str


NO_IMPORTS = ImportProgress(0, 0, "")
"""The progress of a process that imports nothing, or has not said so yet."""


class ForkServer:
    """A fork server; created when the object is, and ready some seconds later.

    niceness: of the process during its imports; 0 when a run may wait for them. build: id of the imported code. ready:
    the imports are done. forks: it can fork (else it becomes the first worker itself).
    """

    def __init__(self, environment: Mapping[str, str], niceness: int = 0) -> None:
        self.build = build_id()
        self.ready = self.forks = False
        self.imports = NO_IMPORTS
        self._guard = threading.Lock()
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(FORK_ANSWER_SECONDS)
        self._unread = b""
        self._codes: dict[int, int] = {}
        self._open = True
        self._began = self._changed = time.monotonic()
        self._counters: tuple[float, ...] = ()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "toolkit.worker.spare", str(theirs.fileno()), str(niceness)],
                cwd=PROJECT_ROOT,
                env=environment,
                start_new_session=True,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def is_ready(self) -> bool:
        """Return whether it is alive and has finished its imports."""
        with self._guard:
            self._read()
        return self.ready and self.is_alive

    def is_stalled(self) -> bool:
        """Return whether its imports hang. Call it regularly: it compares with the previous call."""
        now = time.monotonic()
        counters = (self.imports.done, *_work_counters(self.process.pid))
        if counters != self._counters:
            self._counters, self._changed = counters, now
        stalled = now - self._changed > IMPORT_STALL_SECONDS or now - self._began > MAX_IMPORT_SECONDS
        return not self.ready and stalled

    def fork(
        self, kind: str, arguments: list[str], environment: Mapping[str, str], log: Path, handle: int
    ) -> ForkedProcess:
        """Fork a process for the order `kind` of `worker/spare.py`; it inherits the open file `handle`.

        Raises OSError on failure: then no work was started or will be, and this server is killed.
        """
        order = {"kind": kind, "arguments": arguments, "environment": dict(environment), "log": str(log)}
        ours, theirs = socket.socketpair()
        try:
            with ours:  # a fork that reports late finds this socket closed and exits
                with theirs, self._guard:
                    self._send_order(json.dumps(order).encode() + b"\n", [handle, theirs.fileno()])
                pid = _read_pid(ours)
                began = psutil.Process(pid).create_time()
                ours.sendall(FORK_GO)
        except (OSError, ValueError, psutil.NoSuchProcess) as error:
            self.kill()  # it may have received only a part of the order
            raise OSError(f"the standby worker does not answer: {error}") from error
        return ForkedProcess(self, pid, began)

    def _send_order(self, order: bytes, handles: list[int]) -> None:
        """Send an order. Call with the guard held."""
        # a long order takes several writes; the open files travel with the first
        sent = socket.send_fds(self._socket, [order], handles)
        self._socket.sendall(order[sent:])

    def exit_code_of(self, pid: int) -> int | None:
        """Return the exit code of a fork as `subprocess` gives it; None while it runs or the code is unknown."""
        if pid == self.process.pid:
            return self.process.poll()
        with self._guard:
            self._read()
            return self._codes.get(pid)

    def retire(self) -> None:
        """Send no further orders: the server exits once none of its forks trains."""
        with self._guard:
            if self._open:
                self._socket.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        """Kill the server. Its forks continue."""
        self.process.kill()
        self.process.wait()
        with self._guard:
            self._read()  # exit codes that it has already sent
            self._open = False
            self._socket.close()

    def _read(self) -> None:
        """Handle all messages that have arrived. Call with the guard held."""
        while self._open and select.select([self._socket], [], [], 0.0)[0]:
            try:
                new = self._socket.recv(65_536)
            except OSError:  # it died before it had read an order
                new = b""
            self._open = bool(new)
            *lines, self._unread = (self._unread + new).split(b"\n")
            for line in lines:
                self._handle_message(json.loads(line))

    def _handle_message(self, message: dict[str, Any]) -> None:
        if "ready" in message:
            self.ready, self.forks = True, bool(message["forks"])
        elif "done" in message:
            self.imports = ImportProgress(int(message["done"]), int(message["steps"]), str(message["library"]))
        elif "ended" in message:
            self._codes[int(message["ended"])] = int(message["code"])


def _read_pid(connection: socket.socket) -> int:
    """Read the pid that a fork reports on its own socket. Raises OSError (such as TimeoutError) or ValueError."""
    connection.settimeout(FORK_ANSWER_SECONDS)
    received = b""
    while not received.endswith(b"\n"):
        part = connection.recv(32)
        if not part:
            raise OSError("it has exited")
        received += part
    return int(received)


def _work_counters(pid: int) -> tuple[float, ...]:
    """Return counters that grow while a process computes or reads; () once it has ended."""
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        return times.user, times.system, float(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return ()


class ForkedProcess:
    """A fork of a ForkServer, with the methods of `subprocess.Popen` that are needed to watch it.

    began: start time in Unix seconds.
    """

    def __init__(self, server: ForkServer, pid: int, began: float) -> None:
        self._server, self.pid, self.began = server, pid, began

    def poll(self) -> int | None:
        """Return its exit code; None while it runs; LOST_EXIT_CODE when it ended and the server died first."""
        code = self._server.exit_code_of(self.pid)
        if code is None and not self._server.is_alive and not is_process_alive(self.pid, self.began):
            code = self._server.exit_code_of(self.pid)  # it may have arrived in between
            return LOST_EXIT_CODE if code is None else code
        return code

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended and return its exit code. Raises subprocess.TimeoutExpired."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a forked worker", timeout or 0.0)
            time.sleep(0.05)
        return code

    def kill(self) -> None:
        """Kill it; a reused pid is safe."""
        if is_process_alive(self.pid, self.began):
            psutil.Process(self.pid).kill()
