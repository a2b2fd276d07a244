"""What a length limit does to answers, counted."""

from __future__ import annotations

import numpy as np

from toolkit.data.doctor.truncation import (
    RowLengths,
    find_rows_without_completion,
    find_truncated_answers,
    find_truncated_rows,
    length_histogram,
    suggest_max_length,
    usable_row_lengths,
)


def _lengths(total: list[int], prompt: int = 5) -> RowLengths:
    """Every second row is left out."""
    whole = np.full(2 * len(total), -1, dtype=np.int32)
    whole[::2] = total
    prompts = np.where(whole < 0, -1, np.minimum(prompt, whole)).astype(np.int32)
    return RowLengths(prompts, np.where(whole < 0, -1, whole - prompts).astype(np.int32))


def test_rows_cut_and_lost() -> None:
    lengths = _lengths([10, 11, 12, 30])
    assert find_truncated_rows(lengths, 11).tolist() == [4, 6]
    assert find_rows_without_completion(lengths, 11).tolist() == []
    assert find_rows_without_completion(_lengths([10, 30], prompt=11), 11).tolist() == [2]


def test_the_length_that_keeps_a_share() -> None:
    lengths = _lengths([*range(1, 100), 1000])
    assert suggest_max_length(lengths) == 104
    assert suggest_max_length(lengths, 1.0) == 1000
    assert (usable_row_lengths(lengths) <= suggest_max_length(lengths)).mean() >= 0.99
    assert suggest_max_length(_lengths([])) == 8


def test_the_finding_and_its_fixes() -> None:
    lengths = _lengths([*([10] * 197), 40, 50, 1000])
    assert find_truncated_answers(lengths, 1000) is None
    found = find_truncated_answers(lengths, 20)
    assert found is not None
    assert "3 of 200 rows are longer than 20 tokens" in found.message
    assert [fix.settings for fix in found.fixes[:2]] == [
        {"training.sft_args.max_seq_length": 40}, {"training.sft_args.max_seq_length": 1000},
    ]  # fmt: skip
    assert found.fixes[2].rows.tolist() == found.rows.tolist() == [394, 396, 398]


def test_the_histogram_counts_every_row() -> None:
    for total in ([1], [3, 3, 999], list(range(2000))):
        edges, counts = length_histogram(_lengths(total))
        assert counts.sum() == len(total)
        assert len(counts) <= 41
        assert len(edges) == len(counts) + 1
