"""Near duplicates: which pairs are near, and that leaving the followers out leaves none."""

from __future__ import annotations

import numpy as np
import pytest

from tests.data.conftest import Opener
from toolkit.data.doctor.near_duplicates import choose_rows_to_drop, find_near_pairs

LONG = "the parcel with the green lamp has not arrived at our house in the old town yet, please look into it"


@pytest.mark.parametrize(
    ("first", "second", "near"),
    [
        (LONG, LONG.upper(), True),
        (LONG, LONG.replace(" ", "  ").replace(",", " -"), True),
        (LONG, LONG.replace("green", "grean"), True),
        (LONG, LONG.replace("green lamp", "broken chair of my aunt"), False),
        (LONG + " 12", LONG + " 13", False),
        ("yes", "yet", False),
        ("Straße", "STRASSE", False),
        ("Ёлка стоит в большой комнате у окна", "ёлка стоит в большой комнате, у окна", True),
        ("你好，我的订单还没有到，请帮我查一下好吗谢谢你们", "你好我的订单还没有到 请帮我查一下好吗谢谢你们", True),
    ],
)
def test_what_is_near(open_bytes: Opener, first: str, second: str, near: bool) -> None:
    table = open_bytes(f'q,a\n"{first}",same\nsomething else entirely,other\n"{second}",same\n')
    earlier, later = find_near_pairs(table, ["q"], ["a"], np.arange(3))
    assert [(0, 2)] * near == list(zip(earlier.tolist(), later.tolist(), strict=True))


def test_another_answer_is_another_row(open_bytes: Opener) -> None:
    table = open_bytes(f'q,a\n"{LONG}",shipping\n"{LONG}!",billing\n')
    assert find_near_pairs(table, ["q"], ["a"], np.arange(2))[0].size == 0


def test_a_group_of_any_size_leaves_one(open_bytes: Opener) -> None:
    rng = np.random.default_rng(1)
    lines = []
    for at in range(300):
        cut = int(rng.integers(0, len(LONG)))
        lines.append(f'"{LONG[:cut]}{"xyz"[at % 3]}{LONG[cut + 1 :]}",same')
    table = open_bytes("q,a\n" + "\n".join(dict.fromkeys(lines)) + "\n")
    earlier, later = find_near_pairs(table, ["q"], ["a"], np.arange(table.rows))
    out = choose_rows_to_drop(earlier, later)
    assert out.size >= table.rows - 3
    left = np.setdiff1d(np.arange(table.rows), out)
    assert find_near_pairs(table, ["q"], ["a"], left)[0].size <= 1


def test_followers_follow_rows_that_stay() -> None:
    pairs = np.array([(0, 1), (1, 2), (2, 3), (0, 4)])
    assert choose_rows_to_drop(pairs[:, 0], pairs[:, 1]).tolist() == [1, 3, 4]
