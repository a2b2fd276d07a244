"""python -m toolkit.worker.spare DESCRIPTOR: a worker that has imported everything and waits for its run.

It imports in a thread of the lowest priority, says so on the socket that it was given, and then sleeps. A run that
comes over the socket makes it that run's worker: environment, log and slot are the run's, and `train.py` goes on as
always. It leaves when its starter is gone or memory runs short. It draws no random number: a run's are the same.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import socket
import sys
import threading
from typing import Any

import psutil

from toolkit.runs.spare import READY, SHORT_BYTES, TAKEN, WATCH_SECONDS

HEAVY = (
    "toolkit.worker.session", "bitsandbytes", "transformers.models.llama.modeling_llama", "peft.tuners.lora",
    "transformers.models.auto.modeling_auto", "trl.trainer.sft_trainer", "toolkit.worker.evaluate",
)  # fmt: skip
LARGEST_ORDER = 65_536


def main(handle: int) -> int:
    """Wait for a run and carry it out; returns the worker's exit code, or 0 when no run came."""
    line = socket.socket(fileno=handle)
    threading.Thread(target=_import_all, args=(line,), daemon=True).start()
    order = _wait(line)
    if order is None:
        os._exit(0)  # not through the interpreter's end: a thread may be in the middle of an import
    from toolkit.worker import train

    return train.main(order)


def _import_all(line: socket.socket) -> None:
    # the priority is this thread's alone: the main thread, which trains, could not raise its own again
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
    for name in HEAVY:
        importlib.import_module(name)
    line.send(READY)


def _wait(line: socket.socket) -> str | None:
    """The id of the run that came, its environment, log and slot taken over; None when there is no reason to wait."""
    while not select.select([line], [], [], WATCH_SECONDS)[0]:
        if psutil.virtual_memory().available < SHORT_BYTES:
            return None
    message, descriptors, *_ = socket.recv_fds(line, LARGEST_ORDER, 1)
    if not message:
        return None
    order: dict[str, Any] = json.loads(message)
    os.set_inheritable(descriptors[0], True)  # the slot: held for life, as by a worker that was started with it
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.environ.clear()
    os.environ.update(order["environment"])
    line.send(TAKEN)
    return str(order["run"])


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1])))
