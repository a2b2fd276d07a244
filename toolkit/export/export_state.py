"""Exports of a run: their forms, their files, what state each is in, and starting the process that makes one.

    exports/<form>/                  the export, committed: whole or not there
    exports/<form>.json              how far its making is; its one writer holds <form>.lock
    exports/<form>.certificate.json  the verdict of the last replay
    exports/<form>.log               what the process wrote

"Running" is written nowhere: it is the lock. How an export is made is `worker/export.py`'s to know.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from toolkit.errors import RunError
from toolkit.export.parity_certificate import Certificate, read_certificate
from toolkit.export.prompt_contract import sha256_hex
from toolkit.runs.run_dir import RunDir
from toolkit.system.durable import COMMIT_NAME, durable_write
from toolkit.system.locks import is_lock_held

EXPORT_SCHEMA = 1
ADAPTER_HASH_KEY = "adapter"
"""Entry of an export's commit: the hash of the adapter's own that it was made of."""
WEIGHT_FILES = ("adapter_model.safetensors", "adapter_config.json")
"""What makes an adapter: without both there is none."""
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
)  # fmt: skip
"""Names under which tokenizers save themselves. No other file of a tokenizer leaves the machine."""
ExportStateName = Literal["none", "running", "passed", "broken", "unchecked", "failed"]


@dataclass(frozen=True)
class ExportForm:
    """One way to take a model away. dtype: of the weights, "" for the adapter's own."""

    key: str
    title: str
    what: str
    dtype: str = ""


EXPORT_FORMS = {
    form.key: form
    for form in (
        ExportForm("adapter", "Adapter", "The small file of what was learned. It needs the base model beside it."),
        ExportForm(
            "merged-bf16", "Merged, bf16", "One model of its own, for vLLM and transformers on new GPUs.", "bfloat16"
        ),
        ExportForm("merged-fp16", "Merged, fp16", "The same, finer rounding, for older GPUs and for GGUF.", "float16"),
        ExportForm("gguf", "For Ollama", "What llama.cpp and Ollama read, asked as in training.", "float16"),
    )
}


@dataclass(frozen=True)
class ExportState:
    """One form of one run at one moment. fraction: 0 .. 1 while it runs. folder: where the export is, once made."""

    form: ExportForm
    state: ExportStateName
    phase: str = ""
    fraction: float = 0.0
    message: str = ""
    hint: str = ""
    certificate: Certificate | None = None
    folder: Path | None = None
    bytes: int = 0


def export_folder(run: RunDir, form: str) -> Path:
    return run.exports_dir / form


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an export's zip into `folder`. Raises RunError, and unpacks nothing, if a name in it is a path."""
    with zipfile.ZipFile(archive) as opened:
        for name in opened.namelist():
            if name in ("", "..") or PurePosixPath(name).name != name:
                raise RunError(f"The zip holds '{name[:80]}', which is no plain file name.", "Export it again.")
        opened.extractall(folder)


def export_progress_path(run: RunDir, form: str) -> Path:
    return run.exports_dir / f"{form}.json"


def export_lock_path(run: RunDir, form: str) -> Path:
    return run.exports_dir / f"{form}.lock"


def certificate_path(run: RunDir, form: str) -> Path:
    return run.exports_dir / f"{form}.certificate.json"


def find_export_form(form: str) -> ExportForm:
    """The form of that name; raises RunError."""
    if form not in EXPORT_FORMS:
        raise RunError(f"'{form[:40]}' is no form of an export.", f"Choose one of {', '.join(EXPORT_FORMS)}.")
    return EXPORT_FORMS[form]


def read_export_state(run: RunDir, form: str) -> ExportState:
    """What is known of one export, from its files and its lock alone. Raises RunError for damaged files."""
    kind = find_export_form(form)
    said = _read_progress_file(export_progress_path(run, form))
    if is_lock_held(export_lock_path(run, form)):
        return ExportState(kind, "running", str(said.get("phase", "starting")), float(said.get("fraction", 0.0)))
    folder = export_folder(run, form)
    made = (folder / COMMIT_NAME).exists()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if made else 0
    where = folder if made else None
    if said.get("state") == "failed":
        message, hint = str(said.get("message", "")), str(said.get("hint", ""))
        return ExportState(kind, "failed", message=message, hint=hint, folder=where, bytes=size)
    if said.get("state") == "running":  # and nobody holds the lock
        hint = f"Its log is {run.exports_dir / f'{form}.log'}. Start it again."
        return ExportState(kind, "failed", message="The export ended without a word.", hint=hint, folder=where)
    if not made:
        return ExportState(kind, "none")
    if _is_outdated(run, folder):
        message = "It was made of an earlier adapter: the run has gone on since."
        return ExportState(kind, "failed", message=message, hint="Make it again.", folder=where, bytes=size)
    certificate = read_certificate(certificate_path(run, form))
    if certificate is None or certificate.commit != commit_hash(folder):
        return ExportState(kind, "unchecked", folder=where, bytes=size)
    return ExportState(kind, certificate.verdict, certificate=certificate, folder=where, bytes=size)


def _is_outdated(run: RunDir, folder: Path) -> bool:
    """Whether the run has another adapter by now; an export that does not say of which it was made has the doubt."""
    try:
        made_of, now = (
            json.loads((folder / COMMIT_NAME).read_bytes()).get(ADAPTER_HASH_KEY),
            commit_hash(run.adapter_dir),
        )
    except (OSError, ValueError, AttributeError):
        return False
    return made_of is not None and made_of != now


def read_push_state(run: RunDir, form: ExportForm) -> ExportState:
    """How far a push is: no folder of its own, no certificate; `passed` when it has arrived."""
    said = _read_progress_file(export_progress_path(run, form.key))
    if is_lock_held(export_lock_path(run, form.key)):
        return ExportState(form, "running", str(said.get("phase", "starting")), float(said.get("fraction", 0.0)))
    message, hint = str(said.get("message", "")), str(said.get("hint", ""))
    if said.get("state") == "running":
        message, hint = "The push ended without a word.", "Push again."
    states: dict[object, ExportStateName] = {None: "none", "made": "passed"}
    return ExportState(form, states.get(said.get("state"), "failed"), message=message, hint=hint)


def commit_hash(folder: Path) -> str:
    return sha256_hex((folder / COMMIT_NAME).read_bytes())


def write_export_progress(
    run: RunDir, form: str, state: str, phase: str, fraction: float, message: str = "", hint: str = ""
) -> None:
    """For the process that makes the export, and holds its lock."""
    body = {"schema": EXPORT_SCHEMA, "state": state, "phase": phase, "fraction": round(fraction, 3),
            "message": message, "hint": hint}  # fmt: skip
    durable_write(export_progress_path(run, form), json.dumps(body, ensure_ascii=False))


def _read_progress_file(path: Path) -> dict[str, Any]:
    try:
        body: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RunError(f"{path} can't be read: {error}.", "Delete it, then export again.") from error
    return body if isinstance(body, dict) else {}
