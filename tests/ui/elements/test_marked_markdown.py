"""Marked text is text: what looks like markup comes out escaped, and white space stays."""

from __future__ import annotations

from toolkit.evaluation.statistics.word_diff import Part
from toolkit.ui.elements.marked_markdown import marked


def test_markup_is_escaped_inside_and_outside_of_marks() -> None:
    nasty = "<b>x</b> ](http://e) :red[x] **y** `z` $a$"
    for changed in (False, True):
        shown = marked([Part(nasty, changed)], "red")
        inner = shown.removeprefix(":red-background[").removesuffix("]") if changed else shown
        assert "<b>" not in inner
        assert "\\]\\(" in inner
        assert "**" not in inner.replace("\\*", "")


def test_lines_and_spaces_stay() -> None:
    assert marked([Part("a\n  b"), Part("c", True)], "green") == "a  \n\u00a0\u00a0b:green-background[c]"
    assert marked([Part(" ", True)], "red") == ":red-background[\u00a0]"
    assert marked([], "red") == " "
    assert marked([Part("x" * 10_000)], "red").endswith("…")
