"""Turning the questions and answers of an evaluation into results.json and rows.parquet.

It needs no model: after a change of the rules only this step runs again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set

import numpy as np

from toolkit.evaluation.answers import AnswerKey, EvaluationAnswer, ProbeAnswer, RecordedAnswers
from toolkit.evaluation.evaluation_dir import Evaluation, read_evaluation_rules, read_evaluation_spec
from toolkit.evaluation.questions import EvaluationQuestion
from toolkit.evaluation.row_table import (
    ModelRows,
    compute_outcomes,
    count_flips,
    make_row_table,
    order_answers,
    select_rows,
    write_row_table,
)
from toolkit.evaluation.rule_process import find_rule_violations
from toolkit.evaluation.seen_rows import find_seen_rows
from toolkit.evaluation.statistics import counting, scoring, verdict
from toolkit.evaluation.statistics.intervals import FloatArray
from toolkit.evaluation.statistics.measures import LOSS_MEASURE, MEASURES, MEASURES_BY_NAME, Measure
from toolkit.evaluation.statistics.pass_rules import RuleSet, unique_rule_titles
from toolkit.evaluation.statistics.results import (
    Confusion,
    EvaluationResults,
    Figure,
    FlipCounts,
    RuleFigure,
    write_evaluation_results,
)

RULE_MEASURE = Measure("rule", "Rule", "Answers that pass the rule.")


def conclude_evaluation(
    evaluation: Evaluation,
    questions: Sequence[EvaluationQuestion],
    recorded: RecordedAnswers,
    models: Sequence[str],
    seconds: float,
) -> EvaluationResults:
    """Score the answers, judge the models and write both files.

    models: base first. seconds: duration of this attempt. Questions that a stop left unanswered by any model do not
    count. Raises OSError, ToolkitError.
    """
    spec, rules = read_evaluation_spec(evaluation), read_evaluation_rules(evaluation)
    answered = [q for q in questions if all((model, q.position) in recorded.answers for model in models)]
    kind = scoring.detect_answer_kind([q.expected for q in answered])
    parts = [score_model_rows(model, answered, recorded.answers, kind, rules) for model in models]
    seen = find_seen_rows(answered, models, evaluation.run)
    excluded = exclude_seen_rows(answered, seen)
    clean = [not out for out in excluded]
    asked = [q for q, taken in zip(answered, clean, strict=True) if taken]
    figures = compute_results(asked, [select_rows(part, clean) for part in parts], kind, rules, spec.seed)
    results = figures.model_copy(
        update={
            "asked": len(questions),
            "answered": len(answered),
            "complete": len(answered) == len(questions),
            "seen": {model: len(positions) for model, positions in seen.items()},
            "excluded": sum(excluded),
            "seconds": seconds,
            "probe": _probe(recorded.probed, models, spec.seed),
        }
    )
    judged = verdict.judge_results(results, rules.gate)
    write_row_table(evaluation.rows_path, make_row_table(answered, parts, excluded))
    write_evaluation_results(evaluation.results_path, judged)
    return judged


def exclude_seen_rows(questions: Sequence[EvaluationQuestion], seen: Mapping[str, Set[int]]) -> list[bool]:
    """Return for each question whether any model has seen it; all False if that left nothing to compare."""
    positions = frozenset().union(*seen.values())
    excluded = [q.position in positions for q in questions]
    return [False] * len(questions) if all(excluded) else excluded


def compute_results(
    questions: Sequence[EvaluationQuestion],
    parts: Sequence[ModelRows],
    kind: scoring.AnswerKind,
    rules: RuleSet,
    seed: int,
) -> EvaluationResults:
    """Return the figures over these rows. parts: base first."""
    models = [part.name for part in parts]
    return EvaluationResults(
        models=tuple(models),
        asked=len(questions),
        answered=len(questions),
        complete=True,
        failures={part.name: dict(Counter(a.error for a in part.answers if a.error)) for part in parts},
        cut={part.name: sum(a.cut for a in part.answers) for part in parts},
        figures=tuple(_figures(parts, models, seed)),
        fields=tuple(_fields(parts, questions, kind, models, seed)),
        confusion=_confusion(parts, questions, kind),
        flips={part.name: count_flips(compute_outcomes(parts[0], part)) for part in parts[1:]},
        flips_between=_flips_between(parts[1:]),
        rules=tuple(_rules(parts, rules, models, seed)),
    )


def _flips_between(parts: Sequence[ModelRows]) -> dict[str, dict[str, FlipCounts]]:
    """reference -> adapter -> flips, for any two adapters."""
    if len(parts) < 2:
        return {}
    return {
        left.name: {right.name: count_flips(compute_outcomes(left, right)) for right in parts if right is not left}
        for left in parts
    }


def score_model_rows(
    model: str,
    questions: Sequence[EvaluationQuestion],
    answers: Mapping[AnswerKey, EvaluationAnswer],
    kind: scoring.AnswerKind,
    rules: RuleSet,
) -> ModelRows:
    """Return the answers of one model with every measure of each row."""
    ordered = order_answers(model, questions, answers)
    scores = [scoring.score_answer(a.text, q.expected, kind) for a, q in zip(ordered, questions, strict=True)]
    names = {name for row in scores for name in row}
    columns = {name: np.array([row.get(name, np.nan) for row in scores], dtype=float) for name in sorted(names)}
    titles = unique_rule_titles(rules.rules)
    reasons = find_rule_violations(rules.rules, [answer.text for answer in ordered])
    broken = [
        [title for title, of_rule in zip(titles, reasons, strict=True) if of_rule[row] is not None]
        for row in range(len(ordered))
    ]
    return ModelRows(model, ordered, columns, broken)


def _figures(parts: Sequence[ModelRows], models: Sequence[str], seed: int) -> list[Figure]:
    top, bottom = _loss(parts)
    columns = []
    for measure in MEASURES:
        if measure.name in (LOSS_MEASURE, "perplexity"):
            columns.append(counting.ratio_column(measure, top, bottom, exponential=measure.name == "perplexity"))
        elif any(measure.name in part.scores for part in parts):
            values = counting.stack_scores([part.scores for part in parts], measure.name, len(top))
            columns.append(counting.mean_column(measure, values))
    return counting.compute_figures(columns, models, seed)


def _loss(parts: Sequence[ModelRows]) -> tuple[FloatArray, FloatArray]:
    """Return nats and tokens, each [rows, models]; 0 tokens where a model has no loss."""
    known = [[a.nll is not None and a.loss_tokens > 0 for a in part.answers] for part in parts]
    top = np.array([[a.nll if a.nll is not None else np.nan for a in part.answers] for part in parts], dtype=float)
    bottom = np.array([[a.loss_tokens for a in part.answers] for part in parts], dtype=float)
    return top.T, (bottom * np.array(known)).T


def _fields(
    parts: Sequence[ModelRows],
    questions: Sequence[EvaluationQuestion],
    kind: scoring.AnswerKind,
    models: Sequence[str],
    seed: int,
) -> list[Figure]:
    rows = [
        [scoring.score_json_fields(a.text, q.expected, kind) for a, q in zip(part.answers, questions, strict=True)]
        for part in parts
    ]
    columns = []
    for name in kind.field_names:
        values = np.array([[row.get(name, np.nan) for row in model] for model in rows], dtype=float).T
        columns.append(counting.mean_column(Measure(name, name, ""), values))
    return counting.compute_figures(columns, models, seed)


def _confusion(
    parts: Sequence[ModelRows], questions: Sequence[EvaluationQuestion], kind: scoring.AnswerKind
) -> Confusion | None:
    if not kind.labels:
        return None
    counts: dict[str, tuple[tuple[int, ...], ...]] = {}
    columns = (*kind.labels, scoring.OTHER_LABEL)
    for part in parts:
        pairs = Counter(
            (scoring.match_answer_label(q.expected, kind), scoring.match_answer_label(a.text, kind))
            for a, q in zip(part.answers, questions, strict=True)
            if q.expected is not None
        )
        counts[part.name] = tuple(tuple(pairs[row, column] for column in columns) for row in kind.labels)
    return Confusion(labels=kind.label_names, counts=counts)


def _rules(parts: Sequence[ModelRows], rules: RuleSet, models: Sequence[str], seed: int) -> list[RuleFigure]:
    found = []
    for name, rule in zip(unique_rule_titles(rules.rules), rules.rules, strict=True):
        kept = np.array([[name not in broken for broken in part.rules] for part in parts], dtype=float).T
        figure = counting.compute_figures([counting.mean_column(RULE_MEASURE, kept)], models, seed)
        found.append(
            RuleFigure(
                title=name,
                at_least=rule.at_least,
                kept=figure[0].models if figure else {},
                fixed={m: int((kept[:, i] > kept[:, 0]).sum()) for i, m in enumerate(models) if i},
                broke={m: int((kept[:, i] < kept[:, 0]).sum()) for i, m in enumerate(models) if i},
            )
        )
    return found


def _probe(probed: Mapping[AnswerKey, ProbeAnswer], models: Sequence[str], seed: int) -> Figure | None:
    passages = sorted({passage for _, passage in probed})
    whole = [p for p in passages if all((model, p) in probed for model in models)]
    if not whole:
        return None
    top = np.array([[probed[model, p].nll for model in models] for p in whole], dtype=float)
    bottom = np.array([[probed[model, p].tokens for model in models] for p in whole], dtype=float)
    found = counting.compute_figures([counting.ratio_column(MEASURES_BY_NAME[LOSS_MEASURE], top, bottom)], models, seed)
    return found[0] if found else None
