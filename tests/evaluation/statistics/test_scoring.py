"""Measures of one answer, compared with their published definitions."""

from __future__ import annotations

import math

import pytest

from toolkit.evaluation.statistics.measures import MEASURES, MEASURES_BY_NAME
from toolkit.evaluation.statistics.scoring import (
    OTHER_LABEL,
    AnswerKind,
    detect_answer_kind,
    match_answer_label,
    score_answer,
    score_json_fields,
)
from toolkit.evaluation.statistics.text import (
    InvalidJsonError,
    normalize_words,
    parse_answer_json,
    same_json,
    split_reasoning,
    split_words,
)

# answer, expected, ROUGE-1 precision, recall, F1, ROUGE-L F1: from the package rouge-score 0.1.2
ROUGE = [
    ("the cat sat on the mat", "the cat lay on a mat", 4 / 6, 4 / 6, 2 / 3, 2 / 3),
    ("police killed the gunman", "the gunman kill police", 0.75, 0.75, 0.75, 0.5),
    ("a b c d e f g", "b d f h", 3 / 7, 0.75, 6 / 11, 6 / 11),
    ("one two", "three", 0.0, 0.0, 0.0, 0.0),
]


@pytest.mark.parametrize(("answer", "expected", "precision", "recall", "f1", "longest"), ROUGE)
def test_rouge_matches_the_published_definition(
    answer: str, expected: str, precision: float, recall: float, f1: float, longest: float
) -> None:
    found = score_answer(answer, expected, AnswerKind())
    assert found["rouge_1"] == pytest.approx(precision)
    assert found["word_overlap"] == pytest.approx(recall)
    assert found["token_f1"] == pytest.approx(f1)
    assert found["rouge_l"] == pytest.approx(longest)


def test_chrf_matches_sacrebleu() -> None:
    assert score_answer("the same", "the same", AnswerKind())["chrf"] == pytest.approx(1.0)
    from sacrebleu.metrics.chrf import CHRF

    wanted = CHRF().sentence_score("a quick fox", ["the quick fox"]).score / 100
    assert score_answer("a quick fox", "the quick fox", AnswerKind())["chrf"] == pytest.approx(wanted)
    assert 0 < wanted < 1


def test_mistakes_of_the_original_toolkit_are_not_repeated() -> None:
    # sets of letters: "listen" and "silent" were the same
    assert score_answer("listen", "silent", AnswerKind())["jaccard"] == 0
    # precision was recall: eight words that hold the four expected ones scored 1
    assert score_answer("a b c d e f g h", "a b c d", AnswerKind())["rouge_1"] == 0.5
    # an expected answer of stop words alone divided by zero
    assert score_answer("No", "No", AnswerKind())["word_overlap"] == 1
    # a bare dot product grew with the length
    long = "word " * 500
    assert score_answer(long, long, AnswerKind())["cosine"] == pytest.approx(1.0)
    # an empty answer, a label "NA" and one row crashed it
    empty = score_answer("", "NA", AnswerKind())
    assert all(value in (0.0, 2.0) for value in empty.values()), empty
    assert empty["length_difference"] == 2


def test_exact_match_ignores_only_outer_white_space() -> None:
    found = {
        text: score_answer(text, "Four lamps.", AnswerKind()) for text in (" Four lamps.\n", "four lamps", "4 lamps")
    }
    assert [one["exact_match"] for one in found.values()] == [1, 0, 0]
    assert [one["same_words"] for one in found.values()] == [1, 1, 0]


def test_numbers_keep_sign_point_and_separators() -> None:
    assert split_words("-3.5 and 3:5, 2026-11-24!") == ["-3.5", "and", "3:5", "2026-11-24"]
    assert normalize_words("3.5") != normalize_words("35")
    assert normalize_words("-5") != normalize_words("5")
    assert normalize_words("don't") == "don't"
    assert split_words("東京へ行く") == list("東京へ行く")
    assert normalize_words("🙂") == "🙂"
    assert score_answer("🙂", "🙂", AnswerKind())["token_f1"] == 1
    assert score_answer("!", "🙂", AnswerKind())["rouge_l"] == 0


def test_few_distinct_answers_are_labels() -> None:
    kind = detect_answer_kind(["Yes", "no", "yes", "No", None])
    assert kind.labels == ("no", "yes")
    assert (match_answer_label("YES!", kind), match_answer_label("maybe", kind)) == ("yes", OTHER_LABEL)
    assert score_answer("yes.", "Yes", kind)["label_accuracy"] == 1
    assert detect_answer_kind(["a", "b", "c", "d"]).labels == (), "every answer another one: no labels"
    assert detect_answer_kind(["a"] * 9).labels == (), "one label says nothing"
    assert detect_answer_kind([None]) == AnswerKind()


def test_json_answers_are_scored_by_field() -> None:
    expected = '{"name": "Ann", "place": {"city": "Oslo", "zip": "007"}, "n": 4, "tags": ["a"]}'
    kind = detect_answer_kind([expected, expected])
    assert set(kind.field_names) == {"name", "place.city", "place.zip", "n", "tags"}
    given = '```json\n{"n": 4.0, "name": "Bob", "place": {"zip": "007", "city": "Rome"}, "tags": ["a"]}\n```'
    found = score_answer(given, expected, kind)
    assert (found["json_valid"], found["json_fields"]) == (1, pytest.approx(3 / 5))
    each = score_json_fields(given, expected, kind)
    assert each == {"name": 0, "place.city": 0, "place.zip": 1, "n": 1, "tags": 1}
    assert score_answer('{"n": 4', expected, kind)["json_fields"] == 0
    assert score_answer("[1]", expected, kind)["json_valid"] == 1
    assert score_answer("[1]", expected, kind)["json_fields"] == 0


@pytest.mark.parametrize("text", ["NaN", "[" * 100_000, "{'a': 1}", "", "1" * 5000])
def test_text_that_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(InvalidJsonError):
        parse_answer_json(text)


def test_json_equality() -> None:
    assert same_json(4, 4.0)
    assert not same_json(True, 1)
    assert not same_json([1, True], [1, 1])
    assert same_json({"a": [1]}, {"a": [1.0]})
    assert not same_json("4", 4)


def test_without_an_expected_answer_nothing_is_measured() -> None:
    assert score_answer("anything", None, AnswerKind()) == {}


def test_every_score_belongs_to_a_measure_with_a_description() -> None:
    kind = AnswerKind(labels=("a", "b"), json=True, field_names=("x",))
    scored = set(score_answer('{"x": 1}', '{"x": 1}', kind))
    assert scored | {"loss", "perplexity"} == set(MEASURES_BY_NAME)
    assert len(MEASURES) == len(MEASURES_BY_NAME) == 16
    assert all(len(measure.help) > 20 for measure in MEASURES)
    assert not math.isnan(score_answer("x", "y", AnswerKind())["length_ratio"])


@pytest.mark.parametrize(
    "answer",
    ["<think>\nlet me see\n</think>\n\nParis", "let me see\n</think>\n\nParis", "<think></think>Paris", "Paris"],
)
def test_reasoning_is_no_part_of_an_answer(answer: str) -> None:
    kind = detect_answer_kind(["<think>well</think>Paris", "Paris", "Rome", "Rome"])
    assert kind.labels == ("paris", "rome")
    for expected in ("Paris", "<think>\nFrance\n</think>\n\nParis"):
        scores = score_answer(answer, expected, kind)
        assert scores["exact_match"] == scores["rouge_l"] == scores["label_accuracy"] == 1.0
    assert match_answer_label(answer, kind) == "paris"
    assert split_reasoning("<think>\nwell\n</think>\n\nParis") == ("well", "Paris")
    assert split_reasoning("a </b> c") == ("", "a </b> c")
    assert split_reasoning("<think>\nso far") == ("so far", "")
    assert score_answer("<think>\nParis, I thi", "Paris", kind)["token_f1"] == 0.0, "it never came to an answer"
