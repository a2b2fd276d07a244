"""The film strip read and compared: later attempts win, differences add up, text stays text."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from toolkit.runs.events import EventWriter
from toolkit.ui.runs.film import format_word_diff, read_film, word_diff

PINS = [{"prompt": "two lamps", "expected": "2 lamps", "row": 4}, {"prompt": "hello", "expected": None, "row": None}]


def test_frames_are_read_on_and_a_replayed_step_shows_the_later_answer(tmp_path: Path) -> None:
    path = tmp_path / "film.jsonl"
    assert read_film(path).steps == []
    with EventWriter(path, 1) as writer:
        writer.append("pinned", pins=PINS)
        writer.append("answers", step=0, texts=["?", "hi"])
        assert read_film(path).frames == {0: ("?", "hi")}
        writer.append("answers", step=4, texts=["2 lamps", "hi"])
        writer.append("answers", step=8, texts=["lost", "hi"])
    with EventWriter(path, 2) as writer:
        writer.append("pinned", pins=PINS)
        writer.append("answers", step=8, texts=["2 lamps ", "hi"])
        writer.append("answers", step=9, texts=["one too few"])
    found = read_film(path)
    assert found.steps == [0, 4, 8]
    assert (found.before(0), found.before(8)) == (None, 4)
    assert found.right_since(0, 8) == 4
    assert found.right_since(0, 0) is None
    assert found.right_since(1, 8) is None


@given(st.text(max_size=80), st.text(max_size=80))
def test_the_pieces_add_up_to_both_texts(old: str, new: str) -> None:
    pieces = word_diff(old, new)
    assert "".join(text for kind, text in pieces if kind != "gone") == new
    assert "".join(text for kind, text in pieces if kind != "new") == old


def test_long_texts_keep_their_end() -> None:
    new = "word " * 5000 + "end"
    assert "".join(text for kind, text in word_diff("word", new) if kind != "gone") == new


def test_words_are_marked_and_markup_stays_text() -> None:
    shown = format_word_diff(word_diff("two red lamps", "two blue lamps"))
    assert shown == "two :gray[~~red~~]:green-background[**blue**] lamps"
    assert format_word_diff(word_diff("a b", "a"), gone=None).strip() == "a"
    hostile = format_word_diff(word_diff("", "</p><script>x</script>](http://x) **b** $x$ :red[y]"))
    unescaped = re.sub(r"\\.", "", hostile).removeprefix(":green-background[**").removesuffix("**]")
    assert not set(unescaped) & set("<>[]()*$:")
