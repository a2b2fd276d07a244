"""Marked text is escaped, and its white space is kept."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from toolkit.evaluation.statistics.word_diff import DiffSpan, diff_words
from toolkit.ui.elements.marked_markdown import mark_changes, mark_edits


def test_markup_is_escaped_inside_and_outside_marks() -> None:
    nasty = "<b>x</b> ](http://e) :red[x] **y** `z` $a$"
    for changed in (False, True):
        shown = mark_changes([DiffSpan(nasty, changed)], "red")
        inner = shown.removeprefix(":red-background[").removesuffix("]") if changed else shown
        assert "<b>" not in inner
        assert "\\]\\(" in inner
        assert "**" not in inner.replace("\\*", "")


def test_line_breaks_and_spaces_are_kept() -> None:
    assert mark_changes([DiffSpan("a\n  b"), DiffSpan("c", True)], "green") == "a  \n\u00a0\u00a0b:green-background[c]"
    assert mark_changes([DiffSpan(" ", True)], "red") == ":red-background[\u00a0]"
    assert mark_changes([], "red") == " "
    apart = [DiffSpan("Product", True), DiffSpan(" "), DiffSpan("question", True), DiffSpan(" here")]
    assert mark_changes(apart, "red") == ":red-background[Product\u00a0question] here", "a hole between two words"
    assert mark_changes([DiffSpan("x" * 10_000)], "red").endswith("…")


@given(st.text(max_size=80), st.text(max_size=80))
def test_the_spans_of_a_diff_add_up_to_both_texts_and_share_their_unchanged_ones(old: str, new: str) -> None:
    before, after = diff_words(old, new)
    assert "".join(span.text for span in before) == old
    assert "".join(span.text for span in after) == new
    assert [span.text for span in before if not span.changed] == [span.text for span in after if not span.changed]


def test_long_texts_keep_their_end() -> None:
    new = "word " * 5000 + "end"
    assert "".join(span.text for span in diff_words("word", new)[1]) == new


def test_added_and_removed_words_are_marked() -> None:
    assert mark_edits(*diff_words("two red lamps", "two blue lamps")) == (
        "two :gray[~~red~~]:green-background[blue] lamps"
    )
    assert mark_edits(*diff_words("a b", "a")) == "a :gray[~~b~~]"
    assert mark_edits(*diff_words("a", "a b")) == "a:green-background[\u00a0b]"
    assert mark_edits(*diff_words("x a b y", "a y")) == ":gray[~~x~~] a :gray[~~b~~] y"
    assert mark_edits(*diff_words("same", "same")) == "same"


def test_markup_in_added_and_removed_words_stays_text() -> None:
    hostile = "</p><script>x</script>](http://x)**b**$x$:red[y]"
    added = mark_edits(*diff_words("", hostile)).removeprefix(":green-background[").removesuffix("]")
    removed = mark_edits(*diff_words(hostile, "")).removeprefix(":gray[~~").removesuffix("~~]")
    for shown in (added, removed):
        assert not set(re.sub(r"\\.|:gray\[\]", "", shown)) & set("<>[]()*$:")
