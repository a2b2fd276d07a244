"""Text from outside is escaped, and numbers are formatted for reading."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.runs.model_names import short_model_name
from toolkit.system import printable
from toolkit.system.printable import strip_control_characters
from toolkit.ui.elements.escape import escape_lines, escape_text

MARKUP = "![x](http://e.x/i.png) <img src=x> **b** _i_ `c` $a$ :red[x] :material/home: [l](u) # h ~~s~~ | \\ {y}"


def test_every_markdown_character_is_escaped() -> None:
    text = escape_text(MARKUP).replace(":gray[]", "")
    for at, char in enumerate(text):
        if char in "*_`$:[]()<>#!~|{}":
            assert text[at - 1] == "\\", text[max(0, at - 5) : at + 5]


@given(st.text(st.characters(exclude_characters="\0"), max_size=300))
def test_escaping_adds_nothing_but_backslashes_and_splits(raw: str) -> None:
    assert without_escapes(escape_text(raw, 1000)) == " ".join(strip_control_characters(raw).split())


def without_escapes(escaped: str) -> str:
    return re.sub(r"\\(.)|:gray\[\]", r"\1", escaped)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("see https://evil.example/x", ["see https", "://evil.example/x"]),
        ("HTTP://EVIL.example www.evil.example", ["HTTP", "://EVIL.example www", ".evil.example"]),
        ("bob@evil.example, mailto:a.b+c@d.e", ["bob", "@evil.example, mailto:a.b+c", "@d.e"]),
        (":streamlit: :material/home: :+1:", [":streamlit", ": :material/home", ": :+1", ":"]),
        ("a -> b <-> c", ["a -", "> b <", "-", "> c"]),
        ("10:30, --save-dir x: y", ["10:30, --save-dir x: y"]),
    ],
)
def test_links_codes_and_arrows_are_split(text: str, pieces: list[str]) -> None:
    assert [without_escapes(piece) for piece in escape_text(text).split(":gray[]")] == pieces


def test_long_text_is_shortened_and_lines_are_kept() -> None:
    assert len(escape_text("a" * 500, 50)) == 50
    assert escape_lines("a\nb") == "a  \nb"


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (0, "0 s"), (59.6, "1 min 00 s"), (95, "1 min 35 s"), (4000, "1 h 06 min")]
)
def test_durations(seconds: float | None, text: str) -> None:
    assert printable.format_duration(seconds) == text


def test_sizes_shares_plurals_and_model_names() -> None:
    assert printable.format_bytes(5_400_000) == "5.1 MiB"
    assert printable.format_share(0.9688) == "96.9 %"
    assert printable.format_share(1.0) == "100 %"
    assert printable.format_plural(1, "row") == "1 row"
    assert printable.format_plural(1200, "row") == "1,200 rows"
    assert short_model_name("bundled:demo-model") == "demo-model"
    assert short_model_name("/models/qwen/") == "qwen"
