"""python -m toolkit.worker.measure PROBE: two real training steps on the longest real batch, timed and weighed.

Works in save_dir/probes/PROBE (environment: FTK_SAVE_DIR) and reports {"peak_bytes", "process_bytes", "step_seconds"}
as JSON, the result of its job. It leaves no adapter and no run behind. Exit status: 0 measured, 1 failed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import RunError
from toolkit.forecast.measured_run import measure_job
from toolkit.runs.end_reasons import explain_error
from toolkit.runs.run_dir import RunDir, read_run_config
from toolkit.system.background_job import StateFileReporter, job_main
from toolkit.system.private_files import restrict_new_files

if TYPE_CHECKING:
    from transformers import TrainerCallback

MEASURED_STEPS = 2  # the first one allocates and warms up; the second one is what a run will repeat
_MEASURING_ARGUMENTS = {"max_steps": MEASURED_STEPS, "gradient_accumulation_steps": 1, "warmup_steps": 0}
_NICENESS = 5  # below a run that is training on the same machine


def measure_training_steps(run: RunDir) -> dict[str, float]:
    """Prepare the rows, load the model and take the steps. Raises what training would raise.

    Returns peak_bytes (of the GPU where there is one), process_bytes (before the model is loaded) and step_seconds (of
    the last step).
    """
    # here and not above: the process takes its lock first, and the caller waits for that
    from toolkit.settings.device_defaults import resolve_max_length
    from toolkit.worker.models import load
    from toolkit.worker.models.folder import resolve_model_folder
    from toolkit.worker.process.memory import read_process_memory
    from toolkit.worker.process.stop import StopSignal
    from toolkit.worker.tokens.prepared_rows import open_row_source, read_splits, write_splits
    from toolkit.worker.training.session import set_thread_count
    from toolkit.worker.training.session_context import TrainingSession
    from toolkit.worker.training.trainer_setup import make_trainer

    config = read_run_config(run)
    load.quiet_libraries()
    set_thread_count(1)
    device, folder = load.detect_compute_device(config), resolve_model_folder(config)
    tokenizer, source = load.load_tokenizer(config, folder), open_row_source(run, config)
    context = load.read_context_length(folder)
    max_length = min(resolve_max_length(config), context or resolve_max_length(config))
    write_splits(run, config, source, tokenizer, max_length, lambda *_, **__: None)
    train, test = read_splits(run)
    before = read_process_memory()["memory_bytes"]
    session = TrainingSession(run, config, lambda *_, **__: None, StopSignal(run.stop_path))
    trainer = make_trainer(session, device, folder, tokenizer, train, test.select([]), _MEASURING_ARGUMENTS)
    timer, seconds = _make_step_timer()
    trainer.add_callback(timer)
    # the sampler groups by length and begins with the longest batch: repeat that one for every step
    longest_batch = next(iter(trainer._get_train_sampler()))
    trainer.train_dataset = train.select(longest_batch * MEASURED_STEPS)
    trainer.train()
    memory = read_process_memory()
    peak = memory.get("gpu_peak_bytes") or memory.get("peak_bytes") or memory["memory_bytes"]
    return {"peak_bytes": peak, "process_bytes": before, "step_seconds": seconds[-1]}


def _make_step_timer() -> tuple[TrainerCallback, list[float]]:
    """Return a callback and the list into which it writes the seconds of each step, without evaluation and logging."""
    from transformers import TrainerCallback

    seconds: list[float] = []

    class StepTimer(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self._began = time.monotonic()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.monotonic() - self._began)

    return StepTimer(), seconds


def main(name: str) -> int:
    """Measure in the folder of that name. Return the exit status."""
    os.nice(_NICENESS)
    run = RunDir(Path(os.environ["FTK_SAVE_DIR"]) / "probes" / name)
    job = measure_job(run)
    return job_main(
        job, StateFileReporter(job), lambda _: json.dumps(measure_training_steps(run)), explain_error, run=run.id
    )


if __name__ == "__main__":
    restrict_new_files()
    try:
        raise SystemExit(main(sys.argv[1]))
    except RunError as error:
        raise SystemExit(f"{error}") from error
