"""What the machines of one run agree on before they train: the checkpoint to resume from, the settings and the rows."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import torch
from accelerate import PartialState

from toolkit.errors import ToolkitError
from toolkit.runs.checkpoints import Checkpoint, newest_verified_checkpoint
from toolkit.settings.training_content import find_effective_settings
from toolkit.worker.checkpoints.choice import hash_prepared_rows

if TYPE_CHECKING:
    from toolkit.worker.training.session_context import TrainingSession

OWN_SETTINGS = frozenset(
    {
        "data.path",
        "data.test_path",
        "data.file_type",
        "model.hf_model_ckpt",
        "model.device_map",
        "training.training_args.gradient_checkpointing",
    }
)
"""Settings that may differ: paths, of which the prepared rows are compared and the weights are rank 0's, and one that
costs time instead of memory."""


def find_common_checkpoint(session: TrainingSession) -> int:
    """Return the newest step of which every machine has an intact checkpoint up to there; 0 is none."""
    found, _ = newest_verified_checkpoint(session.run)
    own = found.step if found else 0
    common, _ = _agree_on(own)
    if common < own:
        message = f"The newest checkpoint here is of step {own:,}, that of another machine of step {common:,}: "
        message += f"the run resumes from step {common:,}." if common else "the run restarts at step 1."
        session.emit("warning", message=message)
    return common


def check_same_training(session: TrainingSession, checkpoint: Checkpoint | None) -> None:
    """Raise ToolkitError unless settings, prepared rows and the step to resume from are the same on all machines."""
    settings = {key: value for key, value in find_effective_settings(session.config).items() if key not in OWN_SETTINGS}
    compared = {
        "settings": _digest(settings),
        "prepared rows": _digest(hash_prepared_rows(session.run)),
        "checkpoints": checkpoint.step if checkpoint else 0,
    }
    for what, value in compared.items():
        least, greatest = _agree_on(value)
        if least != greatest:
            message = f"The machines of this run have different {what}."
            hint = "Start a new run on each of them, with the same data and settings except for the machine's rank."
            raise ToolkitError(message, hint, "machines_differ")


def _agree_on(number: int) -> tuple[int, int]:
    """Return the least and the greatest of the numbers that the processes of all machines pass in."""
    pair = torch.tensor([-number, number], device=PartialState().device)
    torch.distributed.all_reduce(pair, op=torch.distributed.ReduceOp.MAX)
    least, greatest = pair.tolist()
    return -least, greatest


def _digest(value: object) -> int:
    text = json.dumps(value, sort_keys=True, default=str)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
