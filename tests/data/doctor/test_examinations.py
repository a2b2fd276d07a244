"""Examinations in the background: kept on disk, left when nobody waits, and accepted findings."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.data.conftest import Opener
from toolkit.config import DataConfig
from toolkit.data.doctor import accepted_findings, examinations
from toolkit.data.doctor.examinations import remove_template_wording, request_examination
from toolkit.data.findings import Finding, FindingsReport, Fix, read_findings_report, write_findings_report


def _data(prompt: str = "{q}", stub: str = "{a}") -> DataConfig:
    return DataConfig.model_validate({"prompt": prompt, "prompt_stub": stub})


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_an_examination_runs_once_and_is_kept(open_bytes: Opener, tmp_path: Path) -> None:
    table = open_bytes("q,a\n" + "".join(f"q{i},a{i}\n" for i in range(30)) + "q1,a1\n")
    one = request_examination(table, _data(), tmp_path, "me")
    _until(lambda: one.over)
    assert one.error is None
    assert one.report is not None
    assert {finding.kind for finding in one.report.findings} >= {"duplicate"}
    examinations.forget_examination(one.key)
    again = request_examination(table, _data("Other words: {q}").model_copy(update={"prompt": "{q}"}), tmp_path, "me")
    assert again.over, "it is read from disk"
    assert again.report is not None
    assert again.report.findings[0].rows.tolist() == one.report.findings[0].rows.tolist()


def test_an_examination_that_nobody_waits_for_is_stopped(open_bytes: Opener, tmp_path: Path) -> None:
    table = open_bytes("q,a\n" + "".join(f"q{i},a{i}\n" for i in range(30)))
    first = request_examination(table, _data(), tmp_path, "me")
    second = request_examination(table, _data("{q}{a}"), tmp_path, "me")
    assert first.stop.is_set()
    assert not second.stop.is_set()
    _until(lambda: second.over)
    assert not first.over
    _until(lambda: not list((tmp_path / "uploads" / "findings").glob(".part-*")))


def test_words_of_the_templates_do_not_matter_but_whether_there_are_any() -> None:
    assert (
        remove_template_wording(_data("Say {q} {{now}}", "{a}")).prompt
        == remove_template_wording(_data("Tell {q}", "{a}")).prompt
    )
    assert (
        remove_template_wording(_data("Say {q}", "{a}")).prompt != remove_template_wording(_data("{q}", "{a}")).prompt
    )
    assert remove_template_wording(_data("{q} and {x} and {q}")).prompt == "-{q}{x}"


def test_a_report_survives_the_disk(tmp_path: Path) -> None:
    rows = np.arange(5_000)
    fix = Fix("Remove", "drop", "removed", rows, ("a",), {"data.prompt": "x"})
    write_findings_report(FindingsReport((Finding("k", "T", "m", "w", "note", rows, (fix,)),), ("a note",)), tmp_path)
    back = read_findings_report(tmp_path)
    assert back.notes == ("a note",)
    assert np.array_equal(back.findings[0].fixes[0].rows, rows)
    assert back.findings[0].fixes[0].settings == {"data.prompt": "x"}


def test_what_was_accepted_opens_again_when_it_grows(open_bytes: Opener, tmp_path: Path) -> None:
    table = open_bytes("q,a\n1,2\n3,4\n")
    few = Finding("duplicate", "T", "2 rows", "w", "warning", np.arange(2))
    accepted_findings.accept_finding(few, table, tmp_path)
    marks = accepted_findings.read_accepted_findings(table, tmp_path)
    assert accepted_findings.is_accepted(few, marks)
    assert accepted_findings.is_accepted(Finding("duplicate", "T", "1 row", "w", "warning", np.arange(1)), marks)
    assert not accepted_findings.is_accepted(Finding("duplicate", "T", "3 rows", "w", "warning", np.arange(3)), marks)
    assert not accepted_findings.is_accepted(Finding("leak", "T", "2 rows", "w", "warning", np.arange(2)), marks)
    accepted_findings.reopen_finding(few, table, tmp_path)
    assert not accepted_findings.is_accepted(few, accepted_findings.read_accepted_findings(table, tmp_path))
