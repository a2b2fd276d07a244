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

from toolkit.runs.run_dir import RunDir, read_run_config
from toolkit.settings.device_defaults import resolve_max_length
from toolkit.system.durable import durable_write
from toolkit.worker.models import load
from toolkit.worker.models.folder import resolve_model_folder
from toolkit.worker.process.memory import read_process_memory
from toolkit.worker.process.stop import StopSignal
from toolkit.worker.tokens.prepared_rows import open_row_source, read_splits, write_splits
from toolkit.worker.training.session import set_thread_count
from toolkit.worker.training.session_context import TrainingSession
from toolkit.worker.training.trainer_setup import make_trainer

MEASURED_STEPS = 2
_MEASURING_ARGUMENTS = {"max_steps": MEASURED_STEPS, "gradient_accumulation_steps": 1, "warmup_steps": 0}


class _StepTimer(TrainerCallback):
    """Seconds of each optimizer step, evaluation and logging left out."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._since = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._since = time.monotonic()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.monotonic() - self._since)


def measure_training_steps(run: RunDir) -> dict[str, float]:
    """Prepare the rows, load the model, and take the steps. Raises what training would raise."""
    config = read_run_config(run)
    load.quiet_libraries()
    set_thread_count(1)
    where, folder = load.detect_compute_device(config), resolve_model_folder(config)
    tokenizer, source = load.load_tokenizer(config, folder), open_row_source(run, config)
    positions = load.read_context_length(folder)
    length = min(resolve_max_length(config), positions or resolve_max_length(config))
    write_splits(run, config, source, tokenizer, length, lambda *_, **__: None)
    train, test = read_splits(run)
    before = read_process_memory()["memory_bytes"]
    session = TrainingSession(run, config, lambda *_, **__: None, StopSignal(run.stop_path))
    trainer = make_trainer(session, where, folder, tokenizer, train, test.select([]), _MEASURING_ARGUMENTS)
    clock = _StepTimer()
    trainer.add_callback(clock)
    sampler = trainer._get_train_sampler()
    trainer.train_dataset = train.select(next(iter(sampler)) * MEASURED_STEPS)
    trainer.train()
    found = read_process_memory()
    peak = found.get("gpu_peak_bytes") or found.get("peak_bytes") or found["memory_bytes"]
    return {"peak_bytes": peak, "process_bytes": before, "step_seconds": clock.seconds[-1]}


def main(name: str) -> int:
    os.nice(5)  # whatever else goes on here comes first
    run = RunDir(Path(os.environ["FTK_SAVE_DIR"]) / "probes" / name)
    try:
        body: dict[str, Any] = measure_training_steps(run)
    except Exception as error:
        logging.getLogger(__name__).exception("probe %s", name)
        body = {"error": type(error).__name__, "message": str(error)}
    durable_write(run.path / "measured.json", json.dumps(body))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
