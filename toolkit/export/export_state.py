"""The exports of a run: their files and the state of each.

    exports/<form>/                  the export, committed: complete or absent
    exports/<form>.json              progress and end of the process that makes it, see `system/background_job.py`
    exports/<form>.certificate.json  the verdict of the last replay

"Passed" and "broken" follow from the certificate, and only while it belongs to the committed files and these belong to
the run's present adapter.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from toolkit.export.export_forms import ExportForm, find_export_form
from toolkit.export.parity_certificate import Certificate, read_certificate
from toolkit.export.prompt_contract import sha256_hex
from toolkit.runs.run_dir import RunDir
from toolkit.system.background_job import JobFiles, read_job
from toolkit.system.durable import COMMIT_NAME
from toolkit.system.foreign_files import read_foreign_json

ADAPTER_HASH_KEY = "adapter"
"""Entry of an export's COMMIT.json: the hash of the COMMIT.json of the adapter that it was made from."""
ExportStateName = Literal["none", "running", "passed", "broken", "unchecked", "failed"]


@dataclass(frozen=True)
class ExportState:
    """One form of one run at one moment. fraction: 0 to 1 while it runs. folder: where the export is, once made.

    without_main_file: why the main file could not be made, "" if it is there.
    """

    form: ExportForm
    state: ExportStateName
    phase: str = ""
    fraction: float = 0.0
    message: str = ""
    hint: str = ""
    certificate: Certificate | None = None
    folder: Path | None = None
    bytes: int = 0
    without_main_file: str = ""


def export_folder(run: RunDir, form: str) -> Path:
    """Return the folder of a committed export."""
    return run.exports_dir / form


def export_job(run: RunDir, form: str) -> JobFiles:
    """Return the files of the process that makes or checks an export."""
    return JobFiles.in_folder(run.exports_dir, form)


def certificate_path(run: RunDir, form: str) -> Path:
    """Return the file with the verdict of the last replay."""
    return run.exports_dir / f"{form}.certificate.json"


def read_export_state(run: RunDir, form: str) -> ExportState:
    """Return the state of one export, from its files and its lock. Raises RunError for damaged files."""
    kind = find_export_form(form)
    job = read_job(export_job(run, form))
    if job.state == "running":
        return ExportState(kind, "running", job.phase, job.fraction)
    folder = export_folder(run, form)
    made = (folder / COMMIT_NAME).exists()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if made else 0
    where = folder if made else None
    absent = _explain_absence(kind, folder) if made else ""
    if job.state == "failed":
        return ExportState(kind, "failed", message=job.message, hint=job.hint, folder=where, bytes=size)
    if not made:
        return ExportState(kind, "none")
    if _is_outdated(run, folder):
        message = "This export is out of date: the run was trained further after it."
        return ExportState(kind, "failed", message=message, hint="Export again.", folder=where, bytes=size)
    certificate = read_certificate(certificate_path(run, form))
    if certificate is None or certificate.commit != commit_hash(folder):
        return ExportState(kind, "unchecked", folder=where, bytes=size, without_main_file=absent)
    state: ExportStateName = "passed" if certificate.passed else "broken"
    return ExportState(kind, state, certificate=certificate, folder=where, bytes=size, without_main_file=absent)


def _explain_absence(form: ExportForm, folder: Path) -> str:
    if not form.main_file or (folder / form.main_file).exists():
        return ""
    try:
        return (folder / form.problem_file).read_text(encoding="utf-8").strip()
    except OSError:
        return f"{form.main_file} was not made."  # by an early version, which did not say why


def _is_outdated(run: RunDir, folder: Path) -> bool:
    """Return whether the export was made from another adapter than the run has now; False when it does not say."""
    try:
        made_from = read_foreign_json(folder / COMMIT_NAME).get(ADAPTER_HASH_KEY)
        current = commit_hash(run.adapter_dir)
    except (OSError, ValueError, AttributeError):
        return False
    return made_from is not None and made_from != current


def commit_hash(folder: Path) -> str:
    """Return the SHA-256 of a folder's COMMIT.json, which lists the hash of every file in it."""
    return sha256_hex((folder / COMMIT_NAME).read_bytes())
