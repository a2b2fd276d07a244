"""Answers as they come: one line each in answers.jsonl, read back by whoever goes on or counts. Knows no model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from toolkit.errors import RunError
from toolkit.runs.events import EventWriter, read_events

Key = tuple[str, int]
"""(model, position)"""


@dataclass(frozen=True)
class Answer:
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
class Probed:
    """The surprise of a model at one passage of the forgetting probe."""

    model: str
    passage: int
    nll: float
    tokens: int


@dataclass(frozen=True)
class Recorded:
    """All that was answered so far."""

    answers: Mapping[Key, Answer]
    probed: Mapping[Key, Probed]
    identities: Mapping[str, str]


def read_answers(path: Path) -> Recorded:
    """The last word on each question; damaged lines count as not answered."""
    answers: dict[Key, Answer] = {}
    probed: dict[Key, Probed] = {}
    identities: dict[str, str] = {}
    for event in read_events(path)[0]:
        if event["kind"] == "answer":
            answer: Answer = _made(Answer, event)
            answers[answer.model, answer.position] = answer
        elif event["kind"] == "probe":
            one: Probed = _made(Probed, event)
            probed[one.model, one.passage] = one
        elif event["kind"] == "models":
            identities = dict(event["identities"])
    return Recorded(answers, probed, identities)


class AnswerLog:
    """The one writer of answers.jsonl; goes on after what is there."""

    def __init__(self, path: Path) -> None:
        self._writer = EventWriter(path)

    def identify(self, known: Mapping[str, str], now: Mapping[str, str]) -> None:
        """Note what each model is. Raises RunError when one has changed since the first answers."""
        changed = [name for name, value in known.items() if now.get(name, value) != value]
        if changed:
            message = f"The adapter of run {changed[0]} has changed since the first answers."
            raise RunError(message, "Start a new evaluation.")
        if not known:
            self._writer.append("models", identities=dict(now))

    def write(self, made: Iterable[Answer | Probed]) -> None:
        for one in made:
            self._writer.append("answer" if isinstance(one, Answer) else "probe", **asdict(one))

    def close(self) -> None:
        self._writer.close()


def _made(kind: Any, event: Mapping[str, Any]) -> Any:
    return kind(**{field.name: event[field.name] for field in fields(kind) if field.name in event})
