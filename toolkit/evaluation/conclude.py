"""An evaluation's answers put together: results.json and rows.parquet, from what was asked and said. No model needed.

Other rules for the same answers mean one more pass here, and no question asked again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from toolkit.evaluation.answers import Answer, Key, Probed, Recorded
from toolkit.evaluation.evaluation_dir import Evaluation, current_rules, read_spec
from toolkit.evaluation.questions import Question
from toolkit.evaluation.row_table import Array, ModelRows, answer_list, count_flips, outcomes, table, write_rows
from toolkit.evaluation.statistics import counting, scoring, verdict
from toolkit.evaluation.statistics.measures import BY_NAME, LOSS, MEASURES, Measure
from toolkit.evaluation.statistics.pass_rules import RuleSet, broken, titles
from toolkit.evaluation.statistics.results import Confusion, Figure, Flips, Results, RuleFigure, write_results

RULE = Measure("rule", "Rule", "Answers that keep the rule.")


def conclude(
    evaluation: Evaluation, asked: Sequence[Question], found: Recorded, models: Sequence[str], seconds: float
) -> Results:
    """Count, judge and write. Questions that some model was not asked (a stop) are left for another time.

    Raises OSError, ToolkitError.
    """
    spec, rules = read_spec(evaluation), current_rules(evaluation)
    there = [q for q in asked if all((model, q.position) in found.answers for model in models)]
    kind = scoring.kind_of([q.expected for q in there])
    parts = [_model_rows(model, there, found.answers, kind, rules) for model in models]
    results = Results(
        models=tuple(models), asked=len(asked), answered=len(there), complete=len(there) == len(asked), seconds=seconds,
        failures={part.name: dict(Counter(a.error for a in part.answers if a.error)) for part in parts},
        cut={part.name: sum(a.cut for a in part.answers) for part in parts},
        figures=tuple(_figures(parts, models, spec.seed)),
        fields=tuple(_fields(parts, there, kind, models, spec.seed)),
        confusion=_confusion(parts, there, kind),
        flips={part.name: count_flips(outcomes(parts[0], part)) for part in parts[1:]},
        flips_between=_flips_between(parts[1:]),
        rules=tuple(_rules(parts, rules, models, spec.seed)),
        probe=_probe(found.probed, models, spec.seed),
    )  # fmt: skip
    judged = verdict.judge(results, rules.gate)
    write_rows(evaluation.rows_path, table(there, parts))
    write_results(evaluation.results_path, judged)
    return judged


def _flips_between(parts: Sequence[ModelRows]) -> dict[str, dict[str, Flips]]:
    """reference -> adapter -> flips, for any two adapters."""
    if len(parts) < 2:
        return {}
    return {
        left.name: {right.name: count_flips(outcomes(left, right)) for right in parts if right is not left}
        for left in parts
    }


def _model_rows(
    model: str, there: Sequence[Question], answers: Mapping[Key, Answer], kind: scoring.Kind, rules: RuleSet
) -> ModelRows:
    said = answer_list(model, there, answers)
    scores = [scoring.score(a.text, q.expected, kind) for a, q in zip(said, there, strict=True)]
    names = {name for row in scores for name in row}
    columns = {name: np.array([row.get(name, np.nan) for row in scores], dtype=float) for name in sorted(names)}
    named = list(zip(titles(rules.rules), rules.rules, strict=True))
    against = [[name for name, rule in named if broken(rule, a.text) is not None] for a in said]
    return ModelRows(model, said, columns, against)


def _figures(parts: Sequence[ModelRows], models: Sequence[str], seed: int) -> list[Figure]:
    top, bottom = _loss(parts)
    columns = []
    for measure in MEASURES:
        if measure.name in (LOSS, "perplexity"):
            columns.append(counting.ratio_column(measure, top, bottom, exponential=measure.name == "perplexity"))
        elif any(measure.name in part.scores for part in parts):
            values = counting.stacked([part.scores for part in parts], measure.name, len(top))
            columns.append(counting.mean_column(measure, values))
    return counting.figures(columns, models, seed)


def _loss(parts: Sequence[ModelRows]) -> tuple[Array, Array]:
    """Nats and tokens of each row, [rows, models]; no tokens where a model has no loss."""
    known = [[a.nll is not None and a.loss_tokens > 0 for a in part.answers] for part in parts]
    top = np.array([[a.nll if a.nll is not None else np.nan for a in part.answers] for part in parts], dtype=float)
    bottom = np.array([[a.loss_tokens for a in part.answers] for part in parts], dtype=float)
    return top.T, (bottom * np.array(known)).T


def _fields(
    parts: Sequence[ModelRows], there: Sequence[Question], kind: scoring.Kind, models: Sequence[str], seed: int
) -> list[Figure]:
    rows = [
        [scoring.field_scores(a.text, q.expected, kind) for a, q in zip(part.answers, there, strict=True)]
        for part in parts
    ]
    columns = []
    for name in kind.field_names:
        values = np.array([[row.get(name, np.nan) for row in model] for model in rows], dtype=float).T
        columns.append(counting.mean_column(Measure(name, name, ""), values))
    return counting.figures(columns, models, seed)


def _confusion(parts: Sequence[ModelRows], there: Sequence[Question], kind: scoring.Kind) -> Confusion | None:
    if not kind.labels:
        return None
    counts: dict[str, tuple[tuple[int, ...], ...]] = {}
    columns = (*kind.labels, scoring.OTHER)
    for part in parts:
        pairs = Counter(
            (scoring.label_of(q.expected, kind), scoring.label_of(a.text, kind))
            for a, q in zip(part.answers, there, strict=True) if q.expected is not None
        )  # fmt: skip
        counts[part.name] = tuple(tuple(pairs[row, column] for column in columns) for row in kind.labels)
    return Confusion(labels=kind.labels, counts=counts)


def _rules(parts: Sequence[ModelRows], rules: RuleSet, models: Sequence[str], seed: int) -> list[RuleFigure]:
    found = []
    for name, rule in zip(titles(rules.rules), rules.rules, strict=True):
        kept = np.array([[name not in broken for broken in part.rules] for part in parts], dtype=float).T
        figure = counting.figures([counting.mean_column(RULE, kept)], models, seed)
        found.append(
            RuleFigure(
                title=name, at_least=rule.at_least, kept=figure[0].models if figure else {},
                fixed={m: int(((kept[:, i] > kept[:, 0])).sum()) for i, m in enumerate(models) if i},
                broke={m: int(((kept[:, i] < kept[:, 0])).sum()) for i, m in enumerate(models) if i},
            )
        )  # fmt: skip
    return found


def _probe(probed: Mapping[Key, Probed], models: Sequence[str], seed: int) -> Figure | None:
    passages = sorted({passage for _, passage in probed})
    whole = [p for p in passages if all((model, p) in probed for model in models)]
    if not whole:
        return None
    top = np.array([[probed[model, p].nll for model in models] for p in whole], dtype=float)
    bottom = np.array([[probed[model, p].tokens for model in models] for p in whole], dtype=float)
    found = counting.figures([counting.ratio_column(BY_NAME[LOSS], top, bottom)], models, seed)
    return found[0] if found else None
