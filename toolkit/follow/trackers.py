"""Experiment trackers that a run's measurements are copied to: TensorBoard, MLflow and Weights & Biases.

Their packages are optional and imported here alone, by name, when one of them is asked for. A tracker that is opened
again for the same run, after a kill or because a resumed run repeats steps, ends up with each point once.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from toolkit.errors import RunError
from toolkit.system.printable import strip_control_characters

Points = Mapping[str, Sequence[tuple[int, float]]]
"""(step, value) pairs by the name of the measurement, with ascending steps."""

EVENT_FILE_SUFFIX = ".finetuning-toolkit"
"""End of the names of the TensorBoard files that this program wrote, and may replace."""
MLFLOW_RUN_TAG = "finetuning_toolkit.run"
MAX_PARAMETER_CHARACTERS = 500
"""MLflow's own bound on the value of a parameter, in its older servers."""
_MLFLOW_BATCH = 1000
_NO_TELEMETRY = {"MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_ERROR_REPORTING": "false"}
"""Read when the libraries are imported: they would report their use and their errors to their makers."""
_PACKAGES = {"mlflow": "mlflow-skinny"}
"""Packages to install, where they are not called like the module."""


@dataclass(frozen=True)
class FollowedRun:
    """What a tracker is told of a run. settings: its YAML values by dotted path, without the empty ones."""

    id: str
    name: str
    settings: Mapping[str, str]


class Tracker(Protocol):
    """Receives the measurements of one run."""

    def write(self, points: Points) -> None:
        """Add points. Where a tracker keeps one process's points only, those of an earlier process are gone by now."""

    def close(self, state: str) -> None:
        """Write what is pending. state: that of the run, "finished" for instance; "" while it goes on."""


@dataclass(frozen=True)
class TrackerKind:
    """How a wanted tracker is opened for a run. errors: what its library raises when it can't be reached or written."""

    title: str
    open: Callable[[FollowedRun], Tracker]
    errors: tuple[type[Exception], ...]


class TensorBoardTracker:
    """Writes one event file into the folder of the run, and replaces the one of an earlier process."""

    def __init__(self, folder: Path, run: FollowedRun) -> None:
        self._folder = folder / run.id
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._folder.glob(f"*{EVENT_FILE_SUFFIX}"):
            path.unlink()
        module = _import_optional("tensorboardX", "TensorBoard")
        self._writer = module.SummaryWriter(str(self._folder), filename_suffix=EVENT_FILE_SUFFIX, flush_secs=5)
        self._writer.add_text("settings", _quote_settings({"run": run.name, **run.settings}))

    def write(self, points: Points) -> None:
        for name, column in points.items():
            for step, value in column:
                self._writer.add_scalar(name, value, step)

    def close(self, state: str) -> None:
        self._writer.close()


def _quote_settings(settings: Mapping[str, str]) -> str:
    """Return settings as a code block of Markdown, all lines of all values: TensorBoard draws links and images."""
    text = "\n".join(f"{name}: {value}" for name, value in settings.items())
    return "\n".join(f"    {line}" for line in strip_control_characters(text).splitlines())


class MlflowTracker:
    """Writes into the MLflow run that carries the run's ID as a tag; points that it has already are left out."""

    def __init__(self, address: str, experiment: str, run: FollowedRun) -> None:
        if "://" not in address:  # a folder, which MLflow 3.7 and later opens only if told so
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        mlflow = _import_optional("mlflow", "MLflow")
        self._entities = import_module("mlflow.entities")
        self._client = mlflow.MlflowClient(tracking_uri=address)
        known = self._client.get_experiment_by_name(experiment)
        number = known.experiment_id if known is not None else self._client.create_experiment(experiment)
        found = self._client.search_runs([number], filter_string=f"tags.`{MLFLOW_RUN_TAG}` = '{run.id}'")
        self._written: dict[str, set[int]] = {}
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
        else:
            created = self._client.create_run(number, tags={MLFLOW_RUN_TAG: run.id}, run_name=run.name or run.id)
            self._id = created.info.run_id
            cut = {name: value[:MAX_PARAMETER_CHARACTERS] for name, value in run.settings.items()}
            self._client.log_batch(self._id, params=[self._entities.Param(*item) for item in cut.items()])

    def write(self, points: Points) -> None:
        now = round(time.time() * 1000)
        new = []
        for name, column in points.items():
            written = self._steps_of(name)
            new += [self._entities.Metric(name, value, now, step) for step, value in column if step not in written]
            written.update(step for step, _ in column)
        for start in range(0, len(new), _MLFLOW_BATCH):
            self._client.log_batch(self._id, metrics=new[start : start + _MLFLOW_BATCH])

    def close(self, state: str) -> None:
        status = {"": "RUNNING", "finished": "FINISHED", "failed": "FAILED"}.get(state, "KILLED")
        self._client.update_run(self._id, status=status)

    def _steps_of(self, name: str) -> set[int]:
        """Return the steps that the server has, also those that an earlier process never saw confirmed."""
        if name not in self._written:
            self._written[name] = {metric.step for metric in self._client.get_metric_history(self._id, name)}
        return self._written[name]


class WandbTracker:
    """Writes an offline run of Weights & Biases, to be uploaded with `wandb sync`; replaces that of an earlier process.

    Nothing is sent from here, whatever the environment says.
    """

    def __init__(self, folder: Path, project: str, run: FollowedRun) -> None:
        wandb = _import_optional("wandb", "Weights & Biases")
        folder.mkdir(parents=True, exist_ok=True)
        for path in (folder / "wandb").glob(f"offline-run-*-{run.id}"):
            shutil.rmtree(path)
        quiet = wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True)
        self._run = wandb.init(
            mode="offline",
            dir=str(folder),
            id=run.id,
            project=project,
            name=run.name or run.id,
            config=dict(run.settings),
            settings=quiet,
            reinit="create_new",
        )

    def write(self, points: Points) -> None:
        rows: dict[int, dict[str, float]] = {}
        for name, column in points.items():
            for step, value in column:
                rows.setdefault(step, {})[name] = value
        for step, row in sorted(rows.items()):
            self._run.log(row, step=step)

    def close(self, state: str) -> None:
        self._run.finish(exit_code=1 if state == "failed" else 0)


def choose_trackers(
    tensorboard: Path | None, mlflow: str | None, wandb: Path | None, project: str
) -> dict[str, TrackerKind]:
    """Return the wanted trackers, each by its title and place. Raises RunError if one can't be used.

    tensorboard, wandb: folders. mlflow: a folder or the address of a server. project: the experiment's name in both.
    """
    found: list[tuple[str, TrackerKind]] = []
    if tensorboard is not None:
        _import_optional("tensorboardX", "TensorBoard")
        board = tensorboard.expanduser().absolute()
        kind = TrackerKind("TensorBoard", lambda run: TensorBoardTracker(board, run), (OSError,))
        found.append((str(board), kind))
    if mlflow is not None:
        if urlsplit(mlflow).password is not None:
            raise RunError(
                "The address of MLflow holds a password, which other users of this machine can read there.",
                "Put it into the environment variables MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.",
            )
        failure = _import_optional("mlflow.exceptions", "MLflow").MlflowException
        address = mlflow if "://" in mlflow else str(Path(mlflow).expanduser().absolute())
        kind = TrackerKind("MLflow", lambda run: MlflowTracker(address, project, run), (OSError, failure))
        found.append((address, kind))
    if wandb is not None:
        failure = _import_optional("wandb.errors", "Weights & Biases").Error
        offline = wandb.expanduser().absolute()
        kind = TrackerKind("Weights & Biases", lambda run: WandbTracker(offline, project, run), (OSError, failure))
        found.append((str(offline), kind))
    return {f"{kind.title} {place}": kind for place, kind in found}


def _import_optional(module: str, title: str) -> Any:
    os.environ.update(_NO_TELEMETRY)
    top = module.partition(".")[0]
    try:
        return import_module(module)
    except ImportError as error:
        raise RunError(
            f"{title} needs a package that is not installed here: {error}.",
            f"Install it with: pip install {_PACKAGES.get(top, top)}",
        ) from error
