"""A first line that is a row is asked about, and is not lost when the user says so."""

from __future__ import annotations

import io
from dataclasses import replace

import openpyxl
import pytest

from tests.data.conftest import Opener
from toolkit.data.read_options import DEFAULT_READ_OPTIONS
from toolkit.data.shapes.missing_header import missing_header_offers

PAIRS = [
    ("How do I reset my password?", "Open the settings and choose Reset."),
    ("Where is my order 4412?", "It left the depot on Monday morning."),
    ("Can I pay by invoice?", "Yes, for orders above 50 euros."),
]
LABELS = [
    ("I love this lamp", "positive"),
    ("It broke at once", "negative"),
    ("Great!", "positive"),
    ("Ok", "positive"),
]
FORM = [("What went wrong with it?", "How should we answer this?"), ("It broke.", "Say sorry."), ("Late.", "Say when.")]
REPEATED = [("question", "answer"), ("a", "b"), ("question", "answer"), ("c", "d"), ("question", "answer")]


@pytest.mark.parametrize(
    ("rows", "is_asked"), [(PAIRS, True), (LABELS, True), (FORM, False), (REPEATED, False), (PAIRS[:1], False)]
)
def test_a_first_line_that_looks_like_a_row_is_asked_about(rows: list[tuple[str, str]], is_asked: bool) -> None:
    found = missing_header_offers(rows, DEFAULT_READ_OPTIONS)
    assert [offer.options.header_row for offer in found] == [0] * is_asked
    assert not missing_header_offers(rows, replace(DEFAULT_READ_OPTIONS, header_row=1)), "the question was answered"


def test_a_csv_file_without_column_names_keeps_its_first_row(open_bytes: Opener) -> None:
    content = "\n".join(";".join(row) for row in LABELS)
    asked = open_bytes(content, "csv")
    assert asked.rows == 3
    (offer,) = [offer for offer in asked.offers if offer.options.header_row == 0]
    assert offer.doubt in asked.notices
    assert offer.preview[:2] == ("column 1 │ column 2", "I love this lamp │ positive")
    table = open_bytes(content, "csv", offer.options)
    assert table.rows == 4 and tuple(table.columns) == ("column 1", "column 2")
    assert table.row(0) == {"column 1": "I love this lamp", "column 2": "positive"}


def test_a_sheet_without_column_names_keeps_its_first_row(open_bytes: Opener) -> None:
    book = openpyxl.Workbook()
    for row in PAIRS:
        book.active.append(row)
    content = io.BytesIO()
    book.save(content)
    asked = open_bytes(content.getvalue(), "xlsx")
    assert [offer.options.header_row for offer in asked.offers] == [0]
    table = open_bytes(content.getvalue(), "xlsx", asked.offers[0].options)
    assert table.rows == 3 and table.row(0)["column 2"] == "Open the settings and choose Reset."
