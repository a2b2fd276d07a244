"""Measures instead of predicting: a process that trains two real steps on the longest real batch, then goes away.

Starts it, looks at it, ends it. It works in a folder of its own below save_dir/probes, which is removed with it. What
it does there is `worker/measure.py`'s.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field

from toolkit.config import Config
from toolkit.data.table import Table
from toolkit.errors import RunError, ToolkitError
from toolkit.runs.end_reasons import explain_exception
from toolkit.runs.run_dir import RunDir, save_dir_of
from toolkit.runs.run_sources import link_or_copy_file
from toolkit.runs.worker_process import worker_environment
from toolkit.settings.yaml_file import dump_config, with_absolute_paths
from toolkit.system.durable import durable_write, remove_tree
from toolkit.system.ids import make_timed_id
from toolkit.system.out_of_memory import out_of_memory_message
from toolkit.system.spawn import start_detached_process

MEASURE_WORKER = "toolkit.worker.measure"
MEASURE_RESULT_FILE = "measured.json"
MEASURE_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class MeasuredStep:
    """Of the largest batch: the most memory that was used, what of it the process took before it had a model, and the
    seconds of a step."""

    peak_bytes: int
    process_bytes: int
    step_seconds: float


@dataclass
class RunningMeasurement:
    """A probe that is going. `key` is the caller's: what it measures."""

    key: str
    folder: RunDir
    process: subprocess.Popen[bytes]
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def result(self) -> MeasuredStep | None:
        """What was measured; None while it goes on. Raises ToolkitError with the reason when it failed."""
        if self.process.poll() is None:
            if self.seconds < MEASURE_TIMEOUT_S:
                return None
            self.end()
            raise RunError("Measuring took more than 10 minutes.", "Try it with a smaller batch or shorter examples.")
        try:
            return self._read(self.process.returncode)
        finally:
            remove_tree(self.folder.path)

    def end(self) -> None:
        """Stop measuring."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.folder.path.exists():
            remove_tree(self.folder.path)

    def _read(self, returncode: int) -> MeasuredStep:
        file = self.folder.path / MEASURE_RESULT_FILE
        if not file.exists():
            if returncode == -9:
                raise RunError(*out_of_memory_message("host", "measurement_killed"))
            last = self.folder.log_path.read_text(errors="replace").strip().splitlines()[-1:] or ["no reason given"]
            raise RunError(f"The measurement failed: {last[0][:300]}", "Start the run to see its whole log.")
        body = json.loads(file.read_bytes())
        if "error" in body:
            why = explain_exception(body["error"], body["message"])
            raise ToolkitError(why.message, why.hint)
        return MeasuredStep(int(body["peak_bytes"]), int(body["process_bytes"]), float(body["step_seconds"]))


def start_measuring(key: str, config: Config, table: Table) -> RunningMeasurement:
    """Begin in a process of its own, at low priority beside a run. Raises RunError when it can't be started."""
    save_dir = save_dir_of(config)
    run = RunDir(save_dir / "probes" / make_timed_id(time.time()))
    try:
        for left in run.path.parent.glob("*"):
            if time.time() - left.stat().st_mtime > MEASURE_TIMEOUT_S:
                remove_tree(left)
        run.data_dir.mkdir(parents=True)
        link_or_copy_file(table.path, run.source_path)
        durable_write(run.config_path, dump_config(with_absolute_paths(config)))
        with run.log_path.open("ab") as log:
            process = start_detached_process(
                [sys.executable, "-m", MEASURE_WORKER, run.id], worker_environment(run, config, 1), log
            )
    except OSError as error:
        raise RunError(f"The measurement can't be started: {error}.", "Free some space, or change save_dir.") from error
    return RunningMeasurement(key, run, process)
