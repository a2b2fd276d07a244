"""The examined dataset: a table as the data settings use it, with what several checks need, worked out once."""

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
from toolkit.data.examples.renderers import renderer_of
from toolkit.data.examples.split import SplitPlan, plan_split
from toolkit.data.examples.templates import Renderer
from toolkit.data.findings import RowNumbers
from toolkit.data.table import Table

CheckShareReporter = Callable[[float], None]


@dataclass(frozen=True)
class ExaminedRows:
    """usable: rows with every cell that the templates use; hashes: of the cells of each used column."""

    table: Table
    data: DataConfig
    renderer: Renderer
    plan: SplitPlan
    usable: Mask
    hashes: dict[str, Hashes]

    def keys(self, columns: Sequence[str]) -> RowNumbers:
        """Numbers that are equal where the cells in `columns` (used ones) are."""
        return number_groups([self.hashes[column] for column in columns], self.table.rows)

    @cached_property
    def used(self) -> RowNumbers:
        """The usable rows, ascending."""
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
        """Rows that repeat an earlier one, prompt and answer alike."""
        return self.used[mark_repeats(self.examples[self.used])]

    def find_near_duplicates(self, tell: CheckShareReporter) -> tuple[RowNumbers, RowNumbers, RowNumbers]:
        """(earlier, later, followers): pairs of near rows among the distinct ones, and the rows to leave out."""
        distinct = np.setdiff1d(self.used, self.repeated)
        renderer = self.renderer
        earlier, later = find_near_pairs(
            self.table, renderer.prompt_template.columns, renderer.stub_template.columns, distinct, tell
        )
        return earlier, later, choose_rows_to_drop(earlier, later)

    @cached_property
    def blank_answers(self) -> Mask:
        """Rows whose completion is white space alone; a missing cell is not blank."""
        template = self.renderer.stub_template
        literal = "".join(piece.text for piece in template.pieces if not piece.is_column)
        blank = np.full(self.table.rows, not literal.strip(), dtype=bool)
        for own in self.measured(template.columns, _trimmed_length).values() if blank.any() else ():
            blank &= own == 0
        return blank & self.usable

    def measured(self, columns: Sequence[str], measure: Callable[[Any], Any]) -> dict[str, RowNumbers]:
        """What `measure` gives for each cell of each column, -1 for a missing one; batch by batch."""
        parts: dict[str, list[RowNumbers]] = {name: [np.zeros(0, dtype=np.int64)] for name in columns}
        for batch in self.table.batches(list(columns)) if columns else ():
            for name, cells in zip(columns, batch.columns, strict=True):
                parts[name].append(pc.fill_null(measure(cells), -1).to_numpy(zero_copy_only=False))
        return {name: np.concatenate(found) for name, found in parts.items()}


def _trimmed_length(cells: Any) -> Any:
    return pc.utf8_length(pc.utf8_trim_whitespace(cells))


def make_examined_rows(table: Table, data: DataConfig) -> ExaminedRows:
    """Raises DataError when the templates or the sizes can't be used."""
    plan = plan_split(table, data)
    renderer = renderer_of(data, table.columns)
    usable: Any = np.ones(table.rows, dtype=bool)
    usable[plan.dropped] = False
    return ExaminedRows(table, data, renderer, plan, usable, column_hashes(table, renderer.columns_needed))
