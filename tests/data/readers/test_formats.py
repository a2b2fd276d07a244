"""The table of file formats decides how a file is read and which value of data.file_type goes with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.data.readers.formats import (
    FILE_ENDINGS,
    FORMAT_NAMES,
    FORMATS,
    choose_format,
    file_type_of,
    format_of,
    load_reader,
)


def test_no_ending_stands_for_two_formats() -> None:
    assert len(FILE_ENDINGS) == len(set(FILE_ENDINGS))
    assert FORMAT_NAMES == "CSV, JSON, JSONL, Parquet, Excel or gzip"


@pytest.mark.parametrize(
    ("name", "file_type", "kind"),
    [
        ("a.csv", "csv", "csv"),
        ("a.csv", "json", "json"),
        ("a.json", "csv", "csv"),
        ("a.PARQUET", "json", "parquet"),
        ("a.parquet", "csv", "parquet"),
        ("a.ndjson", None, "json"),
        ("a.tsv", None, "csv"),
        ("a.data", None, "csv"),
        ("a", "json", "json"),
    ],
)
def test_the_setting_decides_except_for_formats_without_a_value(name: str, file_type: str | None, kind: str) -> None:
    assert choose_format(Path(name), file_type) == kind


@pytest.mark.parametrize(
    ("name", "file_type"), [("a.TXT", "csv"), ("a.jsonl", "json"), ("a.parquet", "json"), ("a.unknown", "json")]
)
def test_the_file_type_of_a_named_file(name: str, file_type: str) -> None:
    assert file_type_of(Path(name)) == file_type


def test_every_format_has_a_reader() -> None:
    for file_format in FORMATS:
        assert callable(load_reader(file_format.kind))
        assert format_of(Path(f"x.{file_format.endings[0]}")) is file_format
