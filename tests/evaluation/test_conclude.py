"""Results from given answers: exact counts of flips, noise, rules and the gate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.planted import known_flips, make_run, plant, two_adapters
from tests.export.test_parity_certificate import contract
from toolkit.evaluation import evaluation_dir
from toolkit.evaluation.answers import AnswerLog, EvaluationAnswer, read_recorded_answers
from toolkit.evaluation.conclude import conclude_evaluation
from toolkit.evaluation.evaluation_dir import EvaluationSpec
from toolkit.evaluation.questions import make_questions
from toolkit.evaluation.row_table import compare_to_reference, read_row_table
from toolkit.evaluation.statistics.measures import MEASURES_BY_NAME
from toolkit.evaluation.statistics.pass_rules import parse_pass_rules
from toolkit.evaluation.statistics.results import FlipCounts, read_evaluation_results
from toolkit.evaluation.statistics.verdict import describe_comparison, format_measure_value, list_fitting_measures
from toolkit.export.evaluation_section import evaluation_section
from toolkit.export.export_forms import EXPORT_FORMS
from toolkit.export.model_card import model_card
from toolkit.runs.model_names import BASE
from toolkit.runs.run_dir import read_run_config
from toolkit.system.durable import commit_dir
from toolkit.system.printable import format_share

GATE = {"rules": [{"kind": "contains", "text": "wrong", "negate": True, "at_least": 0.9}], "gate": {}}


def test_known_flips_are_counted_exactly(tmp_path: Path) -> None:
    said = known_flips(fixed=31, broke=3, same=7, both_wrong=5)
    run = make_run(tmp_path, list(said))
    evaluation, results = plant(run, said)
    assert results.flips[run.id] == FlipCounts(fixed=31, broke=3, same=7, both_wrong=5)
    exact = results.figure("exact_match")
    assert exact is not None
    assert (exact.rows, exact.models[BASE].value, exact.models[run.id].value) == (46, 10 / 46, 38 / 46)
    assert exact.differences[run.id].verdict == "better"
    assert results.sentences[run.id][0] == "It is better than its base model."
    assert "fixed 31 rows and broke 3" in " ".join(results.sentences[run.id])
    rows = read_row_table(evaluation.rows_path)
    outcomes = rows["outcome_1"].to_pylist()
    assert [outcomes.count(kind) for kind in ("fixed", "broke", "same", "both wrong")] == [31, 3, 7, 5]
    worst = int(np.argmax(rows["damage_1"].to_numpy()))
    assert outcomes[worst] == "broke"
    assert read_evaluation_results(evaluation.results_path) == results


def test_two_adapters_are_compared_with_each_other(tmp_path: Path) -> None:
    said = two_adapters()
    run = make_run(tmp_path, list(said))
    evaluation, results = plant(run, said, others=["other"])
    exact = results.figure("exact_match")
    assert exact is not None
    assert [exact.difference_from(BASE, name).verdict for name in results.adapters] == ["better", "better"]
    there, back = exact.difference_from(run.id, "other"), exact.difference_from("other", run.id)
    assert (there.verdict, back.verdict) == ("worse", "better")
    assert (there.value, there.low, there.high, there.p) == (-back.value, -back.high, -back.low, back.p)  # type: ignore[operator]
    assert there.value == pytest.approx((15 - 30) / 46)
    assert results.flips_of(run.id, "other") == FlipCounts(fixed=10, broke=25, same=5, both_wrong=6)
    assert results.flips_of("other", run.id) == FlipCounts(fixed=25, broke=10, same=5, both_wrong=6)
    words = describe_comparison(results, "other", run.id, ("the first", "the first"))
    assert words[0] == "It is worse than the first." and "fixed 10 rows and broke 25" in words[-1]
    rows = read_row_table(evaluation.rows_path)
    turned = compare_to_reference(rows, 1, 2)
    kinds = turned["outcome_2"].to_pylist()
    assert [kinds.count(kind) for kind in ("fixed", "broke", "same", "both wrong")] == [10, 25, 5, 6]
    assert kinds[int(np.argmax(turned["damage_2"].to_numpy()))] == "broke"
    assert compare_to_reference(rows, 0, 2) is rows
    assert read_evaluation_results(evaluation.results_path) == results


def test_two_adapters_that_differ_by_chance_are_within_noise(tmp_path: Path) -> None:
    said = {name: (base, first, name if at in (3, 40) else first) for at, (name, (base, first, _)) in
            enumerate(two_adapters().items())}  # fmt: skip
    run = make_run(tmp_path, list(said))
    _, results = plant(run, said, others=["other"])
    words = describe_comparison(results, "other", run.id, ("the first", "the first"))
    assert words[0] == "These rows show no significant difference from the first."


def test_more_broken_than_fixed_is_worse(tmp_path: Path) -> None:
    said = known_flips(fixed=2, broke=30, same=10, both_wrong=0)
    run = make_run(tmp_path, list(said))
    _, results = plant(run, said, probe=[0.5] * 20)
    assert results.sentences[run.id][0] == "It is worse than its base model."
    assert "It shows forgetting" in results.sentences[run.id][-1]


@pytest.mark.parametrize(("fixed", "broke"), [(0, 0), (6, 6), (5, 3), (2, 0)])
def test_a_null_change_is_within_noise(tmp_path: Path, fixed: int, broke: int) -> None:
    said = known_flips(fixed=fixed, broke=broke, same=20, both_wrong=20)
    run = make_run(tmp_path, list(said))
    _, results = plant(run, said, probe=[0.1, -0.1] * 12)
    exact = results.figure("exact_match")
    assert exact is not None
    assert exact.differences[run.id].verdict == "noise"
    assert results.sentences[run.id][0].startswith("These rows show no significant difference")
    assert results.sentences[run.id][-1].startswith("It shows no forgetting")


def test_noise_whose_interval_excludes_zero_is_explained(tmp_path: Path) -> None:
    said = known_flips(fixed=5, broke=0, same=54, both_wrong=2)
    run = make_run(tmp_path, list(said))
    _, results = plant(run, said)
    exact = results.figure("exact_match")
    assert exact is not None and (exact.differences[run.id].low or 0) > 0
    text = " ".join(results.sentences[run.id])
    assert "no significant difference" in text and "Too few rows differ to rule out chance" in text


def test_a_missing_answer_keeps_its_reason_and_counts_as_wrong(tmp_path: Path) -> None:
    said = known_flips(fixed=4, broke=0, same=4, both_wrong=0)
    run = make_run(tmp_path, list(said))
    evaluation, _ = plant(run, said)
    log = AnswerLog(evaluation.answers_path)
    log.write([EvaluationAnswer(run.id, 0, error="The prompt has 900 tokens; the model's context holds 256.")])
    log.close()
    asked = make_questions(evaluation)
    results = conclude_evaluation(
        evaluation, asked, read_recorded_answers(evaluation.answers_path), (BASE, run.id), 1.0
    )
    exact, loss = results.figure("exact_match"), results.figure("loss")
    assert exact is not None
    assert loss is not None
    assert (exact.rows, exact.models[run.id].value) == (8, 7 / 8)
    assert loss.rows == 7
    assert results.failures[run.id] == {"The prompt has 900 tokens; the model's context holds 256.": 1}
    assert "900 tokens" in read_row_table(evaluation.rows_path)["error_1"].to_pylist()[0]


def test_unanswered_questions_are_skipped_and_reported(tmp_path: Path) -> None:
    said = known_flips(fixed=4, broke=0, same=4, both_wrong=0)
    run = make_run(tmp_path, list(said))
    evaluation = evaluation_dir.create_evaluation(run, EvaluationSpec(rows=None), parse_pass_rules(GATE))
    asked = make_questions(evaluation)
    log = AnswerLog(evaluation.answers_path)
    for question in asked[:5]:
        log.write([EvaluationAnswer(model, question.position, "x") for model in (BASE, run.id)])
    log.write([EvaluationAnswer(BASE, 5, "x")])
    log.close()
    results = conclude_evaluation(
        evaluation, asked, read_recorded_answers(evaluation.answers_path), (BASE, run.id), 1.0
    )
    assert (results.asked, results.answered, results.complete) == (8, 5, False)
    assert "Only 5 of 8 rows were answered." in results.gate[run.id].reasons


def test_the_gate_passes_only_when_every_condition_holds(tmp_path: Path) -> None:
    said = known_flips(fixed=20, broke=0, same=2, both_wrong=1)
    run = make_run(tmp_path, list(said))
    evaluation, results = plant(run, said, parse_pass_rules(GATE))
    assert results.gate[run.id].passed
    assert results.rules[0].broke[run.id] == 1
    assert results.rules[0].kept[run.id].value == pytest.approx(22 / 23)
    stricter = {"kind": "contains", "text": "wrong", "negate": True}
    evaluation_dir.replace_evaluation_rules(evaluation, parse_pass_rules({"rules": [stricter], "gate": {}}))
    found = read_recorded_answers(evaluation.answers_path)
    again = conclude_evaluation(evaluation, make_questions(evaluation), found, (BASE, run.id), 1.0)
    assert not again.gate[run.id].passed
    (reason,) = again.gate[run.id].reasons
    assert reason == "The answer must not contain “wrong”: 95.7 % of the answers, 100 % required."
    assert read_row_table(evaluation.rows_path)["rules_1"].to_pylist().count(["must not contain “wrong”"]) == 1


def test_rules_with_equal_titles_are_numbered(tmp_path: Path) -> None:
    said = known_flips(fixed=2, broke=0, same=0, both_wrong=0)
    run = make_run(tmp_path, list(said))
    schemas = [{"kind": "json_schema", "json_schema": {"type": kind}} for kind in ("object", "string", "object")]
    kept = {"kind": "json_schema", "json_schema": {}, "negate": True, "name": "must match the JSON schema"}
    evaluation, results = plant(run, said, parse_pass_rules({"rules": [*schemas, kept]}))
    titles = [rule.title for rule in results.rules]
    assert titles == ["must match the JSON schema", *(f"must match the JSON schema ({n})" for n in (2, 3, 4))]
    assert [rule.kept[run.id].value for rule in results.rules] == [0, 0, 0, 1]
    assert read_row_table(evaluation.rows_path)["rules_1"].to_pylist() == [titles[:3]] * 2


def test_a_share_just_below_one_is_not_shown_as_all(tmp_path: Path) -> None:
    assert format_measure_value(MEASURES_BY_NAME["exact_match"], 2999 / 3000) == "99.9 %"
    assert [format_share(value) for value in (0.0, 1e-5, 0.5, 0.99999, 1.0)] == [
        "0 %",
        "0.1 %",
        "50 %",
        "99.9 %",
        "100 %",
    ]


def test_the_gate_refuses_a_difference_within_noise(tmp_path: Path) -> None:
    said = known_flips(fixed=2, broke=1, same=9, both_wrong=9)
    run = make_run(tmp_path, list(said))
    _, results = plant(run, said, parse_pass_rules({"gate": {"improves": "exact_match"}}))
    assert results.gate[run.id].reasons == ("Exact match is within noise.",)


def test_labels_have_a_confusion_matrix(tmp_path: Path) -> None:
    run = make_run(tmp_path, ["yes"] * 6 + ["no"] * 6)
    _, results = plant(run, {"yes": ("maybe", "Yes"), "no": ("no", "yes")}, asked_for=["yes", "no"] * 6)
    assert results.confusion is not None
    assert results.confusion.labels == ("no", "yes")
    assert results.confusion.counts[BASE] == ((6, 0, 0), (0, 0, 6))
    assert results.confusion.counts[run.id] == ((0, 6, 0), (0, 6, 0))


def test_the_matrix_spells_labels_as_most_rows_do(tmp_path: Path) -> None:
    asked = ["Rückgabe (neu)", "rückgabe neu", "Rückgabe (neu)", "In Transit!", "In Transit!", "In Transit!"]
    run = make_run(tmp_path, asked)
    said = dict.fromkeys(asked, ("?", "IN TRANSIT"))
    _, results = plant(run, said, asked_for=asked)
    assert results.confusion is not None
    assert results.confusion.labels == ("In Transit!", "Rückgabe (neu)")
    assert results.confusion.counts[run.id] == ((3, 0, 0), (3, 0, 0))


@pytest.mark.parametrize(
    ("expected", "wrong", "fitting"),
    [
        (["Yes", "No"] * 6, "perhaps", ("exact_match", "label_accuracy", "loss")),
        ([f'{{"n": {i}}}' for i in range(12)], '{"n": -1}', ("exact_match", "json_fields", "json_valid")),
        ([f"free answer {i}" for i in range(12)], "free words", ("exact_match", "token_f1", "chrf")),
    ],
)
def test_two_or_three_measures_suit_the_answers(
    tmp_path: Path, expected: list[str], wrong: str, fitting: tuple[str, ...]
) -> None:
    run = make_run(tmp_path, expected)
    _, results = plant(run, {text: (wrong, text) for text in expected}, asked_for=expected)
    assert list_fitting_measures(results) == fitting
    never = plant(run, {text: (wrong, f"{text} or so") for text in expected}, asked_for=expected)[1]
    assert never.headline is not None
    assert list_fitting_measures(never)[0] == never.headline


def test_json_answers_are_scored_field_by_field(tmp_path: Path) -> None:
    expected = [f'{{"name": "p{i}", "n": {i}}}' for i in range(12)]
    run = make_run(tmp_path, expected)
    _, results = plant(run, {text: ("?", text.replace('"name": "p', '"name": "q')) for text in expected})
    by_name = {figure.measure: figure for figure in results.fields}
    assert by_name["n"].models[run.id].value == 1
    assert by_name["name"].models[run.id].value == 0
    assert by_name["n"].differences[run.id].verdict == "better"
    assert results.headline == "json_fields"


def test_too_few_rows_are_reported(tmp_path: Path) -> None:
    said = known_flips(fixed=3, broke=0, same=0, both_wrong=0)
    run = make_run(tmp_path, list(said))
    _, results = plant(run, said)
    assert "3 rows are too few to distinguish a change from chance." in results.sentences[run.id]


def test_the_model_card_shows_the_newest_evaluation_of_the_present_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    said = known_flips(fixed=31, broke=3, same=7, both_wrong=5)
    run = make_run(tmp_path / "save", list(said))
    assert evaluation_section(run) is None
    staging = run.path / ".new"
    staging.mkdir()
    commit_dir(staging, run.adapter_dir, {})
    assert evaluation_section(run) is None
    plant(run, known_flips(fixed=1, broke=0, same=20, both_wrong=20))
    evaluation, _ = plant(run, said, probe=[0.5] * 20)
    written = evaluation_section(run)
    assert written is not None and "`planted rows`, 46 rows. It is better than its base model." in written
    assert "| Exact match | 21.7 % (" in written and "| +60.9 points (" in written and "| better |" in written
    assert "| Loss on general text (forgetting probe) | 1 (1 to 1) | 1.05 (" in written and "| worse |" in written
    card = model_card(run, read_run_config(run), EXPORT_FORMS["adapter"], contract(), chart_file=None, figures=written)
    assert written in card and "were not scored" not in card and "own scores" not in card
    log = AnswerLog(evaluation.answers_path)
    log.record_identities({}, {run.id: "the hash of an earlier adapter"})
    log.close()
    older = evaluation_section(run)
    assert older is not None and "41 rows" in older, "one of another adapter does not count"
