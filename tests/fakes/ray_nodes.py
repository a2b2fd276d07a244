"""A Ray cluster of several nodes on this machine, started as people do: `ray start`."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO

import psutil

NODES = ("127.0.0.2", "127.0.0.3")
"""Ray takes 127.0.0.1 for the address of the machine, so each node has another address of the loopback."""
START = (sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats")
"""--block: it ends the processes of its node when it is ended itself."""
STORE = f"--object-store-memory={80 * 2**20}"
START_SECONDS = 240


@dataclass
class RayNodes:
    """address: of the cluster. starters: the `ray start` of each node, by its address."""

    address: str
    starters: dict[str, psutil.Popen]

    def kill_node(self, node: str, more: Sequence[psutil.Process] = ()) -> int:
        """Kill Ray's processes on a node, and `more`, all at once; return how many."""
        starter = self.starters[node]
        doomed = [psutil.Process(starter.pid), *starter.children(recursive=True), *more]
        for how in ("suspend", "kill"):  # suspended first: none may notice the death of another
            for process in doomed:
                with suppress(psutil.NoSuchProcess):
                    getattr(process, how)()
        starter.wait()
        return len(doomed)


@contextmanager
def start_ray_nodes(cpus: int = 1) -> Iterator[RayNodes]:
    """Start a node on each of NODES, the first as the head; end them afterward.

    cpus: of each. The environment says whether a token is needed.
    """
    with socket.socket() as free:
        free.bind((NODES[0], 0))
        address = f"{NODES[0]}:{free.getsockname()[1]}"
    folder = tempfile.mkdtemp(prefix="r-")  # short: sockets lie in it, whose paths have at most 107 characters
    found = RayNodes(address, {})
    port = address.rpartition(":")[2]
    head = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}"]
    try:
        for number, node in enumerate(NODES):
            joins = [f"--address={address}"] if number else head
            found.starters[node] = _start([*START, STORE, f"--num-cpus={cpus}", f"--node-ip-address={node}", *joins])
        yield found
    finally:
        for starter in found.starters.values():
            _end(starter)
        shutil.rmtree(folder, ignore_errors=True)


def _start(argv: list[str]) -> psutil.Popen:
    """Start a node and wait until it runs."""
    with tempfile.TemporaryFile("w+") as log:
        process = psutil.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + START_SECONDS
        while "Ray runtime started" not in (said := _read(log)):
            if process.poll() is not None or time.monotonic() > deadline:
                _end(process)
                raise AssertionError(f"ray start failed:\n{said[-3000:]}")
            time.sleep(0.2)
        return process


def _read(log: IO[str]) -> str:
    return os.pread(log.fileno(), 100_000, 0).decode(errors="replace")  # the process writes at the shared position


def _end(starter: psutil.Popen) -> None:
    with suppress(psutil.NoSuchProcess):
        members = [*starter.children(recursive=True), psutil.Process(starter.pid)]
        starter.terminate()
        for process in psutil.wait_procs(members, timeout=20)[1]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    starter.wait()


def processes_of_runs(node: str) -> list[psutil.Process]:
    """Return the guards and trainings that this user's runs have on a node."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.uids().real == os.getuid() and process.environ().get("FTK_NODE") == node:
                found.append(process)
    return found
