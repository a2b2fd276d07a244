"""Measuring in place of predicting: a process that trains two real steps on the longest real batch, then ends.

Each measurement works in a folder of its own below save_dir/probes, which is removed when it has ended.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from dataclasses import dataclass, field

from toolkit.config import Config
from toolkit.data.table import Table
from toolkit.errors import RunError
from toolkit.runs.run_dir import RunDir, save_dir_of
from toolkit.runs.run_sources import link_or_copy_file
from toolkit.runs.worker_process import worker_environment
from toolkit.settings.yaml_file import dump_config, with_absolute_paths
from toolkit.system.background_job import JOB_FAILED_STATUS, JobFiles, cancel_job, read_job, start_job
from toolkit.system.durable import durable_write, remove_tree
from toolkit.system.ids import make_timed_id
from toolkit.system.out_of_memory import out_of_memory_message

MEASURE_WORKER = "toolkit.worker.measure"
MEASURE_TIMEOUT_S = 600.0  # loading a large model from a slow disk takes minutes, two steps do not


@dataclass(frozen=True)
class MeasuredStep:
    """The largest batch as measured.

    peak_bytes: the most memory that was used. process_bytes: what the process used before it had loaded a model.
    step_seconds: of one optimizer step.
    """

    peak_bytes: int
    process_bytes: int
    step_seconds: float


@dataclass
class RunningMeasurement:
    """A measurement in progress. key: what it measures, in the caller's terms. folder: a run's folder of its own."""

    key: str
    folder: RunDir
    process: subprocess.Popen[bytes]
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def result(self) -> MeasuredStep | None:
        """Return what was measured, None while it is running. Raises ToolkitError with the reason when it failed."""
        if self.process.poll() is None:
            if self.seconds < MEASURE_TIMEOUT_S:
                return None
            self.end()
            raise RunError("Measuring took more than 10 minutes.", "Try a smaller batch or shorter examples.")
        try:
            return self._read_result()
        finally:
            remove_tree(self.folder.path)

    def end(self) -> None:
        """Stop measuring and remove the folder."""
        if self.process.poll() is None:
            cancel_job(measure_job(self.folder))
            self.process.wait()
        if self.folder.path.exists():
            remove_tree(self.folder.path)

    def _read_result(self) -> MeasuredStep:
        job = read_job(measure_job(self.folder))
        if job.state == "done":
            body = json.loads(job.message)
            return MeasuredStep(int(body["peak_bytes"]), int(body["process_bytes"]), float(body["step_seconds"]))
        if self.process.returncode == -signal.SIGKILL:  # nothing else kills a measurement that was not cancelled
            raise RunError(*out_of_memory_message("host", "measurement_killed"))
        if self.process.returncode == JOB_FAILED_STATUS:
            raise RunError(job.message, job.hint)
        # its own log goes with the folder
        raise RunError(f"The measurement failed: {job.message}", "Start the run to see the full log.")


def measure_job(folder: RunDir) -> JobFiles:
    """Return the files of the process that measures; its result is a `MeasuredStep` as JSON."""
    return JobFiles.in_folder(folder.path, "measure")


def start_measuring(key: str, config: Config, table: Table) -> RunningMeasurement:
    """Start measuring at low priority; return once the process is at work. Raises RunError."""
    save_dir = save_dir_of(config)
    run = RunDir(save_dir / "probes" / make_timed_id(time.time()))
    try:
        # an app that was closed in the middle of a measurement leaves a folder behind
        for leftover in run.path.parent.glob("*"):
            if time.time() - leftover.stat().st_mtime > MEASURE_TIMEOUT_S:
                remove_tree(leftover)
        run.data_dir.mkdir(parents=True)
        link_or_copy_file(table.path, run.source_path)
        durable_write(run.config_path, dump_config(with_absolute_paths(config)))
        process = start_job(measure_job(run), MEASURE_WORKER, [run.id], worker_environment(run, config, 1))
    except OSError as error:
        raise RunError(
            f"The measurement can't be started: {error}.", "Free some disk space, or choose another output folder."
        ) from error
    if process is None:
        raise RunError("The measurement is already running.", "Wait until it is done.")
    return RunningMeasurement(key, run, process)
