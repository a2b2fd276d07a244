"""Measures of one answer: against the published definitions, and against where the original toolkit's went wrong."""

from __future__ import annotations

import math

import pytest

from toolkit.evaluation.statistics.measures import BY_NAME, MEASURES
from toolkit.evaluation.statistics.scoring import OTHER, Kind, field_scores, kind_of, label_of, score
from toolkit.evaluation.statistics.text import NotJson, normal, read_json, same_json, words

# answer, expected, ROUGE-1 precision, recall, F1, ROUGE-L F1: from the package rouge-score 0.1.2
ROUGE = [
    ("the cat sat on the mat", "the cat lay on a mat", 4 / 6, 4 / 6, 2 / 3, 2 / 3),
    ("police killed the gunman", "the gunman kill police", 0.75, 0.75, 0.75, 0.5),
    ("a b c d e f g", "b d f h", 3 / 7, 0.75, 6 / 11, 6 / 11),
    ("one two", "three", 0.0, 0.0, 0.0, 0.0),
]


@pytest.mark.parametrize(("answer", "expected", "precision", "recall", "f1", "longest"), ROUGE)
def test_rouge_is_the_published_one(
    answer: str, expected: str, precision: float, recall: float, f1: float, longest: float
) -> None:
    found = score(answer, expected, Kind())
    assert found["rouge_1"] == pytest.approx(precision)
    assert found["word_overlap"] == pytest.approx(recall)
    assert found["token_f1"] == pytest.approx(f1)
    assert found["rouge_l"] == pytest.approx(longest)


def test_chrf_is_sacrebleus() -> None:
    assert score("the same", "the same", Kind())["chrf"] == pytest.approx(1.0)
    from sacrebleu.metrics.chrf import CHRF

    wanted = CHRF().sentence_score("a quick fox", ["the quick fox"]).score / 100
    assert score("a quick fox", "the quick fox", Kind())["chrf"] == pytest.approx(wanted)
    assert 0 < wanted < 1


def test_what_the_original_got_wrong() -> None:
    # sets of letters: "listen" and "silent" were the same
    assert score("listen", "silent", Kind())["jaccard"] == 0
    # precision was recall: eight words that hold the four expected ones scored 1
    assert score("a b c d e f g h", "a b c d", Kind())["rouge_1"] == 0.5
    # an expected answer of stop words alone divided by zero
    assert score("No", "No", Kind())["word_overlap"] == 1
    # a bare dot product grew with the length
    long = "word " * 500
    assert score(long, long, Kind())["cosine"] == pytest.approx(1.0)
    # an empty answer, a label "NA" and one row crashed it
    empty = score("", "NA", Kind())
    assert all(value in (0.0, 2.0) for value in empty.values()), empty
    assert empty["length_difference"] == 2


def test_exact_match_minds_all_but_outer_space() -> None:
    found = {text: score(text, "Four lamps.", Kind()) for text in (" Four lamps.\n", "four lamps", "4 lamps")}
    assert [one["exact_match"] for one in found.values()] == [1, 0, 0]
    assert [one["same_words"] for one in found.values()] == [1, 1, 0]


def test_numbers_keep_what_makes_them_that_number() -> None:
    assert words("-3.5 and 3:5, 2026-11-24!") == ["-3.5", "and", "3:5", "2026-11-24"]
    assert normal("3.5") != normal("35")
    assert normal("-5") != normal("5")
    assert normal("don't") == "don't"
    assert words("東京へ行く") == list("東京へ行く")
    assert normal("🙂") == "🙂"
    assert score("🙂", "🙂", Kind())["token_f1"] == 1
    assert score("!", "🙂", Kind())["rouge_l"] == 0


def test_labels_when_few() -> None:
    kind = kind_of(["Yes", "no", "yes", "No", None])
    assert kind.labels == ("no", "yes")
    assert (label_of("YES!", kind), label_of("maybe", kind)) == ("yes", OTHER)
    assert score("yes.", "Yes", kind)["label_accuracy"] == 1
    assert kind_of(["a", "b", "c", "d"]).labels == (), "every answer another one: no labels"
    assert kind_of(["a"] * 9).labels == (), "one label says nothing"
    assert kind_of([None]) == Kind()


def test_json_answers() -> None:
    expected = '{"name": "Ann", "place": {"city": "Oslo", "zip": "007"}, "n": 4, "tags": ["a"]}'
    kind = kind_of([expected, expected])
    assert set(kind.field_names) == {"name", "place.city", "place.zip", "n", "tags"}
    given = '```json\n{"n": 4.0, "name": "Bob", "place": {"zip": "007", "city": "Rome"}, "tags": ["a"]}\n```'
    found = score(given, expected, kind)
    assert (found["json_valid"], found["json_fields"]) == (1, pytest.approx(3 / 5))
    each = field_scores(given, expected, kind)
    assert each == {"name": 0, "place.city": 0, "place.zip": 1, "n": 1, "tags": 1}
    assert score('{"n": 4', expected, kind)["json_fields"] == 0
    assert score("[1]", expected, kind)["json_valid"] == 1
    assert score("[1]", expected, kind)["json_fields"] == 0


@pytest.mark.parametrize("text", ["NaN", "[" * 100_000, "{'a': 1}", "", "1" * 5000])
def test_what_is_no_json(text: str) -> None:
    with pytest.raises(NotJson):
        read_json(text)


def test_json_equality() -> None:
    assert same_json(4, 4.0)
    assert not same_json(True, 1)
    assert not same_json([1, True], [1, 1])
    assert same_json({"a": [1]}, {"a": [1.0]})
    assert not same_json("4", 4)


def test_nothing_expected_nothing_measured() -> None:
    assert score("anything", None, Kind()) == {}


def test_every_measure_is_explained_and_every_score_a_measure() -> None:
    kind = Kind(labels=("a", "b"), json=True, field_names=("x",))
    scored = set(score('{"x": 1}', '{"x": 1}', kind))
    assert scored | {"loss", "perplexity"} == set(BY_NAME)
    assert len(MEASURES) == len(BY_NAME) == 16
    assert all(len(measure.help) > 20 for measure in MEASURES)
    assert not math.isnan(score("x", "y", Kind())["length_ratio"])
