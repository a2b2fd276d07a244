"""Two runs compared over the test rows that both answered at their end, with the figures and words of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

from toolkit.evaluation.answers import EvaluationAnswer
from toolkit.evaluation.conclude import compute_results, exclude_seen_rows, score_model_rows
from toolkit.evaluation.predictions import Prediction, read_predictions
from toolkit.evaluation.questions import EvaluationQuestion
from toolkit.evaluation.seen_rows import find_seen_rows
from toolkit.evaluation.statistics.pass_rules import RuleSet
from toolkit.evaluation.statistics.results import EvaluationResults
from toolkit.evaluation.statistics.scoring import detect_answer_kind
from toolkit.evaluation.statistics.text import is_exact_match
from toolkit.evaluation.statistics.verdict import describe_comparison, judge_results
from toolkit.runs.model_names import BASE
from toolkit.runs.run_dir import RunDir

Pair = tuple[Prediction, Prediction]


@dataclass(frozen=True)
class ChangedRow:
    """A row that one of the runs answers correctly and the other one does not."""

    prompt: str
    expected: str
    first: str
    second: str


@dataclass(frozen=True)
class RunComparison:
    """results: of base model, first and second run, by their ids. sentences: on the second run against the first.

    missing: the runs that have no recorded answers.
    """

    results: EvaluationResults | None = None
    sentences: tuple[str, ...] = ()
    changed: tuple[ChangedRow, ...] = ()
    missing: tuple[RunDir, ...] = ()


def compare_two_runs(first: RunDir, second: RunDir, names: tuple[str, str]) -> RunComparison:
    """Compare the answers of two runs, paired by row and expected answer. names: of the runs, in words.

    The intervals are over the rows: what other training seeds would change is not in them. Rows that one of the runs
    was trained on are excluded. Raises ToolkitError if the files of a run can't be read.
    """
    answers = {run: {(one.row, one.expected): one for one in read_predictions(run)} for run in (first, second)}
    missing = tuple(run for run, found in answers.items() if not found)
    shared = sorted(set(answers[first]) & set(answers[second]))
    if not shared:
        return RunComparison(missing=missing)
    pairs = [(answers[first][row], answers[second][row]) for row in shared]
    questions = [EvaluationQuestion(at, one.row, one.prompt, one.expected) for at, (one, _) in enumerate(pairs)]
    # the runs may use different templates, so each row is looked for as either of them asked it
    also = [EvaluationQuestion(at, one.row, one.prompt, one.expected) for at, (_, one) in enumerate(pairs)]
    seen = find_seen_rows([*questions, *also], [first.id, second.id], first)
    clean = [not out for out in exclude_seen_rows(questions, seen)]
    kept = list(compress(pairs, clean))
    figures = _compute_results(first, second, kept)
    counts = {"asked": len(pairs), "answered": len(pairs), "excluded": len(pairs) - len(kept)}
    known = {model: len(positions) for model, positions in seen.items()}
    results = judge_results(figures.model_copy(update={**counts, "seen": known}), None)
    sentences = describe_comparison(results, second.id, first.id, (names[0], names[0]))
    return RunComparison(results, sentences, _list_changed_rows(kept))


def _compute_results(first: RunDir, second: RunDir, pairs: Sequence[Pair]) -> EvaluationResults:
    questions = [EvaluationQuestion(at, one.row, one.prompt, one.expected) for at, (one, _) in enumerate(pairs)]
    texts = {
        BASE: [one.base for one, _ in pairs],
        first.id: [one.adapter for one, _ in pairs],
        second.id: [other.adapter for _, other in pairs],
    }
    kind = detect_answer_kind([question.expected for question in questions])
    given = {(name, at): EvaluationAnswer(name, at, text) for name, own in texts.items() for at, text in enumerate(own)}
    parts = [score_model_rows(name, questions, given, kind, RuleSet()) for name in texts]
    return compute_results(questions, parts, kind, RuleSet(), seed=0)


def _list_changed_rows(pairs: Sequence[Pair]) -> tuple[ChangedRow, ...]:
    return tuple(
        ChangedRow(one.prompt, one.expected, one.adapter, other.adapter)
        for one, other in pairs
        if is_exact_match(one.adapter, one.expected) != is_exact_match(other.adapter, one.expected)
    )
