"""What a person has seen and leaves as it is: findings accepted for a dataset and all its versions, kept on disk.

`save_dir/uploads/findings/accepted-<original>.json`. A finding that grows beyond what was accepted is open again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from toolkit.data.findings import Finding, FindingsReport
from toolkit.data.storage.uploads import HASH_DIGITS, publish_file, uploads_dir
from toolkit.data.table import Table

AcceptedFindings = dict[str, dict[str, Any]]


def read_accepted_findings(table: Table, save_dir: Path) -> AcceptedFindings:
    """kind -> what was accepted under it. A file that can't be read accepts nothing."""
    try:
        loaded = json.loads(_accepted_file(table, save_dir).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def is_accepted(finding: Finding, accepted: AcceptedFindings) -> bool:
    mark = accepted.get(finding.kind)
    if mark is None:
        return False
    return bool(mark["message"] == finding.message or 0 < finding.count <= mark["count"])


def accept_finding(finding: Finding, table: Table, save_dir: Path) -> None:
    """Mark it as seen. Raises OSError when that can't be written."""
    mark = {"count": finding.count, "message": finding.message}
    _write_accepted(table, save_dir, {**read_accepted_findings(table, save_dir), finding.kind: mark})


def reopen_finding(finding: Finding, table: Table, save_dir: Path) -> None:
    """Take the mark off again."""
    _write_accepted(
        table, save_dir, {k: mark for k, mark in read_accepted_findings(table, save_dir).items() if k != finding.kind}
    )


def split_by_acceptance(
    report: FindingsReport, accepted: AcceptedFindings
) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """(open, accepted)."""
    seen = tuple(finding for finding in report.findings if is_accepted(finding, accepted))
    return tuple(finding for finding in report.findings if finding not in seen), seen


def _accepted_file(table: Table, save_dir: Path) -> Path:
    original = table.version.original if table.version else table.sha256
    return uploads_dir(save_dir) / "findings" / f"accepted-{original[:HASH_DIGITS]}.json"


def _write_accepted(table: Table, save_dir: Path, content: AcceptedFindings) -> None:
    final = _accepted_file(table, save_dir)
    final.parent.mkdir(exist_ok=True)
    aside = final.with_name(f".{final.name}")
    aside.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    publish_file(aside, final)
