"""Names and messages without what steers a screen or a terminal; every other letter as it is."""

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
def test_what_steers_is_gone_and_the_rest_stays(raw: str, shown: str) -> None:
    assert strip_control_characters(raw) == shown
