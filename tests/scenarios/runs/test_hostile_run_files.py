"""A run folder that another program wrote: every reader returns, or says in words what is wrong with that run."""

from __future__ import annotations

import json
import logging
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.run_fixtures import queue, wait_for
from toolkit.api.files.file_store import FileStore
from toolkit.api.jobs.job_store import JobStore
from toolkit.cli.progress import format_run_row
from toolkit.errors import RunError, ToolkitError
from toolkit.evaluation.evaluation_dir import (
    Evaluation,
    list_evaluations,
    read_evaluation_prompts,
    read_evaluation_rules,
    read_evaluation_spec,
    read_saved_rules,
)
from toolkit.evaluation.predictions import read_predictions
from toolkit.evaluation.progress import read_evaluation_progress
from toolkit.evaluation.prompt_sets import list_prompt_sets
from toolkit.evaluation.statistics.results import read_evaluation_results
from toolkit.export.export_forms import EXPORT_FORMS
from toolkit.export.export_state import read_export_state
from toolkit.export.hub_push import read_hub_state, read_push_request
from toolkit.export.prompt_contract import read_reference_contract
from toolkit.forecast.run_measurements import read_first_and_last_events
from toolkit.lifecycle.claims import read_claim, read_log_tail
from toolkit.lifecycle.launcher import LocalLauncher
from toolkit.lifecycle.memory_autopilot import is_autopilot_on
from toolkit.lifecycle.queue import list_queued_runs
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.runs.event_facts import read_run_curves
from toolkit.runs.events import EventWriter
from toolkit.runs.run_dir import RunDir, find_run_holder, list_runs, read_run_config, read_run_meta
from toolkit.runs.status import RunStatus, read_run_status, read_run_statuses
from toolkit.services.engine_process import find_engine
from toolkit.system.durable import verify_commit
from toolkit.system.machine import read_known_machine
from toolkit.system.printable import format_bytes, format_count, format_duration, format_figure, format_share
from toolkit.ui.runs.film import read_sample_outputs
from toolkit.ui.runs.run_table import run_table_row
from toolkit.ui.runs.run_view import read_last_log_lines
from toolkit.ui.runs.safety_lines import safety_lines
from toolkit.ui.workspace.run_entries import read_run_entries

DEEP = (b"[" * 100_000, b'{"a":' * 100_000, b"[" * 500 + b"]" * 500)
ODD: tuple[Any, ...] = (None, [], {}, "x", 7, 1e300, -1, 10**30, True, [[[]]], {"a": {"b": []}}, [1], {"schema": 1})
JSON_FILES = (
    "run.json", "claim", "worker.lock", "../slot.lock", "../queue.json", "../../machine.json", "../../rules.json",
    "../../prompt_sets/a.json", "../../engine/engine.json", "exports/hub.request.json", "exports/hub.json",
    "exports/adapter.json", "exports/adapter.certificate.json", "exports/contract.json", "exports/adapter/COMMIT.json",
    "adapter/COMMIT.json", "adapter/contract.json", "evaluation/predictions.jsonl",
    "evaluation/20261129-212526-r09j/spec.json", "evaluation/20261129-212526-r09j/results.json",
    "evaluation/20261129-212526-r09j/rules.json", "evaluation/20261129-212526-r09j/prompts.json",
    "evaluation/20261129-212526-r09j/events.jsonl", "events.jsonl", "film.jsonl", "config.yml", "worker.log",
)  # fmt: skip
FIELDS = (
    "schema", "created", "name", "study", "settings", "dataset", "chosen", "start", "pid", "create_time", "attempt",
    "boot", "run", "supervisor", "oom_kills", "at", "log_bytes", "order", "key", "machine", "port", "token", "state",
    "phase", "fraction", "message", "hint", "form", "repo", "private", "files", "hmac", "items", "schema_version",
)  # fmt: skip
EVENTS: tuple[dict[str, Any], ...] = (
    {"kind": "log", "step": 1e300, "loss": 1.0}, {"kind": "log", "step": 10**30, "loss": 1.0},
    {"kind": "log", "step": -5, "loss": 10**400}, {"kind": "log", "step": "x", "loss": []},
    {"kind": "log", "step": 1, "loss": {"a": 1}, "memory_bytes": "x", "tokens_per_second": [1]},
    {"kind": "eval", "step": 1, "eval_loss": "nan"}, {"kind": "plan", "total_steps": 1e300, "epochs": -1},
    {"kind": "plan", "total_steps": [], "device": 7, "trainable_parameters": "x"},
    {"kind": "prepared", "train_rows": "x", "test_rows": [], "dropped": {}, "truncated_rows": "1"},
    {"kind": "scores", "exact_match": "all", "exact_match_base": None, "rows": []},
    {"kind": "saved", "step": "x", "bytes": "x"}, {"kind": "saved", "bytes": "x"},
    {"kind": "verified", "steps": "x", "tolerance": []}, {"kind": "best", "eval_loss": "x"}, {"kind": "best"},
    {"kind": "early", "evaluations": "x"}, {"kind": "started", "t": 1e300, "attempt": 10**15},
    {"kind": "started", "attempt": 2**52}, {"kind": "started", "attempt": 1.5}, {"kind": "failed", "message": [1]},
    {"kind": "failed", "reason": {}, "trace": 7, "step": 2}, {"kind": "interrupted", "outside": "x"},
    {"kind": "requeued", "step": {}}, {"kind": "pinned", "pins": [1, None, {}, {"prompt": 7, "expected": []}]},
    {"kind": "pinned", "pins": {"prompt": "x"}}, {"kind": "answers", "step": 1, "texts": 7},
    {"kind": "answers", "step": 1e300, "texts": []}, {"kind": [], "n": "x"}, {"kind": "progress", "done": []},
    {"kind": "log", "n": 10**400}, {"kind": "phase", "phase": []}, {"kind": "warning", "message": {}},
)  # fmt: skip


def read_everything(run: RunDir) -> list[ToolkitError]:
    """Call what the pages, the command line and the supervisor read a run with; return the errors in words."""
    errors: list[ToolkitError] = []

    def attempt(read: Callable[[], Any]) -> Any:
        try:
            return read()
        except ToolkitError as error:
            errors.append(error)
            return None

    evaluation = Evaluation(run, "20261129-212526-r09j")
    entries, unreadable = read_run_entries([run])
    errors += unreadable
    for entry in entries:
        run_table_row(entry)
        draw_status(entry.status)
    for read in (
        lambda: read_run_meta(run), lambda: read_run_config(run), lambda: read_run_status(run),
        lambda: read_run_statuses(list_runs(run.save_dir)), lambda: list_queued_runs(run.save_dir),
        lambda: read_run_curves(run.events_path), lambda: read_sample_outputs(run.film_path),
        lambda: read_claim(run), lambda: read_log_tail(run), lambda: read_last_log_lines(run.log_path),
        lambda: find_run_holder(run), lambda: is_autopilot_on(run), lambda: format_run_row(run),
        lambda: read_first_and_last_events(run.events_path), lambda: read_known_machine(run.save_dir),
        lambda: find_engine(run.save_dir), lambda: list_prompt_sets(run.save_dir),
        lambda: read_saved_rules(run.save_dir), lambda: read_push_request(run), lambda: read_hub_state(run),
        lambda: read_reference_contract(run), lambda: read_predictions(run),
        lambda: verify_commit(run.adapter_dir), lambda: list_evaluations(run),
        lambda: read_evaluation_spec(evaluation), lambda: read_evaluation_rules(evaluation),
        lambda: read_evaluation_prompts(evaluation), lambda: read_evaluation_progress(evaluation),
        lambda: read_evaluation_results(evaluation.path / "results.json"),
        *(lambda form=form: read_export_state(run, form) for form in EXPORT_FORMS),
    ):  # fmt: skip
        attempt(read)
    return errors


def draw_status(status: RunStatus) -> None:
    safety_lines(status)
    format_duration(status.elapsed_s)
    format_figure(status.last.get("loss"))
    format_bytes(status.last.get("memory_bytes"))
    format_count(status.prepared.get("train_rows"))
    format_share(status.scores.get("exact_match"))
    f"{status.step:,} {status.total_steps:,} {status.fraction:.0%} {status.saved_step}"


def write(run: RunDir, name: str, content: bytes) -> Path:
    path = run.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def check(run: RunDir) -> None:
    began = time.monotonic()
    for error in read_everything(run):
        assert error.message
    assert time.monotonic() - began < 5
    assert not supervise_twice(run.save_dir), "a traceback is logged"


def supervise_twice(save_dir: Path) -> list[logging.LogRecord]:
    """Let a supervisor look twice at a folder whose runs can't start; return what it logs with a traceback."""
    found: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = found.append  # type: ignore[method-assign]
    logging.getLogger("toolkit").addHandler(handler)
    supervisor = Supervisor(save_dir, launcher=LocalLauncher(lambda run, config: ["/nonexistent/python"]))
    try:
        supervisor.tick()
        supervisor.tick()
    finally:
        logging.getLogger("toolkit").removeHandler(handler)
    return [record for record in found if record.exc_info]


@pytest.mark.parametrize("content", (*DEEP, b"", b"\xff\xfe", b"[1e999]", *map(json.dumps, ODD)), ids=lambda c: c[:8])
def test_deep_and_odd_files(save_dir: Path, content: bytes | str) -> None:
    run = queue(save_dir)
    for name in JSON_FILES:
        write(run, name, content.encode() if isinstance(content, str) else content)
    check(run)
    queue_again = queue(save_dir)
    for name in ("events.jsonl", "film.jsonl"):  # with a readable run.json
        write(queue_again, name, content.encode() if isinstance(content, str) else content)
    check(queue_again)


@pytest.mark.parametrize("value", ODD, ids=str)
def test_odd_values_of_every_field(save_dir: Path, value: object) -> None:
    run = queue(save_dir)
    meta = json.loads(run.meta_path.read_bytes())
    for name in JSON_FILES:
        write(run, name, json.dumps(dict.fromkeys(FIELDS, value)).encode())
    check(run)
    for field in meta:
        write(run, "run.json", json.dumps({**meta, field: value}).encode())
        read_run_entries([run])
        format_run_row(run)


@pytest.mark.parametrize("event", EVENTS, ids=str)
def test_odd_events(save_dir: Path, event: dict[str, Any]) -> None:
    run = queue(save_dir)
    started = {"kind": "started", "attempt": 1, "t": time.time()}
    for name in ("events.jsonl", "film.jsonl"):
        good = json.dumps({"kind": "log", "step": 3, "loss": 0.5, "t": time.time()})
        write(run, name, "\n".join([json.dumps(started), json.dumps(event), good, ""]).encode())
    check(run)
    assert read_run_status(run).last.get("loss") in (0.5, None)
    assert read_run_curves(run.events_path)["loss"].steps.tolist() in ([3], [1, 3])


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder", "sparse", "link to itself"])
def test_what_is_not_a_file(save_dir: Path, kind: str) -> None:
    run = queue(save_dir)
    for name in JSON_FILES:
        path = write(run, name, b"")
        path.unlink()
        match kind:
            case "pipe":
                os.mkfifo(path)
            case "socket":
                os.mknod(path, stat.S_IFSOCK | 0o600)
            case "device":
                path.symlink_to("/dev/zero")
            case "folder":
                path.mkdir()
            case "sparse":
                with path.open("wb") as file:
                    file.truncate(2**36)
            case _:
                path.symlink_to(path.name)
    check(run)


def test_a_broken_run_is_named_and_the_others_are_not_affected(save_dir: Path, supervisor: Supervisor) -> None:
    broken = queue(save_dir)
    good = queue(save_dir, steps=1)
    (broken.path / "events.jsonl").mkdir()
    entries, errors = read_run_entries(list_runs(save_dir))
    assert [entry.run for entry in entries] == [good]
    assert len(errors) == 1
    assert broken.id in str(errors[0])
    assert [run for run, _ in read_run_statuses(list_runs(save_dir))] == [good]
    supervisor.tick()
    assert read_run_status(good).state in ("starting", "running", "finished")


def test_files_in_place_of_folders(tmp_path: Path) -> None:
    for number, name in enumerate(("data", "checkpoints", "adapter", "exports", "evaluation", "start")):
        run = queue(tmp_path / str(number))
        shutil.rmtree(run.path / name, ignore_errors=True)
        (run.path / name).write_text("x")
        assert all(error.message for error in read_everything(run)), name
    for number, name in enumerate(("runs", "api", "api/files", "api/jobs", "uploads", "studies", "prompt_sets")):
        path = tmp_path / f"folder{number}" / name
        path.parent.mkdir(parents=True)
        path.write_text("x")
        assert list_runs(tmp_path / f"folder{number}") == []
        if name.startswith("api"):
            with pytest.raises(RunError, match="can't be made"):
                FileStore(tmp_path / f"folder{number}"), JobStore(tmp_path / f"folder{number}")


def test_a_run_without_its_run_json_is_named_once(save_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = queue(save_dir)
    broken.meta_path.unlink()
    assert not supervise_twice(save_dir)
    said = [record.getMessage() for record in caplog.records if broken.id in record.getMessage()]
    assert len(said) == 1
    assert "run.json" in said[0]


def test_an_ended_run_whose_log_became_unreadable_does_not_stop_the_others(
    save_dir: Path, supervisor: Supervisor
) -> None:
    ended, good = queue(save_dir, steps=1), queue(save_dir, steps=1)
    with EventWriter(ended.events_path) as events:
        events.append("finished", step=1)
    supervisor.tick()
    ended.events_path.unlink()
    ended.events_path.symlink_to("events.jsonl")  # to itself: even its size can't be read
    assert wait_for(good, lambda status: status.explained, supervisor).state == "finished"
