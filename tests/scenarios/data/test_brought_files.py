"""Files in the shapes that people bring: each is read, suggested and judged as its owner means it.

The files are in tests/fixtures/brought; the table of expectations names each of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from toolkit.config import DataConfig
from toolkit.data.doctor.checks import examine_dataset
from toolkit.data.examples.column_suggestion import ColumnSuggestion, suggest_for_table
from toolkit.data.examples.renderers import renderer_of
from toolkit.data.examples.split import usable_indices
from toolkit.data.examples.templates import Example
from toolkit.data.findings import Finding
from toolkit.data.read_options import DEFAULT_READ_OPTIONS, ReadOptions
from toolkit.data.readers.formats import choose_format, file_type_of
from toolkit.data.readers.read_file import TABLE_FILE, ReadRequest, read_file_to_table
from toolkit.data.table import Table, load_table

BROUGHT = Path(__file__).parents[2] / "fixtures" / "brought"


@dataclass(frozen=True)
class Brought:
    """A file as the toolkit understands it. data: the settings of the suggestion, None where the user has to choose."""

    table: Table
    suggestion: ColumnSuggestion
    data: DataConfig | None

    @property
    def usable(self) -> int:
        return len(usable_indices(self.table, renderer_of(self.settings, self.table.columns).columns_required))

    @property
    def settings(self) -> DataConfig:
        assert self.data is not None, self.suggestion
        return self.data

    def example(self, row: int = 0) -> Example:
        return renderer_of(self.settings, self.table.columns).example(self.table.row(row))

    def findings(self) -> dict[str, Finding]:
        return {finding.kind: finding for finding in examine_dataset(self.table, self.settings).findings}


Bring = Callable[..., Brought]


@pytest.fixture
def bring(tmp_path: Path) -> Bring:
    """Read a file of the folder, or the given bytes under this name, and suggest what to train on."""

    def brought(name: str, content: bytes | None = None, options: ReadOptions = DEFAULT_READ_OPTIONS) -> Brought:
        path = BROUGHT / name
        if content is not None:
            path = tmp_path / name
            path.write_bytes(content)
        kind = choose_format(path, file_type_of(path))
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        read_file_to_table(ReadRequest(str(path), str(tmp_path), kind, sha256, name, options))
        table = load_table(tmp_path / TABLE_FILE)
        suggestion = suggest_for_table(table)
        if suggestion.kind == "ask":
            return Brought(table, suggestion, None)
        templates = {"prompt": suggestion.prompt, "prompt_stub": suggestion.completion}
        optional = list(suggestion.optional) or None
        return Brought(
            table, suggestion, DataConfig(**templates, messages=suggestion.messages, optional_columns=optional)
        )

    return brought


def test_a_blank_input_of_an_instruction_loses_no_row(bring: Bring) -> None:
    found = bring("s01_alpaca_blank_input.csv")
    assert found.suggestion.prompt == "{instruction}\n\n{input}"
    assert found.suggestion.optional == ("input",)
    assert (found.table.rows, found.usable) == (20, 20)
    assert "None" not in found.example().prompt
    assert "empty in 13 rows" in found.suggestion.notes[0]
    finding = found.findings()["empty_text"]
    assert finding.count == 13
    assert finding.fixes[0].settings == {"data.optional_columns": None}


@pytest.mark.parametrize("blank", ["null", '""'])
def test_null_and_empty_text_are_alike(bring: Bring, blank: str) -> None:
    cell = '"a long and free input of its own, number %d"'
    lines = [
        f'{{"instruction": "Name a colour number {i}", "input": {blank if i % 2 else cell % i}, "output": "red {i}"}}'
        for i in range(12)
    ]
    found = bring("alpaca.jsonl", "\n".join(lines).encode())
    assert found.usable == 12
    assert found.example(1).prompt == "Name a colour number 1\n\n"


def test_a_missing_question_is_skipped_and_offered_as_empty_text(bring: Bring) -> None:
    rows = [f"{'' if i == 3 else f'What is {i} plus {i}?'},The sum is {2 * i}." for i in range(12)]
    found = bring("questions.csv", "\n".join(["question,answer", *rows]).encode())
    assert (found.suggestion.optional, found.usable) == ((), 11)
    fill, remove = found.findings()["missing"].fixes
    assert (fill.label, fill.settings) == (
        "Count missing cells as empty text",
        {"data.optional_columns": ["question"]},
    )
    assert remove.action == "drop"
