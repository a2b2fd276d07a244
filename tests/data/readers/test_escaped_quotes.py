"""Quotes behind backslashes, as Spark and MySQL write them, read in one click; spaces around delimiters."""

from __future__ import annotations

import pytest

from tests.data.conftest import Opener
from toolkit.data.read_options import ReadOptions, UnreadableError
from toolkit.data.readers.csv_layout import SAMPLE_CHARACTERS

ROWS = r"""question,answer
"He said \"lamp\", and left","C:\lamps\new"
"Why?","Say \"so\", \\ and \n."
"""


def test_quotes_behind_backslashes_are_read_in_one_click(open_bytes: Opener) -> None:
    with pytest.raises(UnreadableError) as refused:
        open_bytes(ROWS)
    offer = refused.value.offers[0]
    assert offer.label == r"Read \" as a quote inside a cell"
    assert offer.preview[0] == r'He said "lamp", and left │ C:\lamps\new'
    table = open_bytes(ROWS, options=offer.options)
    assert table.row(0) == {"question": 'He said "lamp", and left', "answer": r"C:\lamps\new"}
    assert table.row(1)["answer"] == r'Say "so", \\ and \n.', "other backslashes stay"


def test_a_backslash_in_front_of_the_end_of_a_cell_is_no_escape(open_bytes: Opener) -> None:
    content = 'path,note\n"C:\\\\",a\n"D:\\\\",b\n'
    assert open_bytes(content, options=ReadOptions(quotes="backslash")).row(0)["path"] == "C:\\\\"


def test_without_equal_rows_it_is_not_offered(open_bytes: Opener) -> None:
    with pytest.raises(UnreadableError) as refused:
        open_bytes(ROWS + "a,b,c\n")
    assert all("inside a cell" not in offer.label for offer in refused.value.offers)


@pytest.mark.parametrize("delimiter", [", ", "; ", " | "])
def test_spaces_at_every_delimiter_are_no_part_of_the_cells(open_bytes: Opener, delimiter: str) -> None:
    rows = [("question", "answer", "id"), *((f"Where is lamp {at}?", f"In aisle {at}.", str(at)) for at in range(6))]
    table = open_bytes("\n".join(map(delimiter.join, rows)))
    assert [tuple(row.values()) for row in table.page(0, 6)] == rows[1:]
    assert "Every delimiter has spaces around it: they are no part of the cells." in table.notices


@pytest.mark.parametrize("rows", [["a, b", "c,d", "e, f"], ["one", "two", "three"], ["a,  b", "c,  d", "e,  f"]])
def test_other_spaces_are_kept(open_bytes: Opener, rows: list[str]) -> None:
    table = open_bytes("\n".join(["question,answer" if "," in rows[0] else "text", *rows]))
    assert [",".join(map(str, row.values())) for row in table.page(0, 3)] == rows


def test_a_delimiter_inside_quotes_keeps_its_spaces_below_the_sample(open_bytes: Opener) -> None:
    lines = ["question | answer", *(f"Where is lamp {at}? | In aisle {at}." for at in range(3_000))]
    assert sum(map(len, lines)) > SAMPLE_CHARACTERS
    table = open_bytes("\n".join([*lines, 'Which lamp? | "red | blue"']))
    assert table.row(0)["question"] == "Where is lamp 0?"
    assert table.row(3_000)["answer"] == "red | blue"
