"""Findings that the user has accepted, for a dataset and all its versions.

`save_dir/uploads/findings/accepted-<first 12 hex digits of the original's sha256>.json`: {kind: {"count", "message"}}.
A finding that concerns more rows than were accepted is open again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from toolkit.data.findings import Finding, FindingsReport
from toolkit.data.storage.stored_names import HASH_DIGITS
from toolkit.data.storage.uploads import uploads_dir
from toolkit.data.table import Table
from toolkit.system.durable import durable_write
from toolkit.system.foreign_files import read_foreign_json


class _Mark(BaseModel):
    count: int
    message: str


AcceptedFindings = dict[str, dict[str, Any]]
_ACCEPTED = TypeAdapter(dict[str, _Mark])


def read_accepted_findings(table: Table, save_dir: Path) -> AcceptedFindings:
    """Return kind -> what was accepted. A missing or damaged file accepts nothing."""
    try:
        found = _ACCEPTED.validate_python(read_foreign_json(_accepted_file(table, save_dir)))
    except (OSError, ValueError):
        return {}
    return {kind: mark.model_dump() for kind, mark in found.items()}


def is_accepted(finding: Finding, accepted: AcceptedFindings) -> bool:
    """Return whether the finding has the same message as, or at most as many rows as, the accepted one."""
    mark = accepted.get(finding.kind)
    if mark is None:
        return False
    return bool(mark["message"] == finding.message or 0 < finding.count <= mark["count"])


def accept_finding(finding: Finding, table: Table, save_dir: Path) -> None:
    """Accept a finding. Raises OSError when the file can't be written."""
    mark = {"count": finding.count, "message": finding.message}
    _write_accepted(table, save_dir, {**read_accepted_findings(table, save_dir), finding.kind: mark})


def reopen_finding(finding: Finding, table: Table, save_dir: Path) -> None:
    """Undo `accept_finding`. Raises OSError when the file can't be written."""
    accepted = read_accepted_findings(table, save_dir)
    _write_accepted(table, save_dir, {kind: mark for kind, mark in accepted.items() if kind != finding.kind})


def split_by_acceptance(
    report: FindingsReport, accepted: AcceptedFindings
) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """Return (open findings, accepted findings)."""
    closed = tuple(finding for finding in report.findings if is_accepted(finding, accepted))
    return tuple(finding for finding in report.findings if finding not in closed), closed


def _accepted_file(table: Table, save_dir: Path) -> Path:
    original = table.version.original if table.version else table.sha256
    return uploads_dir(save_dir) / "findings" / f"accepted-{original[:HASH_DIGITS]}.json"


def _write_accepted(table: Table, save_dir: Path, content: AcceptedFindings) -> None:
    final = _accepted_file(table, save_dir)
    final.parent.mkdir(exist_ok=True)
    durable_write(final, json.dumps(content, ensure_ascii=False))
