"""Which sheet of a workbook is read: the first that holds a table, or the one that was chosen."""

from __future__ import annotations

import io

import openpyxl
import pytest

from tests.data.conftest import Opener
from toolkit.data.read_options import ReadOptions, UnreadableError
from toolkit.errors import DataError

PAIRS = [("question", "answer"), ("Where?", "Here."), ("When?", "Now.")]


def workbook(**sheets: list[tuple[str, ...]]) -> bytes:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    content = io.BytesIO()
    book.save(content)
    return content.getvalue()


def test_a_sheet_with_a_title_is_not_taken_for_the_table(open_bytes: Opener) -> None:
    table = open_bytes(workbook(Cover=[("FAQ of the shop",)], Empty=[], Data=PAIRS), "xlsx")
    assert table.rows == 2 and table.row(1) == {"question": "When?", "answer": "Now."}
    assert "Rows were read from the sheet 'Data'." in table.notices
    assert [offer.label for offer in table.offers] == ["Read the sheet 'Cover'"], "an empty sheet is not offered"


def test_the_chosen_sheet_is_read_with_the_others_on_offer(open_bytes: Opener) -> None:
    content = workbook(Old=[("q", "a"), ("x", "y"), ("z", "w")], New=PAIRS, More=PAIRS)
    asked = open_bytes(content, "xlsx")
    assert asked.columns == ("q", "a")
    offer = next(offer for offer in asked.offers if offer.label == "Read the sheet 'New'")
    assert offer.preview[:2] == ("question │ answer", "Where? │ Here.")
    table = open_bytes(content, "xlsx", offer.options)
    assert table.columns == ("question", "answer")
    assert [offer.options.rows_from for offer in table.offers] == ["Old", "More"]


def test_a_sheet_that_is_not_there_is_named_with_those_that_are(open_bytes: Opener) -> None:
    content = workbook(Old=PAIRS, New=PAIRS)
    with pytest.raises(UnreadableError, match="There is no sheet 'Newer'") as refused:
        open_bytes(content, "xlsx", ReadOptions(rows_from="Newer"))
    assert refused.value.hint == "The sheets are: 'Old', 'New'."
    assert open_bytes(content, "xlsx", refused.value.offers[0].options).rows == 2


def test_a_workbook_without_cells_is_refused(open_bytes: Opener) -> None:
    with pytest.raises(DataError, match="has no sheet with cells"):
        open_bytes(workbook(One=[], Two=[]), "xlsx")
