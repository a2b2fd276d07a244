"""What a study says about its runs."""

from __future__ import annotations

from toolkit.ui.study_view import best_words


def test_one_run_is_no_contest() -> None:
    assert best_words({}) == best_words({"r 8": 1.0}) == ""


def test_the_best_is_named_and_a_tie_is_called_one() -> None:
    assert "so far: r 8." in best_words({"r 4": 0.5, "r 8": 0.75})
    assert "so far: r 8 and r 16." in best_words({"r 4": 0.5, "r 8": 0.75, "r 16": 0.75})
    assert best_words({"r 4": 1.0, "r 8": 1.0}) == "Exact match can't tell these runs apart so far."
