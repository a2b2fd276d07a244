"""Answers as they come: one line each in answers.jsonl, read back by whoever goes on or counts. Knows no model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from toolkit.errors import RunError
from toolkit.runs.events import EventWriter, read_events

AnswerKey = tuple[str, int]
"""(model, position)"""


@dataclass(frozen=True)
class EvaluationAnswer:
    """What a model said to a question. error: why there is no answer, or "". cut: it ran into the token limit.

    nll: the summed surprise (nats) at the expected answer over `loss_tokens` tokens; None when it could not be had.
    """

    model: str
    position: int
    text: str = ""
    tokens: int = 0
    cut: bool = False
    error: str = ""
    nll: float | None = None
    loss_tokens: int = 0


@dataclass(frozen=True)
class ProbeAnswer:
    """The surprise of a model at one passage of the forgetting probe."""

    model: str
    passage: int
    nll: float
    tokens: int


@dataclass(frozen=True)
class RecordedAnswers:
    """All that was answered so far."""

    answers: Mapping[AnswerKey, EvaluationAnswer]
    probed: Mapping[AnswerKey, ProbeAnswer]
    identities: Mapping[str, str]


def read_recorded_answers(path: Path) -> RecordedAnswers:
    """The last word on each question; damaged lines count as not answered."""
    answers: dict[AnswerKey, EvaluationAnswer] = {}
    probed: dict[AnswerKey, ProbeAnswer] = {}
    identities: dict[str, str] = {}
    for event in read_events(path)[0]:
        if event["kind"] == "answer":
            answer: EvaluationAnswer = _from_event(EvaluationAnswer, event)
            answers[answer.model, answer.position] = answer
        elif event["kind"] == "probe":
            one: ProbeAnswer = _from_event(ProbeAnswer, event)
            probed[one.model, one.passage] = one
        elif event["kind"] == "models":
            identities = dict(event["identities"])
    return RecordedAnswers(answers, probed, identities)


class AnswerLog:
    """The one writer of answers.jsonl; goes on after what is there."""

    def __init__(self, path: Path) -> None:
        self._writer = EventWriter(path)

    def record_identities(self, known: Mapping[str, str], now: Mapping[str, str]) -> None:
        """Note what each model is. Raises RunError when one has changed since the first answers."""
        changed = [name for name, value in known.items() if now.get(name, value) != value]
        if changed:
            message = f"The adapter of run {changed[0]} has changed since the first answers."
            raise RunError(message, "Start a new evaluation.")
        if not known:
            self._writer.append("models", identities=dict(now))

    def write(self, made: Iterable[EvaluationAnswer | ProbeAnswer]) -> None:
        for one in made:
            self._writer.append("answer" if isinstance(one, EvaluationAnswer) else "probe", **asdict(one))

    def close(self) -> None:
        self._writer.close()


def _from_event(kind: Any, event: Mapping[str, Any]) -> Any:
    return kind(**{field.name: event[field.name] for field in fields(kind) if field.name in event})
