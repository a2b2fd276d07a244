"""The doctor on seeded faults whose rows are known; `benchmarks/doctor.py` prints the same at length."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.doctor import examined, examined_chats
from tests.fakes.corpus import EXACT, NEAR, WHOLE, leaks, score, seeded, small
from toolkit.data.findings import Finding

TEMPLATES = {"prompt": "{message}", "prompt_stub": "{reply}"}


def check_findings(found: Mapping[str, Finding], truth: Mapping[str, set[int]]) -> None:
    """Check that the planted rows of every kind are found, and no others."""
    for kind in (*EXACT, *NEAR):
        said = set(found[kind].rows.tolist()) if kind in found else set()
        precision, recall = score(said, truth[kind])
        least = 0.95 if kind in NEAR else 1.0
        assert precision >= min(least, 0.98), (kind, said - truth[kind])
        assert recall >= least, (kind, truth[kind] - said)
    assert not set(found) & set(WHOLE)


def test_every_planted_row_is_named_and_no_other(tmp_path: Path) -> None:
    corpus = seeded(tmp_path / "corpus.csv", 1_500, seed=101, per_fault=20)
    found, plan = examined(corpus.path, TEMPLATES, tmp_path)
    truth = corpus.truth | leaks(corpus, plan.train, plan.test)
    assert sum(map(len, truth.values())) > 200
    check_findings(found, truth)


@pytest.mark.parametrize("kind", WHOLE)
def test_a_fault_of_the_whole_table_is_found_where_it_is(tmp_path: Path, kind: str) -> None:
    for faulty in (True, False):
        path = tmp_path / f"{faulty}.csv"
        found, _ = examined(path, small(kind, faulty, 5, path), tmp_path)
        assert (kind in found) is faulty


def test_every_planted_conversation_is_named_and_no_other(tmp_path: Path) -> None:
    corpus = seeded(tmp_path / "corpus.csv", 1_500, seed=101, per_fault=20)
    found, plan = examined_chats(corpus, tmp_path)
    truth = corpus.truth | leaks(corpus, plan.train, plan.test)
    check_findings(found, truth)
