"""Where an evaluation lives: `<run>/evaluation/<id>/`, its file names, and what was asked; creates and lists them.

    spec.json       what is evaluated, written once
    rules.json      pass/fail rules and the gate; may be replaced, the answers stay
    data.parquet    the rows of a file, or prompts.json the prompts of a set; neither for the run's own test rows
    events.jsonl    started, phase, progress, finished | stopped | failed
    answers.jsonl   one line an answer: what a killed evaluation goes on from
    results.json, rows.parquet    the figures and every row

Knows no model and no statistics; what state one is in is `state.py`'s.
"""

from __future__ import annotations

import json
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
from toolkit.system.durable import durable_write, fsync_dir, remove_tree, scratch_dir
from toolkit.system.ids import is_valid_id, make_timed_id
from toolkit.system.locks import is_lock_held

SPEC_SCHEMA_VERSION = 1
DEFAULT_EVALUATION_ROWS = 500
QuestionSource = Literal["test", "file", "prompts"]


class EvaluationSpec(BaseModel):
    """What is evaluated. rows: at most so many (None: all). compared: other runs on the same base model, by id.

    max_new_tokens: None lets each answer be a little longer than the expected one.
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


def create_evaluation(
    run: RunDir,
    spec: EvaluationSpec,
    rules: RuleSet | None = None,
    *,
    table: Table | None = None,
    prompts: PromptSet | None = None,
) -> Evaluation:
    """A new evaluation, there whole or not at all; nothing is started. Raises RunError when it can't be written.

    table: the rows of a file (source "file"), kept as the evaluation's own. prompts: for source "prompts".
    """
    now = time.time()
    made = Evaluation(run, make_timed_id(now))
    staging = run.evaluation_dir / f".new-{made.id}"
    spec = spec.model_copy(update={"created": now})
    try:
        run.evaluation_dir.mkdir(parents=True, exist_ok=True)
        with scratch_dir(staging):
            if table is not None:
                link_or_copy_file(table.path, staging / made.data_path.name)
            if prompts is not None:
                durable_write(staging / made.prompts_path.name, prompts.model_dump_json(indent=1))
            durable_write(staging / made.rules_path.name, (rules or RuleSet()).model_dump_json(indent=1))
            durable_write(staging / made.spec_path.name, spec.model_dump_json(indent=1))
            staging.rename(made.path)
        fsync_dir(run.evaluation_dir)
    except OSError as error:
        message = f"The evaluation can't be written to {run.evaluation_dir}: {error}."
        raise RunError(message, "Free space there.") from error
    return made


def list_evaluations(run: RunDir) -> list[Evaluation]:
    """All evaluations of a run, newest first."""
    try:
        names = [path.name for path in run.evaluation_dir.iterdir() if is_valid_id(path.name) and path.is_dir()]
    except FileNotFoundError:
        return []
    return [Evaluation(run, name) for name in sorted(names, reverse=True)]


def open_evaluation(run: RunDir, evaluation_id: str) -> Evaluation:
    """The evaluation of that id; raises RunError when there is none."""
    found = Evaluation(run, evaluation_id)
    if not is_valid_id(evaluation_id) or not found.spec_path.is_file():
        raise RunError(f"Run {run.id} has no evaluation '{evaluation_id[:80]}'.", "Start one on the Evaluate page.")
    return found


def read_evaluation_spec(evaluation: Evaluation) -> EvaluationSpec:
    """Raises RunError: damaged, or written by a newer version."""
    raw = _read_json(evaluation.spec_path)
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if isinstance(version, int) and version > SPEC_SCHEMA_VERSION:
        raise RunError("The evaluation was made by a newer version.", "Update the toolkit to use it.")
    try:
        return EvaluationSpec.model_validate(raw)
    except ValidationError as error:
        raise RunError(
            f"{evaluation.spec_path} can't be used.", "Delete the evaluation and start a new one."
        ) from error


def read_evaluation_rules(evaluation: Evaluation) -> RuleSet:
    """The rules of an evaluation. Raises ToolkitError."""
    return parse_pass_rules(_read_json(evaluation.rules_path)) if evaluation.rules_path.exists() else RuleSet()


def replace_evaluation_rules(evaluation: Evaluation, rules: RuleSet) -> None:
    """Other rules for the same answers; the figures follow when the evaluation is started again."""
    durable_write(evaluation.rules_path, rules.model_dump_json(indent=1))


def read_saved_rules(save_dir: Path) -> RuleSet:
    """The rules of a workspace, which new evaluations take over; none when none were saved. Raises ToolkitError."""
    path = save_dir / "rules.json"
    return parse_pass_rules(_read_json(path)) if path.exists() else RuleSet()


def save_rules(save_dir: Path, rules: RuleSet) -> None:
    durable_write(save_dir / "rules.json", rules.model_dump_json(indent=1))


def read_evaluation_prompts(evaluation: Evaluation) -> PromptSet:
    """Raises RunError."""
    try:
        return PromptSet.model_validate(_read_json(evaluation.prompts_path))
    except ValidationError as error:
        raise RunError(f"{evaluation.prompts_path} can't be used.", "Start a new evaluation.") from error


def request_evaluation_stop(evaluation: Evaluation) -> None:
    """Ask politely: the figures are made of what was answered by then."""
    evaluation.stop_path.touch()


def delete_evaluation(evaluation: Evaluation) -> None:
    """Remove it from the disk. Raises RunError while it is going."""
    if is_lock_held(evaluation.lock_path):
        raise RunError("The evaluation is still going.", "Stop it first.")
    remove_tree(evaluation.path)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} can't be read: {error}.", "Start a new evaluation.") from error


def loaded_models_lock(save_dir: Path) -> Path:
    """Held by the one evaluation of a save_dir that has its models loaded."""
    return save_dir / "runs" / "evaluating.lock"


def is_evaluating(save_dir: Path) -> bool:
    return is_lock_held(loaded_models_lock(save_dir))
