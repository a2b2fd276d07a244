"""What all parts of a training session share: the run, its config, its processes, and how the session ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from toolkit.config import Config
from toolkit.runs.events import EventReporter
from toolkit.runs.run_dir import RunDir
from toolkit.worker.process.stop import StopSignal
from toolkit.worker.process.team import ONE_PROCESS, RunProcesses


@dataclass(frozen=True)
class TrainingSession:
    """One attempt of a run in one of its processes.

    emit: appends an event to the run's log. attempt: counted from 1. versions: of the libraries, by name.
    """

    run: RunDir
    config: Config
    emit: EventReporter
    stop: StopSignal
    team: RunProcesses = ONE_PROCESS
    attempt: int = 1
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds only a part of the base model."""
        return bool(self.config.shard_model) and self.team.processes > 1

    def phase(self, name: str) -> None:
        """Announce the next phase. Raises StopRequested if a stop was requested."""
        self.stop.raise_if_requested()
        self.emit("phase", phase=name)


@dataclass(frozen=True)
class SessionEnd:
    """How a session ended that did not fail, and after which step."""

    kind: Literal["finished", "stopped"]
    step: int
