"""The token lengths of a table's rows, as the warm worker counted them (`worker/questions/lengths.py`). Knows no tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.errors import DataError

RowTokenCounts = np.ndarray[Any, np.dtype[np.int32]]


@dataclass(frozen=True)
class RowLengths:
    """Tokens of each row of the table, int32: of the prompt, and of the completion with its end. Nothing is cut yet.

    -1 in both where the row is left out because it lacks a cell that the templates use.
    """

    prompt: RowTokenCounts
    completion: RowTokenCounts

    @property
    def whole(self) -> RowTokenCounts:
        """Tokens of the whole example; -1 where the row is left out."""
        return np.where(self.prompt < 0, -1, self.prompt + self.completion).astype(np.int32)


def read_row_lengths(file: Path) -> RowLengths:
    """Raises DataError when the file is not one, or is gone: ask the worker again."""
    try:
        both = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"The token lengths can't be read ({error}).", "Open the page again.") from error
    return RowLengths(both[:, 0], both[:, 1])
