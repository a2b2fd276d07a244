"""The checks between a job and its run: the same ones that the app makes before Start.

The file is read by the disposable reader, its settings pass the preflight checks, the background worker looks for
blocking problems in its tokens, and the data checks add what they find to the job's events.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.api.files.file_store import FileStore
from toolkit.api.jobs.job_requests import build_job_config
from toolkit.api.jobs.job_store import JobRecord, JobRefusal
from toolkit.api.jobs.line_numbers import list_lines, name_lines_of, read_row_lines
from toolkit.config import Config
from toolkit.data.doctor.examinations import request_examination
from toolkit.data.examples.hard_stops import Fault
from toolkit.data.examples.renderers import chat_problems, renderer_of
from toolkit.data.examples.split import plan_split, usable_indices
from toolkit.data.storage.open_table import open_table
from toolkit.data.table import Table, rows_in_words
from toolkit.errors import DataError, Problem
from toolkit.forecast.decisions import decide_open_settings
from toolkit.runs.preflight import preflight_needs_machine, preflight_problems
from toolkit.runs.run_dir import RunDir, create_run
from toolkit.services.token_question import token_question_body
from toolkit.settings.validation import parse_draft
from toolkit.system.machine import probe_machine, read_known_machine
from toolkit.worker.serving.request_models import RequestError

TOKEN_ANSWER_SECONDS = 1_800.0
LENGTH_STEP = 64
"""The max sequence length is a multiple of this."""
_POLL_SECONDS = 0.05
_FORMATS: tuple[tuple[tuple[str, ...], dict[str, str]], ...] = (
    (("messages",), {"messages": "messages"}),
    (("prompt", "completion"), {"prompt": "{prompt}", "prompt_stub": "{completion}"}),
)
"""OpenAI's formats: the keys of a line, and the settings that read them."""

AskWorker = Callable[..., Mapping[str, Any]]
"""`ask_warm_worker`, or what takes its place in a test."""


class RefusedJobError(Exception):
    """The checks refuse a job."""

    def __init__(self, code: str, message: str, param: str | None = "training_file") -> None:
        super().__init__(message)
        self.refusal = JobRefusal(code=code, message=message, param=param)


@dataclass(frozen=True)
class CheckedFile:
    """A file that was read. settings: those of the section `data` for it. lines: the line of each row, if known."""

    path: Path
    table: Table
    settings: dict[str, Any]
    lines: list[int]


@dataclass(frozen=True)
class CheckedJob:
    """A job that may start. notes: what its owner should know, in sentences."""

    config: Config
    table: Table
    chosen: Mapping[str, str] = field(default_factory=dict)
    memory_bytes: int = 0
    notes: tuple[str, ...] = ()

    def queue_run(self, record: JobRecord) -> RunDir:
        """Create the run of the job. Raises RunError."""
        return create_run(
            self.config,
            self.table,
            name=record.asked.suffix or "",
            chosen=self.chosen,
            memory_bytes=self.memory_bytes,
            job=record.id,
        )


class JobChecker:
    """Makes the checks for the jobs of one save_dir. ask: asks the background worker."""

    def __init__(self, save_dir: Path, files: FileStore, ask: AskWorker) -> None:
        self._save_dir, self._files, self._ask = save_dir, files, ask

    def check_job(self, record: JobRecord) -> CheckedJob:
        """Return what the job would train. Raises RefusedJobError, or ToolkitError from the reader or the worker."""
        files = [self._read(record.asked.training_file, "training_file")]
        data = {**files[0].settings, "path": str(files[0].path)}
        if record.asked.validation_file:
            files.append(self._read(record.asked.validation_file, "validation_file"))
            if files[1].settings != files[0].settings:
                message = "The validation file has another format than the training file."
                raise RefusedJobError("invalid_file_format", message, "validation_file")
            data["test_path"] = str(files[1].path)
        config = build_job_config(record.asked, record.model, data, str(self._save_dir))
        table = open_table(config.data, self._save_dir)
        lines = [line for file in files for line in file.lines] if all(file.lines for file in files) else []
        notes = self._check_settings(config, table, files[0])
        config, length_note = self._fit_length(config, table)
        self._check_tokens(config, table, files)
        notes += [*length_note, *_describe_rows(config, table, lines), *self._examine(config, table, lines)]
        final = decide_open_settings(config, table, read_known_machine(self._save_dir), self._save_dir)
        return CheckedJob(final.config, table, final.reasons, final.memory_bytes, tuple(notes))

    def _read(self, file_id: str, param: str) -> CheckedFile:
        try:
            path = self._files.content_path(self._files.find_file(file_id))
        except RequestError as error:
            raise RefusedJobError("file_not_found", error.message, param) from error
        data = parse_draft({"data": {"file_type": "json", "path": str(path)}}).data
        try:
            table = open_table(data, self._save_dir)
        except DataError as error:
            raise RefusedJobError("invalid_file_format", name_lines_of(path, str(error)), param) from error
        settings = next((found for keys, found in _FORMATS if set(keys) <= set(table.columns)), None)
        if settings is None:
            message = f"The lines have the keys {', '.join(table.columns)[:200]}, but no 'messages'."
            raise RefusedJobError("invalid_file_format", message, param)
        chats = chat_problems(data.model_copy(update=settings), table)
        if chats:
            raise RefusedJobError("invalid_file_format", name_lines_of(path, chats[0].message), param)
        return CheckedFile(path, table, settings, read_row_lines(path, table))

    def _check_settings(self, config: Config, table: Table, training: CheckedFile) -> list[str]:
        """Return the warnings of the preflight checks. Raises RefusedJobError for their first error."""
        probe = probe_machine if preflight_needs_machine(config) else read_known_machine
        found = preflight_problems(config, table, probe(self._save_dir))
        for problem in found:
            if problem.severity == "error":
                message = name_lines_of(training.path, f"{problem.message} {problem.hint}".strip())
                raise RefusedJobError("invalid_training_file", message, _parameter_of(problem))
        # rows with a missing cell are described with their lines instead
        return [problem.message for problem in found if problem.path != "data.path"]

    def _fit_length(self, config: Config, table: Table) -> tuple[Config, list[str]]:
        """Raise the max sequence length to the longest example: the API has no parameter for it."""
        value = self._ask_tokens("lengths", config, table)
        counts = np.load(str(value["path"]), mmap_mode="r", allow_pickle=False)
        longest = int(counts.sum(axis=1).max()) if len(counts) else 0
        sft = config.training.sft_args
        if sft.max_seq_length is None or longest <= sft.max_seq_length:
            return config, []
        fitting = -(-longest // LENGTH_STEP) * LENGTH_STEP
        changed = config.model_copy(deep=True)
        changed.training.sft_args.max_seq_length = min(fitting, 1_048_576)
        note = f"The longest example has {longest:,} tokens: the max sequence length is {fitting:,}."
        return changed, [note]

    def _check_tokens(self, config: Config, table: Table, files: Sequence[CheckedFile]) -> None:
        """Raise RefusedJobError for the first blocking problem in the tokens of the rows."""
        for entry in self._ask_tokens("faults", config, table)["faults"]:
            fault = Fault.from_dict(entry)
            own = files[0].table.rows
            held = bool(fault.rows) and fault.rows[0] >= own and len(files) > 1
            file, rows = (files[1], [row - own for row in fault.rows]) if held else (files[0], list(fault.rows))
            listed = list_lines([row for row in rows if row < file.table.rows], file.lines)
            where = f" It concerns {listed}." if listed else ""
            param = "validation_file" if held else "training_file"
            raise RefusedJobError(f"blocking_{fault.kind}", f"{fault.message}{where} {fault.hint}".strip(), param)

    def _ask_tokens(self, kind: str, config: Config, table: Table) -> Mapping[str, Any]:
        body = token_question_body(config.model_dump(mode="json"), table)
        return self._ask(self._save_dir, kind, body, lane="api", timeout=TOKEN_ANSWER_SECONDS)

    def _examine(self, config: Config, table: Table, lines: list[int]) -> list[str]:
        """Return what the data checks find, without mere notes."""
        examined = request_examination(table, config.data, self._save_dir, "api")
        while not examined.over:
            time.sleep(_POLL_SECONDS)
        if examined.report is None:
            return [f"The data checks could not be made: {examined.error}"]
        found = [finding for finding in examined.report.findings if finding.weight != "note"]
        return [_with_lines(finding.message, finding.rows.tolist(), lines) for finding in found]


def _describe_rows(config: Config, table: Table, lines: list[int]) -> list[str]:
    """Return how the rows are used: which are skipped, and which are held out of training."""
    plan = plan_split(table, config.data)
    used = usable_indices(table, renderer_of(config.data, table.columns).columns_required)
    skipped = np.setdiff1d(np.arange(table.rows), used).tolist()
    notes = []
    if skipped:
        message = f"{rows_in_words(len(skipped))} without a value in 'messages' or its templates will be skipped"
        notes.append(_with_lines(f"{message}.", skipped, lines))
    if config.data.test_path is None:
        message = f"{len(plan.train):,} rows are trained on, {len(plan.test):,} are held out to measure the result."
        notes.append(f"{message} To choose these yourself, upload a validation_file.")
    return notes


def _with_lines(message: str, rows: Sequence[int], lines: Sequence[int]) -> str:
    listed = list_lines(rows, lines)
    return f"{message.removesuffix('.')} ({listed})." if listed else message


def _parameter_of(problem: Problem) -> str | None:
    return {"data": "training_file", "model": "model"}.get(problem.path.split(".")[0])
