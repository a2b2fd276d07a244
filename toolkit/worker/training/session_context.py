"""What all parts of a training session share: the run, its config, its processes, and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from toolkit.config import Config
from toolkit.runs.run_dir import RunDir
from toolkit.worker.process.stop import StopSignal

Tell = Callable[..., None]


@dataclass(frozen=True)
class RunProcesses:
    """The processes of this run: how many, and which one this is. Rank 0 alone tells, saves and scores."""

    processes: int = 1
    rank: int = 0

    @property
    def is_main_process(self) -> bool:
        return self.rank == 0


@dataclass(frozen=True)
class TrainingSession:
    """What all parts of a run need."""

    run: RunDir
    config: Config
    tell: Tell
    stop: StopSignal
    team: RunProcesses = RunProcesses()
    attempt: int = 1
    versions: dict[str, str] = field(default_factory=dict)

    def phase(self, name: str) -> None:
        """Announce what happens next, unless a stop was asked for: then raise StopAsked."""
        self.stop.check()
        self.tell("phase", phase=name)


@dataclass(frozen=True)
class SessionEnd:
    """How a run ended that did not fail, and after which step."""

    kind: Literal["finished", "stopped"]
    step: int
