"""Text from outside stays text, and numbers read well."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.system.printable import legible
from toolkit.ui.elements import words
from toolkit.ui.elements.escape import plain, plain_lines

MARKUP = "![x](http://e.x/i.png) <img src=x> **b** _i_ `c` $a$ :red[x] :material/home: [l](u) # h ~~s~~ | \\ {y}"


def test_every_mark_is_escaped() -> None:
    text = plain(MARKUP)
    for at, char in enumerate(text):
        if char in "*_`$:[]()<>#!~|{}":
            assert text[at - 1] == "\\", text[max(0, at - 5) : at + 5]


@given(st.text(st.characters(exclude_characters="\0"), max_size=300))
def test_nothing_but_escapes_is_added(raw: str) -> None:
    assert plain(raw, 1000).replace("\\\\", "\0").replace("\\", "").replace("\0", "\\") == " ".join(
        legible(raw).split()
    )


def test_long_text_is_cut_and_lines_are_kept() -> None:
    assert len(plain("a" * 500, 50)) == 50
    assert plain_lines("a\nb") == "a  \nb"


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (0, "0 s"), (59.6, "1 min 00 s"), (95, "1 min 35 s"), (4000, "1 h 06 min")]
)
def test_durations(seconds: float | None, text: str) -> None:
    assert words.duration(seconds) == text


def test_other_words() -> None:
    assert words.size(5_400_000) == "5.1 MiB"
    assert words.share(0.9688) == "96.9 %"
    assert words.share(1.0) == "100 %"
    assert words.plural(1, "row") == "1 row"
    assert words.plural(1200, "row") == "1,200 rows"
    assert words.model_name("bundled:demo-model") == "demo-model"
    assert words.model_name("/models/qwen/") == "qwen"
