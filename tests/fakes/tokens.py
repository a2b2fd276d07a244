"""What tests count in prepared examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolkit.worker.tokens.labels import PreparedExamples


def count_trained_tokens(prepared: PreparedExamples) -> int:
    """Return the number of labels that are not masked."""
    return sum(label != -100 for labels in prepared.table["labels"].to_pylist() for label in labels)
