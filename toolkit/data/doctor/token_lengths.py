"""Token lengths of a table's rows, read from the file that the background worker writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.errors import DataError

RowTokenCounts = np.ndarray[Any, np.dtype[np.int32]]


@dataclass(frozen=True)
class RowLengths:
    """Tokens of each row's prompt, and of its completion with the end token, before truncation; int32.

    Both are -1 in a row that is skipped because of a missing cell.
    """

    prompt: RowTokenCounts
    completion: RowTokenCounts

    @property
    def total(self) -> RowTokenCounts:
        """Tokens of each row's prompt and completion together; -1 in a skipped row."""
        return np.where(self.prompt < 0, -1, self.prompt + self.completion).astype(np.int32)


def read_row_lengths(file: Path) -> RowLengths:
    """Read the lengths. Raises DataError when the file is missing or invalid; the worker can write it again."""
    try:
        both = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"The token lengths can't be read ({error}).", "Open the page again.") from error
    return RowLengths(both[:, 0], both[:, 1])
