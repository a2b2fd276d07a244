"""python -m toolkit.worker.spare DESCRIPTOR NICENESS: the standby worker, from which other processes are forked.

It imports all libraries in a thread, loads the bundled model once and drops it, reports its progress on the socket
that it was given, and sleeps. An order makes it fork: the fork becomes the worker of a run, the background worker or a
probe. It starts in milliseconds, shares the memory of the libraries, and has a session, an environment and a log of its
own. The fork waits until the client has acknowledged it; otherwise a late answer would leave two workers for one run.

Forking is safe only while nothing computes in this process: no thread of Python, OpenMP or torch, and no GPU driver
(the threads that numpy and pyarrow start on import handle a fork). Where it is not safe, the process becomes the worker
itself, once. It exits when its client is gone and no forked run trains any more, or when memory runs short. It draws no
random number, so a forked run trains like one that was started on its own.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from toolkit.services.fork_client import FORK_GO, FORK_SERVER_MIN_FREE_BYTES, MEMORY_WATCH_SECONDS
from toolkit.system.machine import free_memory_bytes
from toolkit.system.private_files import restrict_new_files
from toolkit.worker.process import libraries

EXTRA_IMPORTS = (
    "transformers.models.llama.modeling_llama",
    "transformers.models.auto.modeling_auto",
    "toolkit.worker.warm",
)
"""Modules imported after the libraries; with the first load of a model they are one more step."""
TOTAL_IMPORT_STEPS = len(libraries.IMPORT_STEPS) + 1
IMPORT_CHECK_SECONDS = 0.1
"""Seconds between two reports of the progress of imports."""
ORDER_BYTES = 65_536
"""Bytes read at once from the socket; an order may be longer."""
WorkerOrder = dict[str, Any]
"""{"kind": a key of ORDER_KINDS, "arguments", "environment", "log": a path, "handle": an open descriptor}."""


def main(descriptor: int, niceness: int) -> int:
    """Wait for orders. Returns only in the processes that carry one out, with the worker's exit code."""
    imports = ImportThread(niceness)
    imports.start()
    order = OrderReceiver(socket.socket(fileno=descriptor)).wait(imports)
    if order is None:
        os._exit(0)  # without the interpreter's cleanup: the thread may be in the middle of an import
    return _run_order(order)


class ImportThread(threading.Thread):
    """Import everything that a worker needs.

    done: the finished steps of TOTAL_IMPORT_STEPS. If an import raises, the thread ends and `done` stays below that.
    """

    def __init__(self, niceness: int) -> None:
        super().__init__(daemon=True)
        self._niceness = niceness
        self.done = 0

    def run(self) -> None:
        if self._niceness:
            # of this thread alone: the forks inherit the main thread's priority, which could not be raised again
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._niceness)
        libraries.import_libraries(self._set_done)
        for name in EXTRA_IMPORTS:
            importlib.import_module(name)
        _warm_up()
        gc.freeze()  # a collection in a fork would write to the libraries' objects and so copy their pages
        self.done = TOTAL_IMPORT_STEPS

    def _set_done(self, done: int) -> None:
        self.done = done


def _warm_up() -> None:
    """Load the bundled model once: what the libraries compute at a first load (a third of a second) every fork has."""
    import torch

    from toolkit.config import Config
    from toolkit.worker import train
    from toolkit.worker.models import load

    load.quiet_libraries()  # a progress bar would start a thread
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more would start a pool of threads, which does not survive a fork
    with torch.random.fork_rng(devices=[]):
        config = Config.model_validate({"model": {"device_map": "cpu"}})
        load.load_tokenizer(config)
        load.load_base_model(config)
    torch.set_num_threads(threads)
    train.read_training_versions()


class OrderReceiver:
    """Receive orders on a socket, fork for each, and report there how the forks ended.

    Messages are JSON lines. Received: an order, with two descriptors: one for the new process, and the socket on which
    it announces itself. Sent: {"done", "steps", "library"} during the imports, {"ready", "forks"} once,
    {"ended", "code"} for each fork that ended.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._forks: dict[int, int] = {}  # a pidfd of each process -> its pid
        self._training: set[int] = set()
        self._leaving = False

    def wait(self, imports: ImportThread) -> WorkerOrder | None:
        """Return the order that this process (normally a fork) has to carry out, or None if it has to exit."""
        if not self._wait_for_imports(imports):
            return None
        self._send(ready=True, forks=libraries.can_fork())
        connection = self._connection.fileno()
        # after the client is gone it stays as long as a fork trains: only a parent learns a process's exit code
        while not (self._leaving and not self._training):
            listening = [] if self._leaving else [connection]
            readable = select.select([*listening, *self._forks], [], [], MEMORY_WATCH_SECONDS)[0]
            self._reap([pidfd for pidfd in readable if pidfd != connection])
            if connection in readable:
                order = self._receive_order()
                if order is not None:
                    return order
            elif not readable and not self._training and free_memory_bytes() < FORK_SERVER_MIN_FREE_BYTES:
                return None
        return None

    def _wait_for_imports(self, imports: ImportThread) -> bool:
        """Report the progress of the imports until they end, and return whether all succeeded."""
        reported = -1
        while imports.is_alive():
            imports.join(IMPORT_CHECK_SECONDS)
            # there are no orders before this process is ready, so a readable socket means that the client is gone
            if select.select([self._connection], [], [], 0)[0]:
                return False
            if imports.done > reported:
                reported = imports.done
                self._send(done=reported, steps=TOTAL_IMPORT_STEPS, library=libraries.name_import_step(reported))
        return imports.done == TOTAL_IMPORT_STEPS

    def _receive_order(self) -> WorkerOrder | None:
        """Fork for the next order, and return it in the process that carries it out."""
        message, descriptors, *_ = socket.recv_fds(self._connection, ORDER_BYTES, 2)
        while not message.endswith(b"\n"):
            more = self._connection.recv(ORDER_BYTES)
            if not more:  # the client closed the connection, perhaps in the middle of an order
                self._leaving = True
                return None
            message += more
        handle, answer = descriptors
        order: WorkerOrder = {**json.loads(message), "handle": handle}
        pid = os.fork() if libraries.can_fork() else 0
        if pid:
            os.close(handle)
            os.close(answer)
            self._forks[os.pidfd_open(pid)] = pid
            self._training |= {pid} if order["kind"] == "train" else set()
            return None
        # a worker that kept these open would hide from the client that this process has ended
        for inherited in (self._connection.detach(), *self._forks):
            os.close(inherited)
        if not _confirm_order(answer):
            os._exit(0)
        return order

    def _reap(self, pidfds: list[int]) -> None:
        for pidfd in pidfds:
            pid = self._forks.pop(pidfd)
            os.close(pidfd)
            self._training.discard(pid)
            self._send(ended=pid, code=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    def _send(self, **fields: object) -> None:
        with suppress(BrokenPipeError):  # the client is gone, which the next read from the socket shows
            self._connection.sendall(json.dumps(fields).encode() + b"\n")


def _confirm_order(answer: int) -> bool:
    """Send the client this process's id, and return whether the order is still wanted."""
    with socket.socket(fileno=answer) as connection, suppress(OSError):  # the client may be gone
        connection.sendall(str(os.getpid()).encode() + b"\n")
        return connection.recv(len(FORK_GO)) == FORK_GO
    return False


def _run_order(order: WorkerOrder) -> int:
    """Run as the ordered process and return its exit code."""
    # a session of its own, so that a signal to the app's terminal does not end a training
    if os.getsid(0) != os.getpid():
        os.setsid()
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.environ.clear()
    os.environ.update(order["environment"])
    _apply_offline_setting()
    return ORDER_KINDS[order["kind"]](order["handle"], *order["arguments"])


def _apply_offline_setting() -> None:
    """Apply HF_HUB_OFFLINE of the new environment: the libraries read it only once, when they are imported."""
    import datasets.config
    import huggingface_hub.constants

    offline = os.environ.get("HF_HUB_OFFLINE") == "1"
    huggingface_hub.constants.HF_HUB_OFFLINE = offline
    datasets.config.HF_HUB_OFFLINE = datasets.config.HF_DATASETS_OFFLINE = offline


def _train(slot: int, run_id: str) -> int:
    from toolkit.worker import train

    os.set_inheritable(slot, True)  # held as long as the worker and its children live, as after an ordinary start
    return train.main(run_id)


def _answer(owner: int) -> int:
    from toolkit.worker import warm
    from toolkit.worker.serving import http_server

    os.environ["FTK_WARM_OWNER"] = str(owner)
    http_server.run_and_exit(warm.main)
    raise AssertionError("run_and_exit does not return")


def _probe(handle: int) -> int:
    from toolkit.worker import probe

    os.close(handle)
    return probe.main()


ORDER_KINDS: dict[str, Callable[..., int]] = {"train": _train, "warm": _answer, "probe": _probe}


if __name__ == "__main__":
    restrict_new_files()
    raise SystemExit(main(int(sys.argv[1]), int(sys.argv[2])))
