"""Ranges of numbers in place of listed values: what they stand for, where they may be, and what the verdict says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.studies.test_verdict import make_study, say
from toolkit.errors import ConfigError
from toolkit.settings.ablation import check_value_grid, merge_grid, pick_first_value, split_grid
from toolkit.settings.draft import default_draft, get_setting, replace_setting
from toolkit.settings.field_spec import field_specs_by_path
from toolkit.settings.typed_text import RANGE_VALUES, expand_value_range, format_several_values, parse_several_values
from toolkit.studies.methods.tpe import TriedCombination, propose_combination
from toolkit.studies.plan import StudyPlan, plan_study
from toolkit.studies.question import ask_study, describe_axes, find_question_conflict
from toolkit.studies.report import format_study_html
from toolkit.studies.verdict import judge_study
from toolkit.studies.words import find_leading_value

RATE, RANK, TRAIN = "training.training_args.learning_rate", "lora.r", "data.train_size"
SPECS = field_specs_by_path()
LOG = "1e-5..1e-3 log"


def make_draft(method: str | None = "tpe", trials: int | None = 8) -> dict[str, Any]:
    draft = replace_setting(default_draft(), "ablation.use_ablate", True)
    draft = replace_setting(draft, "ablation.study_name", "rates")
    return replace_setting(replace_setting(draft, "ablation.method", method), "ablation.trials", trials)


def plan(grid: dict[str, list[Any]], method: str = "tpe") -> StudyPlan:
    return plan_study(make_draft(method), grid)


def test_a_log_range_has_even_ratios_and_both_ends() -> None:
    values = expand_value_range(SPECS[RATE], LOG)
    assert len(values) == RANGE_VALUES and (values[0], values[-1]) == (1e-5, 1e-3)
    ratios = np.divide(values[1:], values[:-1])
    assert ratios.min() > 1.11 and ratios.max() < 1.14, "rounded to three digits"
    assert values[20] == pytest.approx(1e-4)


def test_a_range_of_whole_numbers_has_each_of_them_or_evenly_spaced_ones() -> None:
    assert expand_value_range(SPECS[RANK], "4..8") == [4, 5, 6, 7, 8]
    many = expand_value_range(SPECS[RANK], "1..1024 log")
    assert all(isinstance(value, int) for value in many) and many == sorted(set(many))
    assert (many[0], many[-1]) == (1, 1024) and 20 < len(many) <= RANGE_VALUES
    shares = expand_value_range(SPECS[TRAIN], "10%..0.5")
    assert (shares[0], shares[-1], len(shares)) == (0.1, 0.5, RANGE_VALUES)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1e-3..1e-5", "smaller than its second"),
        ("0..1 log", "above 0"),
        ("a..b", "two numbers"),
        ("..", "two numbers"),
        ("1..2..3", "two numbers"),
        ("1e-5..1e-3 cubic", "two numbers"),
    ],
)
def test_a_wrong_range_is_named_with_what_is_wrong(text: str, words: str) -> None:
    (problem,) = check_value_grid(make_draft(), {RATE: [text]})
    assert problem.path == RATE and problem.severity == "error"
    assert words in problem.message and text in problem.message
    with pytest.raises(ConfigError):
        plan_study(make_draft(), {RATE: [text]})


def test_a_grid_refuses_a_range_with_a_remedy_and_the_schema_checks_its_values() -> None:
    (problem,) = check_value_grid(make_draft("grid", None), {RATE: [LOG]})
    assert "A grid trains every listed value" in problem.message and "Random or TPE" in problem.hint
    found = check_value_grid(make_draft(), {RANK: ["0..4"]})
    assert [one.path for one in found if one.severity == "error"] == [RANK], "0 is no rank"


@pytest.mark.parametrize("typed", [LOG, "1e-5 .. 1e-3 log", " 1e-5..1e-3   log "])
def test_a_range_is_typed_on_the_form_and_shown_again(typed: str) -> None:
    values = parse_several_values(SPECS[RATE], typed)
    assert len(values) == 1 and expand_value_range(SPECS[RATE], values[0])[-1] == 1e-3
    shown = format_several_values(SPECS[RATE], values)
    assert parse_several_values(SPECS[RATE], shown) == values
    assert parse_several_values(SPECS[RATE], f"{typed}, 0.5") == [*values, 0.5]
    assert parse_several_values(SPECS[RANK], "4 8,16; 4..6") == [4, 8, 16, "4..6"]
    assert pick_first_value(RATE, values) == 1e-5 and pick_first_value(RATE, [0.5]) == 0.5


@pytest.mark.parametrize("written", [LOG, [LOG], [1e-5, 1e-3]])
def test_a_file_may_hold_a_range_or_the_list_of_the_original(written: Any) -> None:
    raw = {
        "training": {"training_args": {"learning_rate": written}},
        "ablation": {"use_ablate": True, "method": "tpe", "study_name": "rates"},
    }
    draft, grid = split_grid(yaml.safe_load(yaml.safe_dump(raw)))
    assert get_setting(draft, RATE) == 1e-5, "a single run would use a number"
    assert grid == {RATE: [LOG] if written != [1e-5, 1e-3] else [1e-5, 1e-3]}
    assert split_grid(yaml.safe_load(yaml.safe_dump(merge_grid(draft, grid)))) == (draft, grid)
    assert plan_study(draft, grid).trials


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_trials_are_drawn_from_the_range_and_the_study_goes_on_under_its_name(method: str) -> None:
    grid = {RATE: [LOG], RANK: [4, 8]}
    found = plan(grid, method)
    assert len(found.trials) == (8 if method == "random" else 4) and found.later == 8 - len(found.trials)
    values = expand_value_range(SPECS[RATE], LOG)
    assert {one.settings[RATE] for one in found.trials} <= set(values)
    asked = ask_study("rates", found.trials, ["x"] * len(found.trials), make_draft(method), grid)
    assert asked.axes == {RATE: values, RANK: [4, 8]}
    assert describe_axes(asked.axes) == "Learning rate 1e-5 to 0.001 (41 values); LoRA rank (r) 4, 8"
    again = ask_study("rates", found.trials, ["x"] * len(found.trials), make_draft(method), grid)
    assert find_question_conflict(asked, again) is None
    other = ask_study(
        "rates", found.trials, ["x"] * len(found.trials), make_draft(method), {**grid, RATE: ["1e-5..1e-2 log"]}
    )
    conflict = find_question_conflict(asked, other)
    assert conflict is not None and "1e-5 to 0.001 (41 values)" in conflict.message


def test_tpe_looks_where_the_good_values_of_a_range_are(tmp_path: Path) -> None:
    axes = {RATE: expand_value_range(SPECS[RATE], LOG)}
    tried = [TriedCombination({RATE: value}, abs(float(np.log10(value)) + 4)) for value in axes[RATE][::4]]
    proposed = []
    for _ in range(6):
        taken = {repr(one.settings) for one in tried}
        found = propose_combination(axes, tried, taken, lower=True, name="s", folder=tmp_path)
        assert found is not None
        proposed.append(found[RATE])
        tried.append(TriedCombination(found, abs(float(np.log10(found[RATE])) + 4)))
    assert len(set(proposed)) == 6
    assert sorted(abs(float(np.log10(value)) + 4) for value in proposed)[2] < 0.3, "near 1e-4"


def test_the_verdict_names_the_best_value_of_a_range_and_judges_the_other_settings() -> None:
    values = expand_value_range(SPECS[RATE], LOG)
    best = values[30]
    study = make_study(
        {RATE: values, RANK: [4, 8]},
        lambda s: (0.9 if s[RATE] == best else 0.5) - 0.3 * (s[RANK] == 4),
        seeds=1,
        rows=40,
    )
    text = say(study)
    assert "Learning rate: the best combination so far has 3.16e-4; its 41 values from 1e-5 to 0.001 are" in text
    assert "LoRA rank (r) matters: 8 instead of 4" in text and "Leading so far: Learning rate 3.16e-4." in text
    verdict = judge_study(study)
    assert find_leading_value(verdict.findings[0]) == best
    assert format_study_html(study, verdict).count("<svg") == 2
