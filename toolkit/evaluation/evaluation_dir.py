"""The folder of an evaluation, `<run>/evaluation/<id>/`: creating, listing, reading and deleting it.

spec.json       what is evaluated, written once
rules.json      pass/fail rules and the gate; may be replaced, the answers stay
data.parquet    the rows of a file, or prompts.json the prompts of a set; neither for the run's own test set
events.jsonl    started, phase, progress, warning, and at the end finished | stopped | failed
answers.jsonl   one line per answer: an evaluation that was killed continues after them
results.json, rows.parquet    the figures and every row
lock, start.lock, worker.log  of its process, see `system/background_job.py`
stop            an empty file: the request to stop
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolkit.data.table import Table
from toolkit.errors import RunError
from toolkit.evaluation.prompt_sets import PromptSet
from toolkit.evaluation.statistics.pass_rules import RuleSet, parse_pass_rules
from toolkit.runs.run_dir import RunDir
from toolkit.runs.run_sources import link_or_copy_file
from toolkit.system.background_job import JobFiles, is_job_running
from toolkit.system.durable import durable_write, fsync_dir, remove_tree, scratch_dir
from toolkit.system.foreign_files import MAX_LARGE_JSON_PARTS, read_foreign_json
from toolkit.system.ids import is_valid_id, make_timed_id
from toolkit.system.locks import is_lock_held

SPEC_SCHEMA_VERSION = 1
DEFAULT_EVALUATION_ROWS = 500  # a share's 95 % interval is then at most 4.4 points to each side
QuestionSource = Literal["test", "file", "prompts"]


class EvaluationSpec(BaseModel):
    """What is evaluated.

    rows: the most rows that are asked, None for all.
    compared: other runs on the same base model by id, or checkpoints as RUN@STEP.
    max_new_tokens: None lets each answer be a little longer than the expected one.
    probe: whether to measure forgetting. seed: of the bootstrap. created: Unix seconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SPEC_SCHEMA_VERSION
    source: QuestionSource = "test"
    label: str = "test rows"
    rows: Annotated[int, Field(ge=1)] | None = DEFAULT_EVALUATION_ROWS
    compared: tuple[str, ...] = ()
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    probe: bool = True
    seed: int = 0
    created: float = 0.0


@dataclass(frozen=True)
class Evaluation:
    """The paths of one evaluation of `run`."""

    run: RunDir
    id: str

    @property
    def path(self) -> Path:
        return self.run.evaluation_dir / self.id

    @property
    def spec_path(self) -> Path:
        return self.path / "spec.json"

    @property
    def rules_path(self) -> Path:
        return self.path / "rules.json"

    @property
    def data_path(self) -> Path:
        return self.path / "data.parquet"

    @property
    def prompts_path(self) -> Path:
        return self.path / "prompts.json"

    @property
    def events_path(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def answers_path(self) -> Path:
        return self.path / "answers.jsonl"

    @property
    def results_path(self) -> Path:
        return self.path / "results.json"

    @property
    def rows_path(self) -> Path:
        return self.path / "rows.parquet"

    @property
    def lock_path(self) -> Path:
        return self.path / "lock"

    @property
    def stop_path(self) -> Path:
        return self.path / "stop"

    @property
    def log_path(self) -> Path:
        return self.path / "worker.log"

    @property
    def job(self) -> JobFiles:
        """The files of the process that carries it out; it reports into the event log."""
        return JobFiles(self.events_path, self.lock_path, self.path / "start.lock", self.log_path)


def create_evaluation(
    run: RunDir,
    spec: EvaluationSpec,
    rules: RuleSet | None = None,
    *,
    table: Table | None = None,
    prompts: PromptSet | None = None,
) -> Evaluation:
    """Create an evaluation without starting it. Raises RunError when it can't be written; then nothing is left.

    table: the rows of a file (source "file"), of which the evaluation keeps its own copy. prompts: for source
    "prompts".
    """
    now = time.time()
    evaluation = Evaluation(run, make_timed_id(now))
    staging = run.evaluation_dir / f".new-{evaluation.id}"
    spec = spec.model_copy(update={"created": now})
    try:
        run.evaluation_dir.mkdir(parents=True, exist_ok=True)
        with scratch_dir(staging):
            if table is not None:
                link_or_copy_file(table.path, staging / evaluation.data_path.name)
            if prompts is not None:
                durable_write(staging / evaluation.prompts_path.name, prompts.model_dump_json(indent=1))
            durable_write(staging / evaluation.rules_path.name, (rules or RuleSet()).model_dump_json(indent=1))
            durable_write(staging / evaluation.spec_path.name, spec.model_dump_json(indent=1))
            staging.rename(evaluation.path)
        fsync_dir(run.evaluation_dir)
    except OSError as error:
        message = f"The evaluation can't be written to {run.evaluation_dir}: {error}."
        raise RunError(message, "Free space there.") from error
    return evaluation


def list_evaluations(run: RunDir) -> list[Evaluation]:
    """Return all evaluations of a run, newest first."""
    try:
        names = [path.name for path in run.evaluation_dir.iterdir() if is_valid_id(path.name) and path.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [Evaluation(run, name) for name in sorted(names, reverse=True)]


def open_evaluation(run: RunDir, evaluation_id: str) -> Evaluation:
    """Return the evaluation with that id. Raises RunError when there is none."""
    found = Evaluation(run, evaluation_id)
    if not is_valid_id(evaluation_id) or not found.spec_path.is_file():
        raise RunError(f"Run {run.id} has no evaluation '{evaluation_id[:80]}'.", "Start one on the Evaluate page.")
    return found


def read_evaluation_spec(evaluation: Evaluation) -> EvaluationSpec:
    """Return what is evaluated. Raises RunError: damaged, or written by a newer version."""
    raw = _read_json(evaluation.spec_path)
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if isinstance(version, int) and version > SPEC_SCHEMA_VERSION:
        raise RunError("The evaluation was made by a newer version of the toolkit.", "Update the toolkit to use it.")
    try:
        return EvaluationSpec.model_validate(raw)
    except ValidationError as error:
        hint = "Delete the evaluation and start a new one."
        raise RunError(f"{evaluation.spec_path} can't be used.", hint) from error


def read_evaluation_rules(evaluation: Evaluation) -> RuleSet:
    """Return the rules of an evaluation. Raises ToolkitError."""
    return parse_pass_rules(_read_json(evaluation.rules_path)) if evaluation.rules_path.exists() else RuleSet()


def replace_evaluation_rules(evaluation: Evaluation, rules: RuleSet) -> None:
    """Replace the rules; the figures are computed again, from the same answers, when the evaluation is started."""
    durable_write(evaluation.rules_path, rules.model_dump_json(indent=1))


def read_saved_rules(save_dir: Path) -> RuleSet:
    """Return the rules of a workspace, which new evaluations copy; an empty set when none were saved.

    Raises ToolkitError.
    """
    path = save_dir / "rules.json"
    return parse_pass_rules(_read_json(path)) if path.exists() else RuleSet()


def save_rules(save_dir: Path, rules: RuleSet) -> None:
    """Save the rules of a workspace."""
    durable_write(save_dir / "rules.json", rules.model_dump_json(indent=1))


def read_evaluation_prompts(evaluation: Evaluation) -> PromptSet:
    """Return the prompt set that is asked. Raises RunError."""
    try:
        return PromptSet.model_validate(_read_json(evaluation.prompts_path))
    except ValidationError as error:
        raise RunError(f"{evaluation.prompts_path} can't be used.", "Start a new evaluation.") from error


def request_evaluation_stop(evaluation: Evaluation) -> None:
    """Ask the evaluation to stop after its current batch; the figures cover what was answered by then."""
    evaluation.stop_path.touch()


def delete_evaluation(evaluation: Evaluation) -> None:
    """Remove the evaluation from the disk. Raises RunError while it is running."""
    if is_job_running(evaluation.job):
        raise RunError("The evaluation is still running.", "Stop it first.")
    remove_tree(evaluation.path)


def _read_json(path: Path) -> Any:
    try:
        return read_foreign_json(path, parts=MAX_LARGE_JSON_PARTS)
    except (OSError, ValueError) as error:
        raise RunError(f"{path} can't be read: {error}.", "Start a new evaluation.") from error


def loaded_models_lock(save_dir: Path) -> Path:
    """Return the lock of the one evaluation in a save_dir that may have its models loaded: two would not fit."""
    return save_dir / "runs" / "evaluating.lock"


def is_evaluating(save_dir: Path) -> bool:
    """Return whether an evaluation has its models loaded."""
    return is_lock_held(loaded_models_lock(save_dir))
