"""What a study shows: for each varied setting whether it matters, by how much, and which value to use.

The interval of each comparison holds at every look, and for all values of a setting together: with k values, each of
the k (k - 1) / 2 comparisons may err at 5 % divided by their number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, Literal

import numpy as np

from toolkit.evaluation.statistics.data_growth import DataGrowth
from toolkit.evaluation.statistics.intervals import FloatArray
from toolkit.evaluation.statistics.paired_trials import (
    MIN_PAIRS,
    PairedDifference,
    RunNoise,
    compare_paired_trials,
    count_seeds_needed,
    estimate_run_noise,
)
from toolkit.studies.expectations import HonestScore, fit_growth, score_honestly
from toolkit.studies.interactions import Interaction, find_interactions, measure_importance
from toolkit.studies.outcomes import Study, TrialOutcome, has_value, index_finished_trials
from toolkit.system.printable import format_plural

AxisVerdict = Literal["matters", "noise", "open"]
ERROR_RATE = 0.05
"""Probability that a setting without effect is ever called one that matters."""
DECIDED_REASON = "The study was decided before this run started, and Stop when decided is on."


PRUNED_REASON = "Successive halving stopped this combination"
MIN_KEPT = 2
"""Combinations that successive halving keeps, so that there is something to compare."""
MAX_JUDGED_VALUES = 20
"""Values of a setting up to which each two are compared; of more, such as those of a range, the best is named."""
ENDED_STATES = ("finished", "failed")


@dataclass(frozen=True)
class ValueComparison:
    """Two values of a setting, the better one as `better`. difference: their paired difference, signed as measured."""

    better: Any
    worse: Any
    difference: PairedDifference
    seeds: int
    rows: int

    @property
    def is_decided(self) -> bool:
        """Whether the interval excludes zero."""
        return bool(self.difference.low > 0 or self.difference.high < 0)


@dataclass(frozen=True)
class AxisFinding:
    """A varied setting. means: objective by value, over matched trials. recommended: its best value, or the smallest of
    those that can't be told from the best.

    shown: the comparison that the verdict is told with. seeds_needed: seeds in total that would decide an open setting;
    None if more test rows are needed instead. is_joint: `recommended` was chosen together with that of another setting.
    is_searched: too many values to compare; `recommended` is that of the best combination so far.
    """

    path: str
    verdict: AxisVerdict
    values: tuple[Any, ...]
    means: tuple[float, ...]
    recommended: Any = None
    shown: ValueComparison | None = None
    seeds_needed: int | None = None
    is_tie: bool = False
    is_joint: bool = False
    is_searched: bool = False


@dataclass(frozen=True)
class StudyVerdict:
    """findings: in the order of the axes. growth: what more training rows would add, of a study of their number.

    interactions: pairs of settings whose effects depend on each other. importance: by setting, the share of the
    variation between trials that it explains.
    """

    findings: tuple[AxisFinding, ...]
    score: HonestScore | None = None
    growth: DataGrowth | None = None
    interactions: tuple[Interaction, ...] = ()
    importance: Mapping[str, float] = field(default_factory=dict)


def judge_study(study: Study) -> StudyVerdict:
    """Return what the finished trials show."""
    findings = judge_axes(study)
    axes = {one.path: one.values for one in findings if not one.is_searched}
    found = find_interactions(study, axes, ERROR_RATE, lower=study.measured.lower)
    joint = {path: value for one in found for path, value in zip((one.path, one.other), one.best, strict=True)}
    findings = tuple(
        replace(one, recommended=joint[one.path], is_tie=False, is_joint=True) if one.path in joint else one
        for one in findings
    )
    return StudyVerdict(findings, score_honestly(study), fit_growth(study), found, measure_importance(study, axes))


def judge_axes(study: Study) -> tuple[AxisFinding, ...]:
    """Return what the finished trials show of each varied setting on its own."""
    noise = _estimate_noise(study)
    return tuple(
        _judge_axis(study, path, values, noise)
        if len(values) <= MAX_JUDGED_VALUES
        else _find_best_of_many(study, path, values)
        for path, values in study.question.axes.items()
        if len(values) > 1
    )


def _estimate_noise(study: Study) -> RunNoise | None:
    """Return how much the results of runs vary by chance; None while hardly any run has one."""
    known = [(one.asked, one.value) for one in study.outcomes if one.value is not None]
    if len(known) <= MIN_PAIRS:
        return None
    settings = [[repr(asked.settings.get(path)) for path in study.question.axes] for asked, _ in known]
    results = np.array([value for _, value in known], dtype=float)
    return estimate_run_noise(results, settings, [asked.seed for asked, _ in known])


def is_study_decided(study: Study) -> bool:
    """Return whether the question is settled: each setting matters or is within noise."""
    findings = judge_axes(study)
    return bool(findings) and all(finding.verdict != "open" for finding in findings)


def stops_as_decided(study: Study) -> bool:
    """Return whether no further run of the study is to start, because its question is settled."""
    return study.question.stop_when_decided and is_study_decided(study)


def find_losing_trials(study: Study) -> dict[str, str]:
    """Return the trials that successive halving does not train, by content, with the reason for the table.

    When all combinations that are left have ended with a seed, the better half of them, by the mean over the seeds so
    far, is trained with the next seed. Which runs follow depends on results of earlier seeds alone, so the verdict
    stays valid. Source: K. Jamieson and A. Talwalkar, Non-stochastic best arm identification, 2016.
    """
    if not study.question.prune_losers or study.question.method == "tpe":
        return {}
    losing: dict[str, str] = {}
    left: dict[str, dict[int, TrialOutcome]] = {}
    for one in study.outcomes:
        left.setdefault(repr(sorted(one.asked.settings.items())), {})[one.asked.seed] = one
    seeds = study.question.seeds
    for at, seed in enumerate(seeds[:-1], start=1):
        if any(seed not in trials or trials[seed].state not in ENDED_STATES for trials in left.values()):
            break
        means = {key: _mean_over_seeds(trials, seeds[:at], lower=study.measured.lower) for key, trials in left.items()}
        ranked = sorted(left, key=lambda key: means[key], reverse=True)
        kept = max(MIN_KEPT, math.ceil(len(ranked) / 2))
        for place, key in enumerate(ranked[kept:], start=kept + 1):
            reason = f"{PRUNED_REASON}: place {place} of {len(ranked)} after {format_plural(at, 'seed')}."
            losing |= {one.asked.content: reason for one in left[key].values() if one.asked.seed not in seeds[:at]}
        left = {key: left[key] for key in ranked[:kept]}
    return losing


def is_pruned(message: str) -> bool:
    """Return whether a run was cancelled by successive halving, by the reason that is stored with it."""
    return message.startswith(PRUNED_REASON)


def _mean_over_seeds(trials: Mapping[int, TrialOutcome], seeds: Sequence[int], *, lower: bool) -> float:
    """Return the mean, negated if less is better; a combination that has failed with every seed comes last."""
    known = [trials[seed].value for seed in seeds if seed in trials]
    values = [value for value in known if value is not None]
    return float(np.mean(values)) * (-1 if lower else 1) if values else -math.inf


def _judge_axis(study: Study, path: str, values: Sequence[Any], noise: RunNoise | None) -> AxisFinding:
    alpha = ERROR_RATE / math.comb(len(values), 2)
    compared = [
        found
        for first, second in combinations(values, 2)
        if (found := _compare_values(study, path, (first, second), alpha, noise)) is not None
    ]
    means = tuple(_mean_of_value(study, path, value) for value in values)
    if not compared:
        return AxisFinding(path, "open", tuple(values), means, seeds_needed=MIN_PAIRS)
    decided = [one for one in compared if one.is_decided]
    best = _find_best(values, means, study.measured.lower)
    rivals = [one for one in compared if not one.is_decided and _same(one.better, best, one.worse)]
    equals = [best, *(_other(one, best) for one in rivals)]
    recommended = min(equals, key=_size_of) if all(isinstance(v, bool | int | float) for v in equals) else equals[0]
    limit = study.measured.find_limit(float(np.nanmean(means)))
    wide = [one for one in compared if not one.is_decided and float(one.difference.half_width) > limit]
    verdict: AxisVerdict = "matters" if decided else "open" if wide else "noise"
    needed = [count_seeds_needed(one.difference, one.seeds, limit) for one in wide]
    return AxisFinding(
        path,
        verdict,
        tuple(values),
        means,
        recommended,
        _choose_shown(decided or compared, best),
        None if any(one is None for one in needed) else max((one or 0 for one in needed), default=0) or None,
        is_tie=len(equals) > 1 and verdict != "open",
    )


def _find_best_of_many(study: Study, path: str, values: Sequence[Any]) -> AxisFinding:
    """Return the value of the best combination of a setting whose values are too many to compare each two."""
    found: dict[str, list[float]] = {}
    value_of = {}
    for one in study.outcomes:
        if one.value is not None:
            key = repr(sorted(one.asked.settings.items()))
            found.setdefault(key, []).append(one.value)
            value_of[key] = one.asked.settings.get(path)
    best = (min if study.measured.lower else max)(found, key=lambda key: float(np.mean(found[key])), default=None)
    means = tuple(_mean_of_value(study, path, value) for value in values)
    return AxisFinding(path, "open", tuple(values), means, None if best is None else value_of[best], is_searched=True)


def _choose_shown(compared: Sequence[ValueComparison], best: Any) -> ValueComparison:
    """Return the largest difference, with the best value if there is one."""
    with_best = [one for one in compared if repr(one.better) == repr(best)]
    return max(with_best or compared, key=lambda one: abs(float(one.difference.value)))


def _same(first: Any, wanted: Any, second: Any) -> bool:
    return repr(wanted) in (repr(first), repr(second))


def _other(one: ValueComparison, value: Any) -> Any:
    return one.worse if repr(one.better) == repr(value) else one.better


def _size_of(value: float | bool) -> float:
    return float(value)


def _find_best(values: Sequence[Any], means: Sequence[float], lower: bool) -> Any:
    known = [(mean if lower else -mean, at) for at, mean in enumerate(means) if not math.isnan(mean)]
    return values[min(known)[1]] if known else values[0]


def _mean_of_value(study: Study, path: str, value: Any) -> float:
    found = [one.value for one in study.outcomes if one.value is not None and has_value(one, path, value)]
    return float(np.mean(found)) if found else math.nan


def _compare_values(
    study: Study, path: str, values: tuple[Any, Any], alpha: float, noise: RunNoise | None
) -> ValueComparison | None:
    """Compare two values over the trials that differ in nothing else; None while there is no such pair."""
    first, second = values
    one, other = (index_finished_trials(study, path, value) for value in (first, second))
    blocks = sorted(set(one) & set(other))
    if not blocks:
        return None
    pairs = [(one[block], other[block]) for block in blocks]
    # a loss has no rows, and the answers of a run may have been deleted: the runs alone are compared then
    use_rows = all(trial.scores for pair in pairs for trial in pair)
    left, right = _stack_scores(pairs, use_rows=use_rows)
    if not left.shape[1]:
        return None
    seeds, others = zip(*blocks, strict=True)
    is_share = use_rows and study.measured.is_share
    found = compare_paired_trials(left, right, seeds, others, alpha, share=is_share, noise=noise)
    second_is_better = (float(found.value) > 0) != study.measured.lower
    better, worse = (second, first) if second_is_better else (first, second)
    return ValueComparison(better, worse, found, len(set(seeds)), left.shape[1])


def _stack_scores(
    pairs: Sequence[tuple[TrialOutcome, TrialOutcome]], *, use_rows: bool
) -> tuple[FloatArray, FloatArray]:
    """Return both sides as [pairs, rows], over the rows that every trial has answered; one column for a loss."""
    if not use_rows:
        sides = [[[trial.value] for trial in side] for side in zip(*pairs, strict=True)]
        return np.array(sides[0], dtype=float), np.array(sides[1], dtype=float)
    shared = set.intersection(*(set(trial.scores) for pair in pairs for trial in pair))
    rows = sorted(shared)
    first, second = (
        np.array([[trial.scores[row] for row in rows] for trial in side], dtype=float).reshape(len(pairs), len(rows))
        for side in zip(*pairs, strict=True)
    )
    return first, second
