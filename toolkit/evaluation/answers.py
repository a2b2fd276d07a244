"""answers.jsonl: one line per answer, appended while an evaluation asks and read to continue it or to score it.

Kinds of line: "answer", "probe", and once "models" with a hash of each adapter.
"""

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
    """A model's answer to a question.

    position: of the question. tokens: of the answer. cut: whether the token limit ended it. error: why there is no
    answer, or "". nll: summed negative log-likelihood (nats) of the expected answer over `loss_tokens` tokens, None
    when it could not be computed.
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
    """The loss of a model on one passage of the forgetting probe. nll: nats, summed over `tokens`."""

    model: str
    passage: int
    nll: float
    tokens: int


@dataclass(frozen=True)
class RecordedAnswers:
    """All answers so far. identities: model -> hash of its adapter."""

    answers: Mapping[AnswerKey, EvaluationAnswer]
    probed: Mapping[AnswerKey, ProbeAnswer]
    identities: Mapping[str, str]


def read_recorded_answers(path: Path) -> RecordedAnswers:
    """Return the latest answer to each question. A damaged line counts as not answered."""
    answers: dict[AnswerKey, EvaluationAnswer] = {}
    probed: dict[AnswerKey, ProbeAnswer] = {}
    identities: dict[str, str] = {}
    for event in read_events(path)[0]:
        if event["kind"] == "answer":
            answer: EvaluationAnswer = _from_event(EvaluationAnswer, event)
            answers[answer.model, answer.position] = answer
        elif event["kind"] == "probe":
            probe: ProbeAnswer = _from_event(ProbeAnswer, event)
            probed[probe.model, probe.passage] = probe
        elif event["kind"] == "models":
            identities = dict(event["identities"])
    return RecordedAnswers(answers, probed, identities)


class AnswerLog:
    """Appends to answers.jsonl. Only the process that holds the evaluation's lock may open one."""

    def __init__(self, path: Path) -> None:
        self._writer = EventWriter(path)

    def record_identities(self, recorded: Mapping[str, str], present: Mapping[str, str]) -> None:
        """Record what each model is, as hashes by name.

        Raises RunError when one has changed since the first answers: old and new answers must not be mixed.
        """
        changed = [name for name, value in recorded.items() if present.get(name, value) != value]
        if changed:
            message = f"The adapter of run {changed[0]} has changed since the first answers."
            raise RunError(message, "Start a new evaluation.")
        if not recorded:
            self._writer.append("models", identities=dict(present))

    def write(self, answers: Iterable[EvaluationAnswer | ProbeAnswer]) -> None:
        """Append answers, one line each."""
        for answer in answers:
            self._writer.append("answer" if isinstance(answer, EvaluationAnswer) else "probe", **asdict(answer))

    def close(self) -> None:
        self._writer.close()


def _from_event(kind: Any, event: Mapping[str, Any]) -> Any:
    # fields that another version has written are dropped, those that it lacks keep their defaults
    return kind(**{field.name: event[field.name] for field in fields(kind) if field.name in event})
