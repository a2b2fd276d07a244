"""The events of a fine-tuning job: what its record says, then the events of its run in OpenAI's format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from toolkit.api.jobs.job_view import JobView
from toolkit.api.jobs.tuned_models import name_tuned_model
from toolkit.runs.events import Event, read_events

_ONCE_A_STEP = ("log", "eval", "saved")
"""Kinds of events that a resumed run repeats: the first one of each step counts, so that no event changes or goes."""


def list_job_events(view: JobView) -> list[dict[str, Any]]:
    """Return all events of a job, newest first."""
    return [*_list_record_events(view), *_list_run_events(view)][::-1]


def _list_record_events(view: JobView) -> Iterator[dict[str, Any]]:
    record = view.record
    files = f"training file: {record.asked.training_file}"
    if record.asked.validation_file:
        files += f" and validation file: {record.asked.validation_file}"
    told: list[tuple[float | None, str, str]] = [
        (record.created, "info", f"Created fine-tuning job: {record.id}"),
        (record.created, "info", f"Validating {files}"),
        *((record.checked, "warn", note) for note in record.notes),
    ]
    if record.refused is not None:
        told.append((record.checked, "error", record.refused.message))
    if record.cancelled is not None:
        told.append((record.cancelled, "info", "The job was cancelled before it was queued"))
    if record.run:
        told.append((record.checked, "info", "Files validated, moving job to queued state"))
    for number, (at, level, message) in enumerate(told):
        yield _make_event(view, f"job{number}", at or record.created, level, message)


def _list_run_events(view: JobView) -> Iterator[dict[str, Any]]:
    if view.run is None:
        return
    total, told = 0, set[tuple[str, Any]]()
    for event in read_events(view.run.events_path)[0]:
        kind = event["kind"]
        total = event.get("total_steps") or total
        describe = _DESCRIBED.get(kind)
        # warnings are repeated by every attempt too
        key = (kind, event.get("step") if kind in _ONCE_A_STEP else event.get("message", event["n"]))
        if describe is None or key in told:
            continue
        told.add(key)
        level, message, data = describe(view, event, total)
        yield _make_event(view, f"{event['n']:06d}", event["t"], level, message, data)


def _make_event(
    view: JobView, key: str, at: float, level: str, message: str, data: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "id": f"ftevent-{view.record.id.removeprefix('ftjob-')}-{key}",
        "object": "fine_tuning.job.event",
        "created_at": int(at),
        "level": level,
        "message": message,
        "type": "metrics" if data is not None else "message",
        "data": data or {},
    }


DescribedEvent = tuple[str, str, dict[str, Any] | None]
"""(level, message, metrics) of an event."""


def _started(view: JobView, event: Event, total: int) -> DescribedEvent:
    if event["attempt"] <= 1:
        return "info", "Fine-tuning job started", None
    return "info", f"Fine-tuning job resumed (attempt {event['attempt']})", None


def _metrics(view: JobView, event: Event, total: int) -> DescribedEvent:
    name, words, field = ("train_loss", "training loss", "loss")
    if event["kind"] == "eval":
        name, words, field = ("valid_loss", "validation loss", "eval_loss")
    step, value = event.get("step"), event.get(field)
    data = {"step": step, "total_steps": total, name: value}
    shown = f"{value:.2f}" if isinstance(value, int | float) else "unknown"
    return "info", f"Step {step}/{total}: {words}={shown}", data


def _saved(view: JobView, event: Event, total: int) -> DescribedEvent:
    return "info", f"Checkpoint created at step {event.get('step')}", None


def _warning(view: JobView, event: Event, total: int) -> DescribedEvent:
    return "warn", str(event.get("message", "")), None


def _interrupted(view: JobView, event: Event, total: int) -> DescribedEvent:
    return "warn", f"{event.get('message', '')} The job resumes from its last checkpoint.".strip(), None


def _failed(view: JobView, event: Event, total: int) -> DescribedEvent:
    return "error", f"{event.get('message', '')} {event.get('hint', '')}".strip(), None


def _stopped(view: JobView, event: Event, total: int) -> DescribedEvent:
    return "info", "The job was paused" if event.get("paused") else "The job was cancelled", None


def _requeued(view: JobView, event: Event, total: int) -> DescribedEvent:
    return "info", "The job was resumed", None


def _adapter(view: JobView, event: Event, total: int) -> DescribedEvent:
    name = name_tuned_model(view.run) if view.run is not None else ""
    return "info", f"New fine-tuned model created: {name}", None


def _finished(view: JobView, event: Event, total: int) -> DescribedEvent:
    return "info", "The job has successfully completed", None


_DESCRIBED: dict[str, Callable[[JobView, Event, int], DescribedEvent]] = {
    "started": _started, "log": _metrics, "eval": _metrics, "saved": _saved, "warning": _warning,
    "interrupted": _interrupted, "requeued": _requeued, "adapter": _adapter, "stopped": _stopped,
    "failed": _failed, "finished": _finished,
}  # fmt: skip
