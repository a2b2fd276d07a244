"""Results of the data checks: findings with their rows and fixes, and a report of them as a folder on disk.

A finding can have millions of rows: each list of row numbers is a .npy file next to report.json, memory-mapped when
it is read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from toolkit.data.chat_repairs import ChatRepair
from toolkit.data.table import RowNumbers
from toolkit.errors import DataError
from toolkit.system.foreign_files import MAX_LARGE_JSON_PARTS, read_foreign_json

FindingSeverity = Literal["serious", "warning", "note"]
FINDING_SEVERITIES: tuple[FindingSeverity, ...] = ("serious", "warning", "note")
FixAction = Literal["drop", "repair", "clean", "unmark", "merge", "set", "template", ChatRepair]
NO_ROWS: RowNumbers = np.zeros(0, dtype=np.int64)
FINDINGS_REPORT_FILE = "report.json"


@dataclass(frozen=True, eq=False)
class Fix:
    """A fix that the user applies with one click.

    The actions drop (remove `rows`), repair (undo mojibake in `columns` of `rows`), clean (remove unusual characters
    from them), unmark (remove special tokens from them), merge (replace cells as settings["spellings"] says, old text
    -> new text) and those of `chat_repairs.py` make a version of the data, and `done` is its line in the history. The
    action set puts `settings` (dotted path -> value) into the draft. The action template replaces settings["old"] by
    settings["new"] in the template under settings["path"].
    """

    label: str
    action: FixAction
    done: str = ""
    rows: RowNumbers = field(default_factory=lambda: NO_ROWS)
    columns: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    def count_remaining(self, rows: int) -> int:
        """Return how many of `rows` rows remain after the fix."""
        return rows - int(self.rows.size) if self.action == "drop" else rows


@dataclass(frozen=True, eq=False)
class Finding:
    """kind: stable name of the check; message: what was found and in how many rows; why: its consequence, a sentence.

    rows: all rows concerned, 0-based and ascending; empty when the finding is about a whole column or template.
    """

    kind: str
    title: str
    message: str
    why: str
    weight: FindingSeverity
    rows: RowNumbers = field(default_factory=lambda: NO_ROWS)
    fixes: tuple[Fix, ...] = ()

    @property
    def count(self) -> int:
        return int(self.rows.size)


@dataclass(frozen=True, eq=False)
class FindingsReport:
    """findings: the most severe first; notes: what was not checked, in sentences; checked: what was looked for."""

    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    checked: tuple[str, ...] = ()


def order_findings(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return the most severe findings first; of equal ones those about a template, then those with most rows."""
    return tuple(sorted(findings, key=lambda f: (FINDING_SEVERITIES.index(f.weight), f.count > 0, -f.count)))


def write_findings_report(report: FindingsReport, folder: Path) -> None:
    """Write report.json and the lists of row numbers into an existing folder."""
    entries = []
    for at, finding in enumerate(report.findings):
        np.save(folder / f"{at}.npy", finding.rows)
        for nth, fix in enumerate(finding.fixes):
            np.save(folder / f"{at}-{nth}.npy", fix.rows)
        fixes = [
            {"label": f.label, "action": f.action, "done": f.done, "columns": f.columns, "settings": f.settings}
            for f in finding.fixes
        ]
        entry = {name: getattr(finding, name) for name in ("kind", "title", "message", "why", "weight")}
        entries.append({**entry, "fixes": fixes})
    content = {"findings": entries, "notes": report.notes, "checked": report.checked}
    (folder / FINDINGS_REPORT_FILE).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def read_findings_report(folder: Path) -> FindingsReport:
    """Read a report. Raises DataError when the folder has no complete report."""
    try:
        content = read_foreign_json(folder / FINDINGS_REPORT_FILE, parts=MAX_LARGE_JSON_PARTS)
        found = [_read_finding(entry, folder, at) for at, entry in enumerate(content["findings"])]
        report = FindingsReport(tuple(found), tuple(content["notes"]), tuple(content["checked"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"The findings in {folder} can't be read ({error}).", "Check the data again.") from error
    return report


def _read_finding(entry: dict[str, Any], folder: Path, at: int) -> Finding:
    fixes = [
        Fix(**{**fix, "columns": tuple(fix["columns"])}, rows=_load_row_numbers(folder / f"{at}-{nth}.npy"))
        for nth, fix in enumerate(entry.pop("fixes"))
    ]
    return replace(Finding(**entry), rows=_load_row_numbers(folder / f"{at}.npy"), fixes=tuple(fixes))


def _load_row_numbers(file: Path) -> RowNumbers:
    size = file.stat().st_size
    # a small array is loaded at once; an empty one can't be mapped
    rows: RowNumbers = np.load(file, mmap_mode="r" if size > 4096 else None, allow_pickle=False)
    return rows
