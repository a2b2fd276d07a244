"""What trials are compared by: the score of each answer, run-wide figures, pass rules, and the words of each."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolkit.cli.study import read_objective_options
from toolkit.errors import ConfigError, ToolkitError
from toolkit.evaluation.predictions import Prediction
from toolkit.runs.run_dir import RunDir
from toolkit.runs.status import RunStatus
from toolkit.settings.draft import default_draft, replace_setting
from toolkit.studies.objectives import OBJECTIVES, read_run_value, score_rows
from toolkit.studies.outcomes import Study, TrialOutcome, fold_study
from toolkit.studies.plan import plan_study
from toolkit.studies.question import AskedTrial, StudyQuestion, ask_study
from toolkit.studies.report import format_study_html
from toolkit.studies.verdict import judge_study
from toolkit.studies.words import describe_objective, describe_verdict, tabulate_study

RANK = "lora.r"
RULES = [{"kind": "contains", "text": "Regards"}, {"kind": "length", "most": 12}, {"kind": "regex", "pattern": "^D"}]


def answer(row: int, expected: str, given: str) -> Prediction:
    return Prediction(row, f"prompt {row}", expected, "", given)


def make_study(objective: str, values: dict[int, float], *, by_row: bool, spread: float = 0.02) -> Study:
    """Trials of several ranks and three seeds, with these means."""
    random = np.random.default_rng(0)
    outcomes = []
    for seed in range(3):
        for rank, mean in values.items():
            asked = AskedTrial({RANK: rank}, seed, f"{seed} {rank}")
            scores = {(row, ""): mean * (1 + random.normal(0, spread)) for row in range(60)} if by_row else {}
            value = float(np.mean(list(scores.values()))) if by_row else mean * (1 + random.normal(0, 0.003))
            outcomes.append(
                TrialOutcome(asked, RunDir(Path(f"/r/{seed}-{rank}")), RunStatus("finished"), scores, value)
            )
    question = StudyQuestion("s", {RANK: list(values)}, tuple(one.asked for one in outcomes), objective=objective)
    return Study(question, tuple(outcomes), objective)


def test_answers_are_scored_by_each_objective() -> None:
    answers = [answer(1, "abcd", "ab"), answer(2, "ab", "ab"), answer(3, "", "abc")]
    assert score_rows(answers, "length_difference", "") == {(1, "abcd"): 2.0, (2, "ab"): 0.0, (3, ""): 3.0}
    # the distance from 1; without an expected answer there is no ratio
    assert score_rows(answers, "length_ratio", "") == {(1, "abcd"): 0.5, (2, "ab"): 0.0}
    assert score_rows(answers, "json_valid", "") == {}, "the expected answers are not JSON"
    objects = [answer(1, '{"a": 1}', '{"a": 2}'), answer(2, '{"a": 1}', "a"), answer(3, "{}", "{}")]
    assert list(score_rows(objects, "json_valid", "").values()) == [1.0, 0.0, 1.0]
    assert score_rows(objects, "json_fields", "") == {(1, '{"a": 1}'): 0.0, (2, '{"a": 1}'): 0.0}


@pytest.mark.parametrize("rules", [RULES, {"rules": RULES}])
def test_an_answer_passes_when_it_passes_every_rule(rules: Any) -> None:
    given = ["Dear Regards", "Dear", "A Regards", "D Regards, much too long"]
    answers = [answer(row, "", text) for row, text in enumerate(given)]
    assert list(score_rows(answers, "pass_rules", json.dumps(rules)).values()) == [1.0, 0.0, 0.0, 0.0]
    assert score_rows([], "pass_rules", json.dumps(rules)) == {}


def test_a_run_as_a_whole_has_a_loss_and_a_perplexity() -> None:
    status = RunStatus("finished", last={"eval_loss": 0.5})
    assert read_run_value(status, "eval_loss") == 0.5
    assert read_run_value(status, "perplexity") == pytest.approx(math.exp(0.5))
    assert read_run_value(RunStatus("finished", last={"eval_loss": 1e6}), "perplexity") == math.exp(700)
    assert read_run_value(RunStatus("finished"), "perplexity") is None
    assert read_run_value(status, "length_ratio") is None


@pytest.mark.parametrize("name", ["perplexity", "length_difference", "length_ratio", "eval_loss"])
def test_a_figure_of_which_less_is_better_ends_in_a_verdict(name: str) -> None:
    objective = OBJECTIVES[name]
    study = make_study(name, {4: 4.0, 8: 2.0}, by_row=objective.by_row)
    verdict = judge_study(study)
    said = describe_verdict(study, verdict)
    assert f"LoRA rank (r) matters: 8 instead of 4 gives −2{objective.unit} {objective.title} (" in said.replace(
        "−1.99", "−2"
    ).replace("−2.01", "−2")
    assert "Use LoRA rank (r) 8." in said and "%" not in said.replace("95 % interval", "")
    assert ("Expect " in said) == objective.by_row, "a score on other rows needs rows"
    if verdict.score is not None:
        assert 1.9 < verdict.score.low < 2.0 < verdict.score.high < 2.1 or verdict.score.value == pytest.approx(2, 0.02)
    assert describe_objective(study) == f"Objective: {objective.title}; lower is better."
    assert describe_objective(study) in format_study_html(study, verdict)
    assert tabulate_study(study)[0][objective.title.capitalize()] == study.outcomes[0].value


@pytest.mark.parametrize("name", ["perplexity", "length_difference", "length_ratio"])
def test_equal_figures_are_within_noise(name: str) -> None:
    study = make_study(name, {4: 2.0, 8: 2.0}, by_row=OBJECTIVES[name].by_row)
    assert judge_study(study).findings[0].verdict == "noise"
    exact = make_study(name, {4: 0.0, 8: 0.0}, by_row=OBJECTIVES[name].by_row)
    assert judge_study(exact).findings[0].verdict == "noise"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("label_accuracy", "the runs answered no test rows, or the expected answers are not a few labels. "),
        ("json_fields", "the runs answered no test rows, or the expected answers are not all JSON objects. "),
        ("token_f1", "the runs answered no test rows. "),
        ("perplexity", "the runs recorded no test loss. "),
    ],
)
def test_an_objective_without_a_value_says_why_and_names_another(name: str, reason: str) -> None:
    asked = AskedTrial({RANK: 4}, 0, "0")
    outcome = TrialOutcome(asked, RunDir(Path("/r/0")), RunStatus("finished"))
    study = Study(StudyQuestion("s", {RANK: [4, 8]}, (asked,)), (outcome,), name)
    said = describe_verdict(study, judge_study(study))
    assert f"No finished trial has a value of {OBJECTIVES[name].title}: {reason}Choose another objective" in said
    assert "for example exact match" in said


def plan(objective: str | None, rules: str | None) -> Any:
    draft = replace_setting(default_draft(), "ablation.use_ablate", True)
    draft = replace_setting(replace_setting(draft, "ablation.objective", objective), "ablation.pass_rules", rules)
    return plan_study(draft, {RANK: [4, 8]})


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (None, "there is no rule"),
        (" ", "there is no rule"),
        ("[]", "is empty"),
        ("[{", "The rules are not JSON"),
        ('[{"kind": "starts", "text": "a"}]', "The rules can't be used"),
        ('[{"kind": "regex", "pattern": "("}]', "the pattern is not valid"),
        ("3", "The rules can't be used"),
    ],
)
def test_rules_that_cannot_be_the_objective_are_named_before_start(rules: str | None, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan("pass_rules", rules)
    (problem,) = caught.value.problems
    assert problem.path == "ablation.pass_rules" and words in problem.message and problem.hint
    plan("exact_match", rules)  # the rules of another objective are kept, and have no effect


def test_the_rules_are_part_of_what_a_study_asks_and_retrain_nothing() -> None:
    found = plan("pass_rules", json.dumps(RULES))
    asked = ask_study("s", found.trials, ["x"] * len(found.trials))
    assert (asked.objective, asked.rules) == ("pass_rules", json.dumps(RULES))
    assert fold_study(asked, []).objective == "pass_rules"
    other = plan("chrf", None)
    contents = [one.content for one in ask_study("s", other.trials, ["x"] * len(other.trials)).trials]
    assert contents == [one.content for one in asked.trials]


def test_a_rules_file_on_the_command_line_is_the_objective(tmp_path: Path) -> None:
    path = tmp_path / "rules.yml"
    path.write_text("rules:\n  - {kind: contains, text: Regards}\n")
    options = read_objective_options(None, path)
    assert options["objective"] == "pass_rules"
    assert score_rows([answer(0, "", "Regards")], "pass_rules", str(options["pass_rules"])) == {(0, ""): 1.0}
    assert read_objective_options("chrf", None) == {"objective": "chrf"}
    path.write_text("rules:\n  - {kind: regex, pattern: '('}\n")
    with pytest.raises(ToolkitError, match="the pattern is not valid"):
        read_objective_options(None, path)
