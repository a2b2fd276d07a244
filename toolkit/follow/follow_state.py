"""What the follower of a save_dir has finished, in `follow/state.json`: it spares work, and decides nothing."""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

from toolkit.system.durable import durable_write
from toolkit.system.foreign_files import read_foreign_json

STATE_SCHEMA = 1

logger = logging.getLogger(__name__)


@dataclass
class FollowState:
    """What earlier processes have finished. written: by tracker, then run, the size of the log that it has in full.

    told: by run, the state that was sent last. since: Unix seconds of the first start; older ends are not told.
    """

    since: float
    written: dict[str, dict[str, int]]
    told: dict[str, str]


def follow_state_path(save_dir: Path) -> Path:
    return save_dir / "follow" / "state.json"


def read_follow_state(save_dir: Path) -> FollowState:
    """Return what is recorded. Without a record all runs are written, and ends are told from now on."""
    try:
        body = read_foreign_json(follow_state_path(save_dir))
        if body["schema"] == STATE_SCHEMA and math.isfinite(float(body["since"])):
            written = {
                str(name): {str(run): int(size) for run, size in runs.items()} for name, runs in body["written"].items()
            }
            return FollowState(
                float(body["since"]), written, {str(run): str(told) for run, told in body["told"].items()}
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if not isinstance(error, FileNotFoundError):
            logger.warning("%s can't be read and is made anew.", follow_state_path(save_dir))
    return FollowState(time.time(), {}, {})


def save_follow_state(save_dir: Path, state: FollowState) -> None:
    """Replace the record. Raises OSError."""
    path = follow_state_path(save_dir)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    durable_write(path, json.dumps({"schema": STATE_SCHEMA, **vars(state)}))
