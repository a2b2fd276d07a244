"""The order of queued runs: oldest first, unless a user has moved one.

`runs/queue.json` holds run ids in order; runs that it does not name follow, oldest first. Any process on the save_dir
may change it: a lock allows one writer at a time, and readers always see a complete file.
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
from toolkit.runs.status import read_open_statuses
from toolkit.system.durable import durable_write
from toolkit.system.foreign_files import read_foreign_json
from toolkit.system.locks import LOCK_TIMEOUT_SECONDS, try_lock

QUEUE_SCHEMA = 1
QueueMove = Literal["first", "up", "down"]


def sort_queued_runs(queued: Sequence[RunDir]) -> list[RunDir]:
    """Return these queued runs in the order in which they will start."""
    if not queued:
        return []
    moved = {run_id: place for place, run_id in enumerate(_read_queue_order(_queue_path(queued[0].save_dir)))}
    # ids sort by time, so the second key puts the runs that nobody moved in order of age
    return sorted(queued, key=lambda run: (moved.get(run.id, len(moved)), run.id))


def list_queued_runs(save_dir: Path) -> list[RunDir]:
    """Return all queued runs of a save_dir in the order in which they will start."""
    found = read_open_statuses(list_runs(save_dir))
    return sort_queued_runs([run for run, status in found if status.state == "queued"])


def move_queued_run(run: RunDir, direction: QueueMove) -> bool:
    """Move a queued run. Return False if it can't move further that way or is no longer queued.

    Raises RunError when another process keeps the order locked, or when it can't be saved.
    """
    path = _queue_path(run.save_dir)
    handle = _lock_queue(path.with_suffix(".lock"))
    try:
        # the whole order is written, not only the move: runs that have started since drop out of the file
        order = [queued.id for queued in list_queued_runs(run.save_dir)]
        if run.id not in order:
            return False
        before = order.index(run.id)
        after = {"first": 0, "up": before - 1, "down": before + 1}[direction]
        if after == before or not 0 <= after < len(order):
            return False
        order.insert(after, order.pop(before))
        durable_write(path, json.dumps({"schema": QUEUE_SCHEMA, "order": order}))
        return True
    except OSError as error:
        raise RunError(
            f"The order of the queue can't be saved: {error}.", "Free space in the output folder."
        ) from error
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
    """Return the ids in the file; an empty list when it is missing or can't be read, which means order by age."""
    try:
        body = read_foreign_json(path)
        return [str(name) for name in body["order"]] if body["schema"] == QUEUE_SCHEMA else []
    except (OSError, ValueError, KeyError, TypeError):
        return []
