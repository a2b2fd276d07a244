"""Control characters are removed or shown by their code; every other character stays."""

from __future__ import annotations

import pytest

from toolkit.system.printable import strip_control_characters


@pytest.mark.parametrize(
    "raw, shown",
    [
        ("evil\u202etxt.exe", "eviltxt.exe"),
        ("\x1b[31mred", "[31mred"),
        ("naïve – 日本語 🙂", "naïve – 日本語 🙂"),
    ],
)
def test_control_characters_are_removed_and_others_stay(raw: str, shown: str) -> None:
    assert strip_control_characters(raw) == shown
