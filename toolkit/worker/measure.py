"""python -m toolkit.worker.measure PROBE: two real steps on the longest real batch, and what they took.

Writes measured.json into save_dir/probes/PROBE: {"peak_bytes", "process_bytes" (before there was a
model), "step_seconds"}, or {"error", "message"}. Leaves no
adapter and no run behind.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from toolkit.runs.run_dir import RunDir, read_config
from toolkit.settings.device_defaults import max_length
from toolkit.system.durable import durable_write
from toolkit.worker.models import load
from toolkit.worker.models.folder import resolve
from toolkit.worker.process.memory import readings
from toolkit.worker.process.stop import Stop
from toolkit.worker.tokens.prepared_rows import open_source, read_splits, write_splits
from toolkit.worker.training.session import use_cores
from toolkit.worker.training.session_context import Session
from toolkit.worker.training.trainer_setup import make_trainer

STEPS = 2
_ARGUMENTS = {"max_steps": STEPS, "gradient_accumulation_steps": 1, "warmup_steps": 0}


class _Clock(TrainerCallback):
    """Seconds of each optimizer step, evaluation and logging left out."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._since = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._since = time.monotonic()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.monotonic() - self._since)


def measure(run: RunDir) -> dict[str, float]:
    """Prepare the rows, load the model, and take the steps. Raises what training would raise."""
    config = read_config(run)
    load.quiet_libraries()
    use_cores(1)
    where, folder = load.place(config), resolve(config)
    tokenizer, source = load.load_tokenizer(config, folder), open_source(run, config)
    positions = load.context_length(folder)
    length = min(max_length(config), positions or max_length(config))
    write_splits(run, config, source, tokenizer, length, lambda *_, **__: None)
    train, test = read_splits(run)
    before = readings()["memory_bytes"]
    session = Session(run, config, lambda *_, **__: None, Stop(run.stop_path))
    trainer = make_trainer(session, where, folder, tokenizer, train, test.select([]), _ARGUMENTS)
    clock = _Clock()
    trainer.add_callback(clock)
    sampler = trainer._get_train_sampler()
    trainer.train_dataset = train.select(next(iter(sampler)) * STEPS)
    trainer.train()
    found = readings()
    peak = found.get("gpu_peak_bytes") or found.get("peak_bytes") or found["memory_bytes"]
    return {"peak_bytes": peak, "process_bytes": before, "step_seconds": clock.seconds[-1]}


def main(name: str) -> int:
    os.nice(5)  # whatever else goes on here comes first
    run = RunDir(Path(os.environ["FTK_SAVE_DIR"]) / "probes" / name)
    try:
        body: dict[str, Any] = measure(run)
    except Exception as error:
        logging.getLogger(__name__).exception("probe %s", name)
        body = {"error": type(error).__name__, "message": str(error)}
    durable_write(run.path / "measured.json", json.dumps(body))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
