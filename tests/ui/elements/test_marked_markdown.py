"""Marked text is text: what looks like markup comes out escaped, and white space stays."""

from __future__ import annotations

from toolkit.evaluation.statistics.word_diff import DiffSpan
from toolkit.ui.elements.marked_markdown import mark_changes


def test_markup_is_escaped_inside_and_outside_of_marks() -> None:
    nasty = "<b>x</b> ](http://e) :red[x] **y** `z` $a$"
    for changed in (False, True):
        shown = mark_changes([DiffSpan(nasty, changed)], "red")
        inner = shown.removeprefix(":red-background[").removesuffix("]") if changed else shown
        assert "<b>" not in inner
        assert "\\]\\(" in inner
        assert "**" not in inner.replace("\\*", "")


def test_lines_and_spaces_stay() -> None:
    assert mark_changes([DiffSpan("a\n  b"), DiffSpan("c", True)], "green") == "a  \n\u00a0\u00a0b:green-background[c]"
    assert mark_changes([DiffSpan(" ", True)], "red") == ":red-background[\u00a0]"
    assert mark_changes([], "red") == " "
    assert mark_changes([DiffSpan("x" * 10_000)], "red").endswith("…")
