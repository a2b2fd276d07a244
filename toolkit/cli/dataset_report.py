"""What `python -m toolkit data FILE` reports: how a file is read, and what would be trained on, as one JSON object.

The parts come from the code of the Data page: reader, suggestion, renderer, blocking problems, data checks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from toolkit.config import Config
from toolkit.data.chat_messages import TOOLS_ROLE, Message
from toolkit.data.doctor.examinations import request_examination
from toolkit.data.examples.column_suggestion import ColumnSuggestion, suggest_for_table
from toolkit.data.examples.hard_stops import Fault, hard_stop_problem
from toolkit.data.examples.renderers import renderer_of
from toolkit.data.examples.split import usable_indices
from toolkit.data.examples.templates import Example
from toolkit.data.findings import Finding
from toolkit.data.read_options import UnreadableError
from toolkit.data.readers.formats import file_type_of
from toolkit.data.storage.open_table import open_table
from toolkit.data.table import Table
from toolkit.errors import DataError, Problem
from toolkit.runs.preflight import preflight_problems
from toolkit.services.token_question import token_question_body
from toolkit.services.warm_client import ask_warm_worker
from toolkit.settings.validation import parse_draft

HARD_STOP_TIMEOUT_S = 1_800.0
SHOWN_EXAMPLES = 3
_POLL_SECONDS = 0.1


def report_dataset(file: Path, model: str | None, save_dir: Path) -> dict[str, Any]:
    """Return the report on a file. model: looks for blocking problems in the tokens of this model; None skips it."""
    report: dict[str, Any] = {
        "refused": None,
        "rows": 0,
        "columns": [],
        "notices": [],
        "suggestion": None,
        "usable_rows": 0,
        "skipped_rows": 0,
        "problems": [],
        "findings": [],
        "examples": [],
    }
    try:
        source = {"path": str(file), "file_type": file_type_of(file)}
        table = open_table(_config(source, model, save_dir).data, save_dir)
    except DataError as error:
        offers = [offer.label for offer in error.offers] if isinstance(error, UnreadableError) else []
        return {**report, "refused": {"message": error.message, "hint": error.hint, "offers": offers}}
    suggestion = suggest_for_table(table)
    report |= {
        "rows": table.rows,
        "columns": list(table.columns),
        "notices": list(table.notices),
        "suggestion": _suggestion_entry(suggestion),
    }
    if suggestion.kind == "ask":
        message = "It is not clear which columns to train on."
        problem = Problem("data.prompt_stub", message, "Choose one of the candidates, or write the two templates.")
        return {**report, "usable_rows": table.rows, "problems": [_problem_entry(problem)]}
    templates = {
        "prompt": suggestion.prompt,
        "prompt_stub": suggestion.completion,
        "messages": suggestion.messages,
        "optional_columns": list(suggestion.optional) or None,
    }
    config = _config({**source, **templates}, model, save_dir)
    return report | _training_entries(config, table, save_dir, has_model=model is not None)


def _config(data: dict[str, Any], model: str | None, save_dir: Path) -> Config:
    named = {} if model is None else {"model": {"hf_model_ckpt": model}}
    return parse_draft({"data": data, "save_dir": str(save_dir), **named})


def _training_entries(config: Config, table: Table, save_dir: Path, *, has_model: bool) -> dict[str, Any]:
    problems = preflight_problems(config, table, None)
    blocking = [problem for problem in problems if problem.severity == "error"]
    usable = usable_indices(table, renderer_of(config.data, table.columns).columns_required)
    entries = {"usable_rows": len(usable), "skipped_rows": table.rows - len(usable)}
    if not blocking and has_model:
        blocking = [one for one in find_hard_stops(config, table, save_dir) if one.severity == "error"]
    examples, faults = _example_entries(config, table, usable[:SHOWN_EXAMPLES].tolist())
    findings = [] if any(one.path.startswith("data.") for one in blocking) else _findings(config, table, save_dir)
    return {
        **entries,
        "problems": [_problem_entry(problem) for problem in dict.fromkeys([*blocking, *faults])],
        "findings": [_finding_entry(finding, table.rows) for finding in findings],
        "examples": examples,
    }


def find_hard_stops(config: Config, table: Table, save_dir: Path) -> list[Problem]:
    """Return the blocking problems in the rows, as the Configure page finds them; accepted ones are warnings."""
    body = token_question_body(config.model_dump(mode="json"), table)
    value = ask_warm_worker(save_dir, "faults", body, lane="cli", timeout=HARD_STOP_TIMEOUT_S)
    accepted = config.data.accepted or []
    return [hard_stop_problem(Fault.from_dict(fault), accepted) for fault in value["faults"]]


def _findings(config: Config, table: Table, save_dir: Path) -> Iterable[Finding]:
    examined = request_examination(table, config.data, save_dir, "cli")
    while not examined.over:
        time.sleep(_POLL_SECONDS)
    if examined.error is not None:
        raise examined.error
    return examined.report.findings if examined.report is not None else ()


def _example_entries(config: Config, table: Table, rows: list[int]) -> tuple[list[list[dict[str, Any]]], list[Problem]]:
    renderer, examples = renderer_of(config.data, table.columns), []
    for row in rows:
        try:
            examples.append(_messages(renderer.example(table.row(row))))
        except DataError as error:
            message = f"Row {row + 1:,} can't be trained on: {error.message}"
            return examples, [Problem("data.messages", message, error.hint)]
    return examples, []


def _messages(example: Example) -> list[dict[str, Any]]:
    if example.turns:
        return _conversation_entries(example.turns)
    return [
        {"role": "user", "content": example.prompt, "learned": False},
        {"role": "assistant", "content": example.completion, "learned": True},
    ]


def _conversation_entries(turns: Sequence[Message]) -> list[dict[str, Any]]:
    """Return the messages with the keys that have a value; the first one names the tools of the conversation."""
    tools = json.loads(turns[0].content) if turns[0].role == TOOLS_ROLE else None
    entries = []
    for turn in turns[1:] if tools else turns:
        entry = {"role": turn.role, "content": turn.content, "learned": turn.learned}
        if turn.reasoning:
            entry["reasoning_content"] = turn.reasoning
        if turn.tool_calls:
            entry["tool_calls"] = json.loads(turn.tool_calls)
        entry |= {key: value for key, value in (("name", turn.name), ("tool_call_id", turn.tool_call_id)) if value}
        entries.append(entry)
    return [{**entries[0], "tools": tools}, *entries[1:]] if tools else entries


def _suggestion_entry(suggestion: ColumnSuggestion) -> dict[str, Any]:
    pairs = [{"prompt": prompt, "completion": completion} for prompt, completion in suggestion.candidates]
    return {**asdict(replace(suggestion, candidates=())), "candidates": pairs, "notes": list(suggestion.notes)}


def _problem_entry(problem: Problem) -> dict[str, str]:
    return {"setting": problem.path, "message": problem.message, "hint": problem.hint}


def _finding_entry(finding: Finding, rows: int) -> dict[str, Any]:
    fixes = []
    for fix in finding.fixes:
        fixes.append({"label": fix.label, "action": fix.action, "remaining_rows": fix.count_remaining(rows)})
    return {
        "name": finding.kind,
        "rows": finding.count,
        "message": finding.message,
        "severity": finding.weight,
        "fixes": fixes,
    }
