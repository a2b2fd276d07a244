"""python -m toolkit.worker.spare DESCRIPTOR NICENESS: a process that has imported everything; others are forks of it.

It imports in a thread, loads the bundled model once and forgets it, says how far it is on the socket that it was
given, and sleeps. An order makes a fork of it: the worker of a run or the warm worker, begun in milliseconds, on memory
that all share. The fork has a session, an environment and a log of its own, and goes on as if it had been started
alone; but only once whoever ordered it has heard of it, or two would do the same where an answer comes late.

A fork is right as long as nothing computes here: no thread of Python, none of OpenMP or torch, no driver of a GPU (what
numpy and pyarrow begin while they are imported knows how to be forked). Where that does not hold, the process becomes
the worker itself, once. It leaves once nothing that it forked trains and its starter is gone, has no more orders, or
memory runs short. It draws no random number.
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
from toolkit.worker.process import libraries

EXTRA_IMPORTS = (
    "transformers.models.llama.modeling_llama",
    "transformers.models.auto.modeling_auto",
    "toolkit.worker.warm",
)
"""Imported after the libraries; with the rehearsal one more step."""
TOTAL_IMPORT_STEPS = len(libraries.IMPORT_STEPS) + 1
IMPORT_CHECK_SECONDS = 0.1
ORDER_BYTES = 65_536
"""Read at once; an order may be longer."""
WorkerOrder = dict[str, Any]


def main(handle: int, niceness: int) -> int:
    """Wait for orders; returns in the processes that carry one out, with the worker's exit code."""
    imports = ImportThread(niceness)
    imports.start()
    order = OrderReceiver(socket.socket(fileno=handle)).wait(imports)
    if order is None:
        os._exit(0)  # not through the interpreter's end: a thread may be in the middle of an import
    return _run_order(order)


class ImportThread(threading.Thread):
    """done: of STEPS. It dies with whatever an import raises; `done` then stays below."""

    def __init__(self, niceness: int) -> None:
        super().__init__(daemon=True)
        self._niceness = niceness
        self.done = 0

    def run(self) -> None:
        if self._niceness:
            # this thread's alone: the main thread, whose forks train, could not raise its own priority again
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._niceness)
        libraries.import_libraries(self._told)
        for name in EXTRA_IMPORTS:
            importlib.import_module(name)
        _warm_up()
        gc.freeze()  # no look through what the libraries hold in a fork: it would copy the pages
        self.done = TOTAL_IMPORT_STEPS

    def _told(self, done: int) -> None:
        self.done = done


def _warm_up() -> None:
    """What the libraries work out at a first load, a third of a second, is then known to every fork."""
    import torch

    from toolkit.config import Config
    from toolkit.worker import train
    from toolkit.worker.models import load

    load.quiet_libraries()  # a progress bar has a thread of its own
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # no pool of threads before the fork
    with torch.random.fork_rng(devices=[]):
        config = Config.model_validate({"model": {"device_map": "cpu"}})
        load.load_tokenizer(config)
        load.load_base_model(config)
    torch.set_num_threads(threads)
    train.read_training_versions()


def can_fork() -> bool:
    """Whether nothing here would be torn by a fork."""
    import torch

    return sys.platform == "linux" and threading.active_count() == 1 and not torch.cuda.is_initialized()


class OrderReceiver:
    """Takes orders from the line, one after another, and tells there how the forks ended."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._forks: dict[int, int] = {}  # a descriptor of each process -> its pid
        self._training: set[int] = set()
        self._leaving = False

    def wait(self, imports: ImportThread) -> WorkerOrder | None:
        """The order that this very process, a fork as a rule, is to carry out; None when it shall leave."""
        if not self._imported(imports):
            return None
        self._say(ready=True, forks=can_fork())
        while not (self._leaving and not self._training):
            listening = [] if self._leaving else [self._line]
            readable = select.select([*listening, *self._forks], [], [], MEMORY_WATCH_SECONDS)[0]
            self._reap([handle for handle in readable if handle is not self._line])
            if self._line in readable:
                order = self._take()
                if order is not None:
                    return order
            elif not readable and not self._training and free_memory_bytes() < FORK_SERVER_MIN_FREE_BYTES:
                return None
        return None

    def _imported(self, imports: ImportThread) -> bool:
        """Tell how far the imports are until they end; whether all is there."""
        told = -1
        while imports.is_alive():
            imports.join(IMPORT_CHECK_SECONDS)
            if select.select([self._line], [], [], 0)[0]:
                return False  # nobody orders before it is ready: the starter is gone
            if imports.done > told:
                told = imports.done
                self._say(done=told, steps=TOTAL_IMPORT_STEPS)
        return imports.done == TOTAL_IMPORT_STEPS

    def _take(self) -> WorkerOrder | None:
        """Fork for the next order; returns it in the process that carries it out."""
        message, descriptors, *_ = socket.recv_fds(self._line, ORDER_BYTES, 2)
        while not message.endswith(b"\n"):
            more = self._line.recv(ORDER_BYTES)
            if not more:  # the end, perhaps in the midst of an order
                self._leaving = True
                return None
            message += more
        handle, answer = descriptors
        order: WorkerOrder = {**json.loads(message), "handle": handle}
        pid = os.fork() if can_fork() else 0
        if pid:
            os.close(handle)
            os.close(answer)
            self._forks[os.pidfd_open(pid)] = pid
            self._training |= {pid} if order["kind"] == "train" else set()
            return None
        for inherited in (self._line.detach(), *self._forks):
            os.close(inherited)
        if not _confirm_order(answer):
            os._exit(0)
        return order

    def _reap(self, handles: list[int]) -> None:
        for handle in handles:
            pid = self._forks.pop(handle)
            os.close(handle)
            self._training.discard(pid)
            self._say(ended=pid, code=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    def _say(self, **words: object) -> None:
        with suppress(BrokenPipeError):  # the starter is gone: the next look at the line says so
            self._line.sendall(json.dumps(words).encode() + b"\n")


def _confirm_order(answer: int) -> bool:
    """Tell whoever ordered this process its number, and hear whether it is still wanted."""
    with socket.socket(fileno=answer) as line, suppress(OSError):  # nobody is there any more
        line.sendall(str(os.getpid()).encode() + b"\n")
        return line.recv(len(FORK_GO)) == FORK_GO
    return False


def _run_order(order: WorkerOrder) -> int:
    """Be the ordered process; returns its exit code."""
    if os.getsid(0) != os.getpid():
        os.setsid()
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.environ.clear()
    os.environ.update(order["environment"])
    _apply_offline_setting()
    return ORDER_KINDS[order["kind"]](order["handle"], *order["arguments"])


def _apply_offline_setting() -> None:
    """Whether the hub may be asked was read while the libraries were imported, for another process."""
    import datasets.config
    import huggingface_hub.constants

    offline = os.environ.get("HF_HUB_OFFLINE") == "1"
    huggingface_hub.constants.HF_HUB_OFFLINE = offline
    datasets.config.HF_HUB_OFFLINE = datasets.config.HF_DATASETS_OFFLINE = offline


def _train(slot: int, run_id: str) -> int:
    from toolkit.worker import train

    os.set_inheritable(slot, True)  # held for life, as by a worker that was started with it
    return train.main(run_id)


def _answer(owner: int) -> int:
    from toolkit.worker import warm
    from toolkit.worker.serving import http_server

    os.environ["FTK_WARM_OWNER"] = str(owner)
    http_server.run_and_exit(warm.main)
    raise AssertionError("exit_now does not return")


def _probe(handle: int) -> int:
    from toolkit.worker import probe

    os.close(handle)
    return probe.main()


ORDER_KINDS: dict[str, Callable[..., int]] = {"train": _train, "warm": _answer, "probe": _probe}


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]), int(sys.argv[2])))
