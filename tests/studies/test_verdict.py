"""The verdict in words: what matters, what is noise, what is open, failures, equals, and the files for others."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from toolkit.evaluation.statistics.measures import MEASURES_BY_NAME
from toolkit.evaluation.statistics.scoring import detect_answer_kind, score_answer
from toolkit.field_types import StudyObjective
from toolkit.runs.run_dir import RunDir
from toolkit.runs.status import RunStatus
from toolkit.settings.form_layout import get_field_layout
from toolkit.studies.objectives import OBJECTIVES
from toolkit.studies.outcomes import Study, TrialOutcome
from toolkit.studies.question import AskedTrial, StudyQuestion
from toolkit.studies.report import format_study_html
from toolkit.studies.verdict import judge_study
from toolkit.studies.words import describe_verdict, find_leading_value, format_study_csv
from toolkit.system.printable import format_share

RATE, RANK = "training.training_args.learning_rate", "lora.r"
Chance = Callable[[dict[str, Any]], float]


def make_study(
    axes: dict[str, list[Any]], chance: Chance, *, seeds: int = 3, rows: int = 150, objective: str = "exact_match",
    failed: Sequence[int] = (), unfinished: Sequence[int] = (), noise: float = 0.03,
) -> Study:  # fmt: skip
    """A study whose trials answer each row correctly with this chance; rows that are hard are so for all of them."""
    random = np.random.default_rng(0)
    hardness = random.random(rows)
    outcomes = []
    trials = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    for at, (seed, settings) in enumerate((seed, settings) for seed in range(seeds) for settings in trials):
        asked = AskedTrial(settings, 42 + seed, f"{seed} {settings}")
        run = RunDir(Path(f"/runs/run-{at}"))
        if at in failed:
            status = RunStatus("failed", message="The GPU ran out of memory.", reason="out_of_memory")
            outcomes.append(TrialOutcome(asked, run, status))
        elif at in unfinished:
            outcomes.append(TrialOutcome(asked))
        elif objective == "eval_loss":
            loss = 1 - chance(settings) + random.normal(0, 0.004)
            outcomes.append(TrialOutcome(asked, run, RunStatus("finished"), {}, loss))
        else:
            right = hardness + random.normal(0, noise, rows) < chance(settings)
            scores = {(row, f"a{row}"): float(value) for row, value in enumerate(right)}
            outcomes.append(TrialOutcome(asked, run, RunStatus("finished"), scores, float(right.mean())))
    return Study(StudyQuestion("s", axes, tuple(one.asked for one in outcomes)), tuple(outcomes), objective)


def say(study: Study) -> str:
    return describe_verdict(study, judge_study(study))


def test_an_effect_and_a_null_are_told_apart_and_the_smaller_equal_is_recommended() -> None:
    study = make_study({RATE: [1e-3, 3e-3], RANK: [32, 8]}, lambda s: 0.55 if s[RATE] == 1e-3 else 0.85)
    text = say(study)
    assert "Learning rate matters: 0.003 instead of 0.001 gives +" in text
    assert "points exact match (95 % interval +" in text and "150 test rows, 3 seeds)" in text
    assert "LoRA rank (r) is within noise (" in text
    assert "Use Learning rate 0.003 and LoRA rank (r) 8, the smaller of two equals." in text
    assert "Expect " in text and "on new rows" in text
    verdict = judge_study(study)
    assert [one.verdict for one in verdict.findings] == ["matters", "noise"]
    assert verdict.score is not None and verdict.score.low < verdict.score.value < verdict.score.high


def test_every_measure_is_an_objective_with_a_direction_and_a_label() -> None:
    names = get_args(StudyObjective)
    assert set(names) == set(OBJECTIVES)
    # the loss of an evaluation is the test loss of a run
    assert set(names) >= set(MEASURES_BY_NAME) - {"loss"} and {"eval_loss", "pass_rules"} < set(names)
    words = get_field_layout("ablation.objective").words
    for name, objective in OBJECTIVES.items():
        assert ("lower is better" in words[name] or name == "length_ratio") == objective.lower, name
        measure = MEASURES_BY_NAME.get(name)
        if measure is not None and measure.better != "neither":
            assert objective.direction == measure.better
            assert (words[name].split(" (")[0], objective.title) == (measure.title, measure.title.lower())


SHARES = [name for name, one in OBJECTIVES.items() if one.is_share and name != "pass_rules"]


@pytest.mark.parametrize("name", SHARES)
def test_a_share_is_compared_in_points_and_more_is_better(name: str) -> None:
    measure = MEASURES_BY_NAME[name]
    kind = detect_answer_kind(['{"a": 1}'] * 4) if name.startswith("json") else detect_answer_kind(["yes", "no"] * 4)
    answer, other = ('{"a": 1}', '{"a": 2}') if kind.json else ("yes", "no")
    assert score_answer(answer, answer, kind)[name] == 1.0 >= score_answer(other, answer, kind)[name]
    study = make_study({RANK: [4, 8]}, lambda s: 0.9 if s[RANK] == 8 else 0.3, objective=name)
    assert f" points {measure.title.lower()} (95 % interval +" in say(study)


def cross(settings: dict[str, Any]) -> float:
    """Each setting's values are equal on average: the higher rate helps the small rank only."""
    return 0.8 if (settings[RATE] == 3e-3) == (settings[RANK] == 8) else 0.4


@pytest.mark.parametrize("objective", ["exact_match", "eval_loss"])
def test_settings_that_depend_on_each_other_are_named_and_recommended_together(objective: str) -> None:
    study = make_study({RATE: [1e-3, 3e-3], RANK: [8, 32]}, cross, seeds=5, objective=objective)
    text = say(study)
    assert "Learning rate and LoRA rank (r) depend on each other: 0.003 instead of 0.001 gives " in text
    expected = ("+3", "−3") if objective == "exact_match" else ("−0.", "+0.")
    assert f"gives {expected[0]}" in text and f" and {expected[1]}" in text
    assert "95 % interval of the difference " in text
    best = {one.path: one.recommended for one in judge_study(study).findings}
    assert best in ({RATE: 3e-3, RANK: 8}, {RATE: 1e-3, RANK: 32})
    assert [find_leading_value(one) for one in judge_study(study).findings] == list(best.values())
    assert "the smaller of" not in text and "Use Learning rate " in text and "Leading" not in text


def test_effects_that_add_up_are_no_interaction_and_their_importance_is_theirs() -> None:
    study = make_study(
        {RATE: [1e-3, 3e-3], RANK: [8, 32, 64], "lora.bias": ["none", "all"]},
        lambda s: 0.3 + 0.4 * (s[RATE] == 3e-3) + 0.1 * (s[RANK] == 32),
    )
    verdict = judge_study(study)
    assert verdict.interactions == () and "depend on each other" not in say(study)
    assert list(verdict.importance) == [RATE, RANK, "lora.bias"]
    assert verdict.importance[RATE] > 0.8 > 0.2 > verdict.importance[RANK] > verdict.importance["lora.bias"]
    assert sum(verdict.importance.values()) <= 1.0 + 1e-9


def test_an_interaction_that_is_smaller_than_both_effects_is_not_named() -> None:
    study = make_study(
        {RATE: [1e-3, 3e-3], RANK: [8, 32]},
        lambda s: 0.1 + 0.3 * (s[RATE] == 3e-3) + 0.3 * (s[RANK] == 32) + 0.1 * (s[RATE] == 3e-3 and s[RANK] == 32),
        seeds=5,
    )
    assert judge_study(study).interactions == ()


def test_chance_is_rarely_named_an_interaction() -> None:
    named = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        study = make_study({RATE: [1e-3, 3e-3], RANK: [8, 32]}, lambda s: 0.5, seeds=3, rows=60)
        outcomes = []
        for one in study.outcomes:
            scores = {row: float(random.random() < 0.5) for row in one.scores}
            outcomes.append(TrialOutcome(one.asked, one.run, one.status, scores, float(np.mean(list(scores.values())))))
        named += bool(judge_study(Study(study.question, tuple(outcomes))).interactions)
    assert named <= 3, "at most 5 %"


def test_too_few_trials_have_neither_interactions_nor_importance() -> None:
    study = make_study({RATE: [1e-3, 3e-3], RANK: [8, 32]}, cross, seeds=1, unfinished=(3,))
    assert judge_study(study).interactions == () and judge_study(study).importance == {}
    equal = make_study({RANK: [8, 32]}, lambda s: 1.1, seeds=3)
    assert judge_study(equal).importance == {}


def test_a_lower_loss_is_better_and_is_told_without_rows() -> None:
    study = make_study({RATE: [1e-3, 3e-3]}, lambda s: s[RATE] * 100, seeds=5, objective="eval_loss")
    text = say(study)
    assert "0.003 instead of 0.001 gives −0.2" in text and "test loss (95 % interval −0.2" in text
    assert "5 seeds)" in text and "rows" not in text
    assert "Use Learning rate 0.003." in text


def test_one_seed_can_not_tell_an_effect_from_chance() -> None:
    study = make_study({RANK: [4, 8]}, lambda s: 0.9 if s[RANK] == 8 else 0.4, seeds=1)
    text = say(study)
    assert "LoRA rank (r): too few runs to say" in text and "train at least 3 seeds" in text
    assert "Leading so far: LoRA rank (r) 8." in text and "Use" not in text
    assert find_leading_value(judge_study(study).findings[0]) == 8


def test_an_open_setting_says_how_many_seeds_would_tell() -> None:
    study = make_study({RANK: [4, 8]}, lambda s: 0.6, seeds=2, rows=60, noise=0.3)
    (finding,) = judge_study(study).findings
    assert finding.verdict == "open" and finding.seeds_needed is not None and finding.seeds_needed > 2
    assert f"about {finding.seeds_needed} seeds would tell" in say(study)


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ("exact_match", "; to tell, it takes more than 12 test rows, not more seeds, or test loss as the objective)"),
        ("eval_loss", "; even 50 seeds would not tell)"),
    ],
)
def test_an_open_setting_that_no_number_of_seeds_would_tell_says_what_would(objective: str, words: str) -> None:
    study = make_study({RANK: [4, 8]}, lambda s: 0.5 + 0.1 * (s[RANK] == 8), rows=12, objective=objective)
    if objective == "eval_loss":  # results that scatter more than they differ
        study = replace(
            study, outcomes=tuple(replace(one, value=float(at**2)) for at, one in enumerate(study.outcomes))
        )
    assert words in say(study)


def test_while_runs_are_missing_the_verdict_is_said_to_be_so_far() -> None:
    study = make_study({RANK: [4, 8]}, lambda s: 0.6, rows=40, unfinished=(4, 5), noise=0.3)
    assert "so far)" in say(study)


def test_a_failed_trial_is_counted_with_its_reason_and_its_pair_is_left_out() -> None:
    study = make_study({RATE: [1e-3, 3e-3], RANK: [8, 32]}, lambda s: 0.85 if s[RATE] == 3e-3 else 0.5, failed=(3,))
    text = say(study)
    assert "1 of 12 runs failed: The GPU ran out of memory." in text
    assert "Learning rate matters" in text


def test_without_results_nothing_is_claimed() -> None:
    study = make_study({RANK: [4, 8]}, lambda s: 0.5, seeds=1, failed=(0, 1))
    assert say(study) == "No trial has a result yet. 2 of 2 runs failed: The GPU ran out of memory."
    assert "No trial has a result yet." in format_study_html(study, judge_study(study))


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ("json_fields", "No finished trial has a value of correct json fields: .* for example exact match"),
        ("exact_match", "No finished trial has a value of exact match: .* for example test loss"),
        ("eval_loss", "No finished trial has a value of test loss: .* for example exact match"),
    ],
)
def test_an_objective_without_values_is_named_with_what_to_do(objective: str, words: str) -> None:
    study = make_study({RANK: [4, 8]}, lambda s: 0.5, seeds=1, objective=objective)
    study = replace(study, outcomes=tuple(replace(one, scores={}, value=None) for one in study.outcomes))
    assert re.match(words, say(study)), say(study)
    assert "Use" not in say(study) and "matters" not in say(study)


def test_the_reason_of_a_failure_ends_as_a_sentence() -> None:
    study = make_study({RANK: [4, 8]}, lambda s: 0.5, seeds=1, failed=(0,))
    status = RunStatus("failed", message="The worker ended: exit code 1", reason="crash")
    study = replace(study, outcomes=(replace(study.outcomes[0], status=status), *study.outcomes[1:]))
    assert "1 of 2 runs failed: The worker ended: exit code 1." in say(study)


def test_a_study_of_the_number_of_training_rows_says_what_more_would_add() -> None:
    sizes = [0.2, 0.4, 0.8]
    study = make_study({"data.train_size": sizes}, lambda s: 1 - 0.3 * s["data.train_size"] ** -0.5, rows=200)
    growth = judge_study(study).growth
    assert growth is not None and growth.low <= growth.gain <= growth.high
    assert abs(growth.gain - 0.3 * (0.8**-0.5 - 1.6**-0.5)) < 0.05
    assert "Doubling the training rows would add about +" in say(study)
    assert judge_study(make_study({"data.train_size": [0.4, 0.8]}, lambda s: 0.5)).growth is None
    assert judge_study(make_study({"data.train_size": [100, 0.4, 0.8]}, lambda s: 0.5)).growth is None


def test_of_three_values_the_best_is_named_and_the_smallest_equal_is_used() -> None:
    study = make_study({RANK: [4, 16, 8]}, lambda s: 0.4 if s[RANK] == 4 else 0.8, seeds=5)
    (finding,) = judge_study(study).findings
    assert finding.verdict == "matters" and finding.recommended == 8
    assert finding.shown is not None and finding.shown.worse == 4


def test_values_without_an_order_and_settings_of_one_value() -> None:
    study = make_study({"lora.bias": ["none", "all"], RANK: [8]}, lambda s: 0.7, seeds=5, rows=300)
    (finding,) = judge_study(study).findings
    assert finding.path == "lora.bias" and finding.verdict == "noise"
    assert "smaller" not in say(study)


def test_the_score_of_the_winner_is_not_the_one_that_chose_it() -> None:
    """Of many equal combinations the best looks better than it is; the honest score does not."""
    biased, honest = [], []
    for shift in range(40):
        study = make_study({RANK: [shift + value for value in range(1, 9)]}, lambda s: 0.5, seeds=1, rows=40)
        random = np.random.default_rng(shift)
        outcomes = []
        for one in study.outcomes:
            scores = {row: float(random.random() < 0.5) for row in one.scores}
            outcomes.append(TrialOutcome(one.asked, one.run, one.status, scores, float(np.mean(list(scores.values())))))
        verdict = judge_study(Study(study.question, tuple(outcomes)))
        assert verdict.score is not None
        honest.append(verdict.score.value)
        biased.append(max(one.value or 0.0 for one in outcomes))
    assert np.mean(biased) > 0.58
    assert abs(np.mean(honest) - 0.5) < 0.03


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "=cmd()", "a & b", "a\u202eb\x1b[2J"])
def test_the_files_hold_every_trial_and_no_markup_or_formula_of_a_name(name: str) -> None:
    study = make_study({"data.prompt": [name, "{message}"]}, lambda s: 0.5, seeds=2, failed=(1,))
    rows = list(csv.reader(io.StringIO(format_study_csv(study))))
    assert len(rows) == 5 and rows[0][1:3] == ["Seed", "State"]
    assert not any(cell.startswith("=") for row in rows for cell in row)
    assert rows[2][-1] == "The GPU ran out of memory."
    page = format_study_html(study, judge_study(study))
    assert "<script" not in page and "://" not in page and "<svg" in page
    assert page.count("<tr>") == 5 and "\u202e" not in page and "\x1b" not in page


def test_the_report_is_read_on_a_phone_and_says_a_share_in_percent() -> None:
    study = make_study({RANK: [8, 32]}, lambda s: 0.5, seeds=2)
    page = format_study_html(study, judge_study(study))
    assert '<meta name="viewport" content="width=device-width">' in page and 'viewBox="0 0 ' in page
    values = {one.value for one in study.outcomes if one.value is not None}
    assert all(f"<td>{format_share(value)}</td>" in page for value in values)
    assert "The intervals hold at every moment of looking" in page
