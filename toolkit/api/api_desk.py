"""What the routes of the fine-tuning API work with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from toolkit.api.files.file_store import FileStore
from toolkit.api.jobs.job_intake import JobIntake
from toolkit.api.jobs.job_store import JobStore


@dataclass(frozen=True)
class ApiDesk:
    """What the routes work with. stand_in: the base model that OpenAI's names stand for. wake: starts queued runs."""

    save_dir: Path
    files: FileStore
    jobs: JobStore
    intake: JobIntake
    stand_in: str
    wake: Callable[[], None]
