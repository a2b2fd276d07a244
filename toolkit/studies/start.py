"""Starting and continuing a study: queue a run for each trial that has none yet, once, whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from toolkit.config import Config
from toolkit.errors import ConfigError, Problem
from toolkit.lifecycle.resume_policy import can_resume, request_resume
from toolkit.runs.run_dir import RunDir, create_run
from toolkit.runs.run_sources import SourceTable
from toolkit.runs.status import read_run_status
from toolkit.settings.ablation import count_trials
from toolkit.studies.known_runs import list_known_runs, read_old_question
from toolkit.studies.outcomes import find_trial_runs, fold_study
from toolkit.studies.question import (
    AskedTrial,
    StudyQuestion,
    find_question_conflict,
    list_missing_seeds,
    merge_questions,
    read_question,
    study_folder,
    write_question,
)
from toolkit.studies.verdict import find_losing_trials, stops_as_decided
from toolkit.system.locks import wait_for_lock


@dataclass(frozen=True)
class PlannedRun:
    """How the run of a trial would be created.

    config: with the settings that the forecast decided. memory_bytes: the forecast of its memory, 0 without one.
    """

    config: Config
    table: SourceTable
    name: str = ""
    chosen: Mapping[str, str] = field(default_factory=dict)
    memory_bytes: int = 0


@dataclass(frozen=True)
class StudyProgress:
    """The trials of a question: those without a run, and the runs of the others by what Start does with them.

    resumed: their runs were stopped or paused and continue. failed: a result, which is not trained again unless asked.
    kept: finished, training or queued. later: runs that TPE will choose by the results.
    is_decided: the study stops when it is decided, and it is.
    """

    open: tuple[AskedTrial, ...]
    resumed: tuple[RunDir, ...] = ()
    failed: tuple[RunDir, ...] = ()
    kept: tuple[RunDir, ...] = ()
    later: int = 0
    is_decided: bool = False

    @property
    def to_train(self) -> int:
        """Runs that Start would create or resume, at once or when their turn comes."""
        return len(self.open) + len(self.resumed) + self.later


def find_study_conflict(save_dir: Path, question: StudyQuestion) -> Problem | None:
    """Return why the question can't be asked under its name; None when it is new or continues a study."""
    old = read_old_question(save_dir, question.name)
    return find_question_conflict(old, question) if old is not None else None


def find_study_progress(save_dir: Path, question: StudyQuestion, *, retry_failed: bool = False) -> StudyProgress:
    """Return what Start would do with each trial. retry_failed: failed runs are resumed too."""
    asked = question
    if question.method == "tpe":  # the trials that were chosen by results are not part of what a caller can ask
        question = _merge_with_existing(save_dir, question)
    found = find_trial_runs(save_dir, question)
    losing: Mapping[str, str] = {}
    is_decided = False
    if question.prune_losers or question.stop_when_decided:
        study = fold_study(_merge_with_existing(save_dir, question), list_known_runs(save_dir, question.name))
        losing, is_decided = find_losing_trials(study), stops_as_decided(study)
    resumed: list[RunDir] = []
    failed: list[RunDir] = []
    kept: list[RunDir] = []
    for content, run in found.items():
        status = read_run_status(run)
        if status.state == "failed" and not retry_failed:
            failed.append(run)
        else:
            (resumed if can_resume(status) and content not in losing else kept).append(run)
    if is_decided:
        ended = tuple(run for run in found.values() if run not in failed)
        return StudyProgress((), (), tuple(failed), ended, is_decided=True)
    missing = tuple(trial for trial in asked.trials if trial.content not in found and trial.content not in losing)
    later = 0 if question.method != "tpe" else _count_search_runs(question) - len(found) - len(missing)
    return StudyProgress(missing, tuple(resumed), tuple(failed), tuple(kept), later)


def _merge_with_existing(save_dir: Path, question: StudyQuestion) -> StudyQuestion:
    old = read_question(save_dir, question.name)
    return merge_questions(old, question) if old is not None else question


def _count_search_runs(question: StudyQuestion) -> int:
    """Return how many runs a search by TPE has in all: those of the trials so far, and those it will choose."""
    chosen = len({repr(sorted(trial.settings.items())) for trial in question.trials})
    total = min(question.budget or 0, count_trials(question.axes))
    lacking = sum(len(seeds) for _, seeds in list_missing_seeds(question))
    return len(question.trials) + lacking + max(0, total - chosen) * max(1, len(question.repeats))


def start_study(
    save_dir: Path, question: StudyQuestion, plan_run: Callable[[str], PlannedRun], *, retry_failed: bool = False
) -> tuple[list[RunDir], StudyProgress]:
    """Queue the trials that have no run yet, and resume those that were stopped; return these runs and the progress.

    plan_run: returns the run to create for a trial's content. A kill between two runs loses nothing: the next start
    queues the rest. Raises ConfigError when a study of that name asks something else, RunError when a file can't be
    written.
    """
    lock = study_folder(save_dir, question.name) / "lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with wait_for_lock(lock):
        old = read_old_question(save_dir, question.name)
        if old is not None and (conflict := find_question_conflict(old, question)) is not None:
            raise ConfigError([conflict])
        write_question(save_dir, merge_questions(old, question) if old is not None else question)
        progress = find_study_progress(save_dir, question, retry_failed=retry_failed)
        for run in progress.resumed:
            request_resume(run)
        created = [create_trial_run(question.name, trial, plan_run(trial.content)) for trial in progress.open]
    return [*progress.resumed, *created], progress


def create_trial_run(study: str, trial: AskedTrial, plan: PlannedRun) -> RunDir:
    """Create the queued run of a trial. Raises RunError."""
    return create_run(
        plan.config,
        plan.table,
        name=plan.name,
        study=study,
        settings=trial.settings,
        chosen=plan.chosen,
        memory_bytes=plan.memory_bytes,
    )
