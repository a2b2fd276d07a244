"""The dataset that is checked: a table as the data settings use it, with values that several checks need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.compute as pc

from toolkit.config import DataConfig
from toolkit.data.doctor.near_duplicates import choose_rows_to_drop, find_near_pairs
from toolkit.data.doctor.row_keys import Hashes, Mask, column_hashes, mark_repeats, number_groups
from toolkit.data.examples.learned_turns import TURN_ANSWER, TURN_PROMPT, make_turn_table
from toolkit.data.examples.renderers import ChatRenderer, renderer_of
from toolkit.data.examples.split import SplitPlan, plan_split
from toolkit.data.examples.templates import CompiledTemplate, Renderer
from toolkit.data.progress import ShareReporter
from toolkit.data.table import RowNumbers, Table


@dataclass(frozen=True)
class ExaminedRows:
    """usable: whether a row has every cell that the templates use; hashes: of the cells of each used column."""

    table: Table
    data: DataConfig
    renderer: Renderer
    plan: SplitPlan
    usable: Mask
    hashes: dict[str, Hashes]

    def keys(self, columns: Sequence[str]) -> RowNumbers:
        """Return numbers that are equal where the cells in `columns` are; they must be columns of the templates."""
        return number_groups([self.hashes[column] for column in columns], self.table.rows)

    @cached_property
    def used(self) -> RowNumbers:
        """The row numbers of the usable rows, ascending."""
        return np.flatnonzero(self.usable)

    @cached_property
    def examples(self) -> RowNumbers:
        return self.keys(self.renderer.columns_needed)

    @cached_property
    def prompts(self) -> RowNumbers:
        return self.keys(self.renderer.prompt_template.columns)

    @cached_property
    def answers(self) -> RowNumbers:
        return self.keys(self.renderer.stub_template.columns)

    @cached_property
    def repeated(self) -> RowNumbers:
        """The rows that repeat both the prompt and the answer of an earlier row."""
        return self.used[mark_repeats(self.examples[self.used])]

    def find_near_duplicates(self, report_share: ShareReporter) -> tuple[RowNumbers, RowNumbers, RowNumbers]:
        """Return (earlier, later, drop): pairs of near rows among the distinct ones, and the rows to remove."""
        distinct = np.setdiff1d(self.used, self.repeated)
        renderer = self.renderer
        earlier, later = find_near_pairs(
            self.table, renderer.prompt_template.columns, renderer.stub_template.columns, distinct, report_share
        )
        return earlier, later, choose_rows_to_drop(earlier, later)

    @cached_property
    def blank_answers(self) -> Mask:
        """Whether a row's completion is white space alone; a row with a missing cell is not blank."""
        return self._blank(self.renderer.stub_template)

    @cached_property
    def blank_prompts(self) -> Mask:
        """Whether a row's prompt is white space alone; none is where the template uses no column."""
        template = self.renderer.prompt_template
        return self._blank(template) if template.columns else np.zeros(self.table.rows, dtype=bool)

    def _blank(self, template: CompiledTemplate) -> Mask:
        literal = "".join(piece.text for piece in template.pieces if not piece.is_column)
        blank = np.full(self.table.rows, not literal.strip(), dtype=bool)
        for lengths in self.measure_cells(template.columns, _trimmed_length).values() if blank.any() else ():
            blank &= lengths <= 0
        return blank & self.usable

    def measure_cells(self, columns: Sequence[str], measure: Callable[[Any], Any]) -> dict[str, RowNumbers]:
        """Return the result of `measure` for each cell of each column, -1 for a missing cell. Reads in batches."""
        parts: dict[str, list[RowNumbers]] = {name: [np.zeros(0, dtype=np.int64)] for name in columns}
        for batch in self.table.batches(list(columns)) if columns else ():
            for name, cells in zip(columns, batch.columns, strict=True):
                parts[name].append(pc.fill_null(measure(cells), -1).to_numpy(zero_copy_only=False))
        return {name: np.concatenate(found) for name, found in parts.items()}


def _trimmed_length(cells: Any) -> Any:
    return pc.utf8_length(pc.utf8_trim_whitespace(cells))


def make_examined_rows(table: Table, data: DataConfig) -> ExaminedRows:
    """Prepare a table for the checks. Raises DataError when the templates or split sizes are invalid."""
    plan = plan_split(table, data)
    renderer = renderer_of(data, table.columns)
    usable: Any = np.ones(table.rows, dtype=bool)
    usable[plan.dropped] = False
    return ExaminedRows(table, data, renderer, plan, usable, column_hashes(table, renderer.columns_needed))


def make_examined_turns(examined: ExaminedRows) -> tuple[ExaminedRows, RowNumbers]:
    """Return (the trained messages of a dataset of conversations, prepared for the checks, the row of each message)."""
    assert isinstance(examined.renderer, ChatRenderer)
    table, rows = make_turn_table(examined.table, examined.renderer, examined.used)
    train, test = (np.flatnonzero(np.isin(rows, part)) for part in (examined.plan.train, examined.plan.test))
    plan = SplitPlan(train, test, dropped=np.zeros(0, dtype=np.int64))
    data = DataConfig(prompt=f"{{{TURN_PROMPT}}}", prompt_stub=f"{{{TURN_ANSWER}}}")
    renderer = renderer_of(data, table.columns)
    usable = np.ones(table.rows, dtype=bool)
    return ExaminedRows(table, data, renderer, plan, usable, column_hashes(table, renderer.columns_needed)), rows
