"""In which order queued runs go: the oldest first, unless somebody moved one.

`runs/queue.json` holds ids of runs, in order; whatever it does not name goes behind, oldest first. Everybody on the
save_dir may move runs: a lock keeps two from writing at once, and a reader always sees a whole file. Which runs are
queued is `status.py`'s to say, starting one is `supervisor.py`'s.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from toolkit.errors import RunError
from toolkit.runs.run_dir import RunDir, list_runs
from toolkit.runs.status import read_run_status
from toolkit.system.durable import durable_write
from toolkit.system.locks import LOCK_TIMEOUT_SECONDS, try_lock

QUEUE_SCHEMA = 1
QueueMove = Literal["first", "up", "down"]


def sort_queued_runs(queued: Sequence[RunDir]) -> list[RunDir]:
    """These queued runs, the one that goes first first."""
    if not queued:
        return []
    moved = {run_id: place for place, run_id in enumerate(_read_queue_order(_queue_path(queued[0].save_dir)))}
    return sorted(queued, key=lambda run: (moved.get(run.id, len(moved)), run.id))


def list_queued_runs(save_dir: Path) -> list[RunDir]:
    """All queued runs of a save_dir in their order."""
    return sort_queued_runs([run for run in list_runs(save_dir) if read_run_status(run).state == "queued"])


def move_queued_run(run: RunDir, where: QueueMove) -> bool:
    """Move a queued run; False when it can't go further that way, or is not queued any more.

    Raises RunError: somebody else keeps the order locked, or it can't be written.
    """
    path = _queue_path(run.save_dir)
    handle = _lock_queue(path.with_suffix(".lock"))
    try:
        order = [queued.id for queued in list_queued_runs(run.save_dir)]
        if run.id not in order:
            return False
        before = order.index(run.id)
        after = {"first": 0, "up": before - 1, "down": before + 1}[where]
        if after == before or not 0 <= after < len(order):
            return False
        order.insert(after, order.pop(before))
        durable_write(path, json.dumps({"schema": QUEUE_SCHEMA, "order": order}))
        return True
    except OSError as error:
        raise RunError(f"The order of the queue can't be saved: {error}.", "Free space in save_dir.") from error
    finally:
        os.close(handle)


def _queue_path(save_dir: Path) -> Path:
    return save_dir / "runs" / "queue.json"


def _lock_queue(path: Path) -> int:
    deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
    while (handle := try_lock(path)) is None:
        if time.monotonic() > deadline:
            raise RunError("The queue is being changed by another program.", "Try again.")
        time.sleep(0.02)
    return handle


def _read_queue_order(path: Path) -> list[str]:
    """The ids in the file. Without one, or with one that can't be read, the order is by age."""
    try:
        body = json.loads(path.read_bytes())
        return [str(name) for name in body["order"]] if body["schema"] == QUEUE_SCHEMA else []
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return []
