"""python -m toolkit.worker.spare DESCRIPTOR: a process that has imported everything, and of which others are forks.

It imports in a thread, loads the bundled model once and forgets it, says so on the socket that it was given, and
sleeps. An order makes a fork of it: the worker of a run or the warm worker, begun in milliseconds, on memory that
all share. The fork has a session, an environment and a log of its own, and goes on as if it had been started alone.

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

from toolkit.runs.fork_server import LARGEST_ORDER, SHORT_BYTES, WATCH_SECONDS
from toolkit.runs.freshness import free_bytes

HEAVY = (
    "toolkit.worker.session", "bitsandbytes", "transformers.models.llama.modeling_llama", "peft.tuners.lora",
    "transformers.models.auto.modeling_auto", "trl.trainer.sft_trainer", "toolkit.worker.evaluate",
    "toolkit.worker.warm",
)  # fmt: skip
PRIORITY = 5
"""Of the importing thread: beside a training it takes a quarter of a core, and a person may be waiting for it."""
IMPORT_LOOK_SECONDS = 0.1
Order = dict[str, Any]


def main(handle: int) -> int:
    """Wait for orders; returns in the processes that carry one out, with the worker's exit code."""
    imports = threading.Thread(target=_prepare, daemon=True)
    imports.start()
    order = Orders(socket.socket(fileno=handle)).wait(imports)
    if order is None:
        os._exit(0)  # not through the interpreter's end: a thread may be in the middle of an import
    return _carry_out(order)


def _prepare() -> None:
    # the priority is this thread's alone: the main thread, whose forks train, could not raise its own again
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), PRIORITY)
    for name in HEAVY:
        importlib.import_module(name)
    _rehearse()
    gc.collect()
    gc.freeze()  # every look through what the libraries hold costs a third of a second, and copies pages in a fork


def _rehearse() -> None:
    """What the libraries work out at a first load, a third of a second, is then known to every fork."""
    import torch

    from toolkit.config import Config
    from toolkit.worker import model, train

    model.quiet_libraries()  # a progress bar has a thread of its own
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # no pool of threads before the fork
    with torch.random.fork_rng(devices=[]):
        config = Config.model_validate({"model": {"device_map": "cpu"}})
        model.load_tokenizer(config)
        model.load_base(config)
    torch.set_num_threads(threads)
    train.versions()


def can_fork() -> bool:
    """Whether nothing here would be torn by a fork."""
    import torch

    return sys.platform == "linux" and threading.active_count() == 1 and not torch.cuda.is_initialized()


class Orders:
    """Takes orders from the line, one after another, and tells there how the forks ended."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._forks: dict[int, int] = {}  # a descriptor of each process -> its pid
        self._training: set[int] = set()
        self._leaving = False

    def wait(self, imports: threading.Thread) -> Order | None:
        """The order that this very process, a fork as a rule, is to carry out; None when it shall leave."""
        while imports.is_alive():
            imports.join(IMPORT_LOOK_SECONDS)
            if select.select([self._line], [], [], 0)[0]:
                return None  # nobody orders before it is ready: the starter is gone
        self._say(ready=True, forks=can_fork())
        while not (self._leaving and not self._training):
            listening = [] if self._leaving else [self._line]
            readable = select.select([*listening, *self._forks], [], [], WATCH_SECONDS)[0]
            self._reap([handle for handle in readable if handle is not self._line])
            if self._line in readable:
                order = self._take()
                if order is not None:
                    return order
            elif not readable and not self._training and free_bytes() < SHORT_BYTES:
                return None
        return None

    def _take(self) -> Order | None:
        """Fork for the next order; returns it in the process that carries it out."""
        message, descriptors, *_ = socket.recv_fds(self._line, LARGEST_ORDER, 1)
        while message and not message.endswith(b"\n"):
            message += self._line.recv(LARGEST_ORDER)
        if not message:
            self._leaving = True
            return None
        order: Order = {**json.loads(message), "handle": descriptors[0]}
        forks = can_fork()
        pid = os.fork() if forks else 0
        if pid:
            os.close(order["handle"])
            self._forks[os.pidfd_open(pid)] = pid
            self._training |= {pid} if order["kind"] == "train" else set()
            self._say(pid=pid)
            return None
        if not forks:
            self._say(pid=os.getpid())
        for handle in (self._line.detach(), *self._forks):
            os.close(handle)
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


def _carry_out(order: Order) -> int:
    """Be the ordered process; returns its exit code."""
    if os.getsid(0) != os.getpid():
        os.setsid()
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.environ.clear()
    os.environ.update(order["environment"])
    _obey_hub_switch()
    return KINDS[order["kind"]](order["handle"], *order["arguments"])


def _obey_hub_switch() -> None:
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
    from toolkit.worker import loopback, warm

    os.environ["FTK_WARM_OWNER"] = str(owner)
    loopback.exit_now(warm.main)
    raise AssertionError("exit_now does not return")


KINDS: dict[str, Callable[..., int]] = {"train": _train, "warm": _answer}


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1])))
