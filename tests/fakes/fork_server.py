"""Workers that start in milliseconds: forked from a process that has imported everything, under the real supervisor.

The supervisor starts a small client where a worker would be; the client asks the server to fork, waits, and ends as
the worker ended, by signal or by exit code. What runs in the fork is the worker's own `main`; with one thread of torch
(OMP_NUM_THREADS=1) forking it is safe.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLIENT = """
import json, os, signal, socket, sys
door = socket.socket(socket.AF_UNIX)
door.connect(sys.argv[1])
names = ("FTK_SAVE_DIR", "FTK_ATTEMPT", "FTK_STATE_DIR")
door.sendall(json.dumps([sys.argv[2], {n: os.environ[n] for n in names if n in os.environ}]).encode() + b"\\n")
status = int(door.makefile().readline() or 1 << 8)
if os.WIFSIGNALED(status):
    os.kill(os.getpid(), os.WTERMSIG(status))
sys.exit(os.WEXITSTATUS(status))
"""


@contextmanager
def fork_server(place: Path) -> Iterator[list[str]]:
    """Yields the argument list of a worker, to which the run's id is added."""
    path = place / "forks.sock"
    # a process of its own: whoever starts it may have threads that a fork would leave hanging
    command = [
        sys.executable,
        "-c",
        "import sys; from tests.fakes.fork_server import serve; serve(sys.argv[1])",
        str(path),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not path.exists():
        assert server.poll() is None, "the fork server did not start"
        time.sleep(0.05)
    try:
        yield [sys.executable, "-S", "-c", CLIENT, str(path)]
    finally:
        server.kill()
        server.wait()


def serve(where: str) -> None:
    path = Path(where)
    import toolkit.worker.training.session  # noqa: F401 - what every worker imports
    from toolkit.worker.train import main

    door = socket.socket(socket.AF_UNIX)
    door.bind(str(path.with_suffix(".new")))
    door.listen()
    path.with_suffix(".new").rename(path)
    while True:
        caller, _ = door.accept()
        if os.fork() == 0:
            attend(caller, main)
        caller.close()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue


def attend(caller: socket.socket, main) -> None:
    """One run: a child works, this process reports how it ended."""
    run_id, environment = json.loads(caller.makefile().readline())
    worker = os.fork()
    if worker == 0:
        os.setsid()
        os.environ.update(environment)
        log = os.open(
            Path(environment["FTK_SAVE_DIR"]) / "runs" / run_id / "worker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND
        )
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = 1
        try:
            code = main(run_id)
        finally:
            sys.stdout.flush()
            os._exit(code)
    _, status = os.waitpid(worker, 0)
    with suppress(BrokenPipeError):
        caller.sendall(f"{status}\n".encode())
    os._exit(0)
