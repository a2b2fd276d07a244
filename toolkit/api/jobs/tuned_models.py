"""The names of models in the API: `ft:BASE:ORG:SUFFIX:ID`, and `...:ckpt-step-N` for a checkpoint.

ID is the id of the run, and it alone decides: the other parts are labels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from toolkit.errors import ToolkitError
from toolkit.runs.checkpoints import list_kept_checkpoints
from toolkit.runs.model_names import AdapterReference
from toolkit.runs.run_dir import RunDir, list_runs, open_run, read_run_config, read_run_meta
from toolkit.runs.status import read_run_status
from toolkit.worker.serving.request_models import RequestError

ORGANIZATION = "local"
_TUNED = re.compile(r"ft:[^:]*:[^:]*:[^:]*:(?P<run>[a-z0-9-]{1,40})(:ckpt-step-(?P<step>\d{1,12}))?")


@dataclass(frozen=True)
class _ModelLabels:
    """base: the base model in the settings of a run. suffix: its name, as a part of a model's name."""

    base: str
    suffix: str


def name_tuned_model(run: RunDir, step: int | None = None) -> str:
    """Return the name of a run's model, or of its checkpoint at a step. Raises ToolkitError: it can't be read."""
    labels = _read_labels(run.path)
    base = _make_label(re.split(r"[/:\\]", labels.base.rstrip("/"))[-1], keep="._")
    checkpoint = "" if step is None else f":ckpt-step-{step}"
    return f"ft:{base}:{ORGANIZATION}:{labels.suffix}:{run.id}{checkpoint}"


def base_model_of(run: RunDir) -> str:
    """Return the base model in the settings of a run. Raises ToolkitError: they can't be read."""
    return _read_labels(run.path).base


@lru_cache(maxsize=20_000)
def _read_labels(folder: Path) -> _ModelLabels:
    """Return what names a run's model; it does not change while the run exists."""
    run = RunDir(folder)
    name = str(read_run_meta(run).get("name") or "")
    return _ModelLabels(str(read_run_config(run).model.hf_model_ckpt), _make_label(name.lower())[:64].strip("-"))


def _make_label(text: str, keep: str = "") -> str:
    return re.sub(rf"[^A-Za-z0-9{re.escape(keep)}]+", "-", text).strip("-")


def find_tuned_model(save_dir: Path, name: str) -> AdapterReference | None:
    """Return the weights that a name stands for; None if it is no name of a fine-tuned model.

    Raises RequestError (404): there is no such run or checkpoint, or it has no adapter yet.
    """
    found = _TUNED.fullmatch(name)
    if found is None:
        if name.startswith("ft:"):
            raise no_such_model(name)
        return None
    try:
        run = open_run(save_dir, found["run"])
        if found["step"] is None and read_run_status(run).adapter_ready:
            return AdapterReference(run.id)
        if found["step"] is not None and int(found["step"]) in list_kept_checkpoints(run):
            return AdapterReference(run.id, int(found["step"]))
    except ToolkitError as error:
        raise no_such_model(name) from error
    raise no_such_model(name)


def no_such_model(name: str) -> RequestError:
    """Return the error for a model that there is not."""
    message = f"The model '{name[:120]}' does not exist."
    hint = "List the models with GET /v1/models."
    return RequestError(message, hint, status=404, code="model_not_found", param="model")


def list_tuned_runs(save_dir: Path) -> list[RunDir]:
    """Return the runs that have an adapter, newest first. Those that can't be read are left out."""
    return [run for run in list_runs(save_dir) if _has_model(run)]


def _has_model(run: RunDir) -> bool:
    try:
        _read_labels(run.path)
        return read_run_status(run).adapter_ready
    except ToolkitError:
        return False


def describe_model(name: str, created: float) -> dict[str, object]:
    """Return a model object of OpenAI's API. created: Unix seconds."""
    return {"id": name, "object": "model", "created": int(created), "owned_by": ORGANIZATION}
