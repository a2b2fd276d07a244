"""Joined, replaced, canceled, failed and discarded questions of the request queue, with fake answers."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordPiece

from toolkit.errors import ToolkitError
from toolkit.worker.questions import answer_process
from toolkit.worker.questions import desk as module
from toolkit.worker.questions.desk import RequestQueue
from toolkit.worker.questions.question_job import QuestionJob
from toolkit.worker.questions.registry import WarmQuestion

FORKED = multiprocessing.get_context("fork")
LET_GO, BEGUN = FORKED.Event(), FORKED.Event()


def echo(body: Mapping[str, Any], job: QuestionJob) -> dict[str, Any]:
    return dict(body)


def slow(body: Mapping[str, Any], job: QuestionJob) -> dict[str, Any]:
    at = 0
    while not LET_GO.is_set():
        job.report_progress("counting", at, 10)
        BEGUN.set()
        at = min(at + 1, 9)
        time.sleep(0.005)
    return dict(body)


def broken(body: Mapping[str, Any], job: QuestionJob) -> dict[str, Any]:
    if body:
        raise ToolkitError("It can't be.", "Do otherwise.")
    raise ZeroDivisionError("by nothing")


class PanicException(BaseException):
    """As of the library tokenizers."""


def hostile(body: Mapping[str, Any], job: QuestionJob) -> dict[str, Any]:
    BEGUN.set()
    if body["how"] == "panic":
        raise PanicException("called `Option::unwrap()` on a `None` value")
    if body["how"] == "memory":
        return {"size": len("a" * 10**11)}
    if body["how"] == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if body["how"] == "compiled":
        Tokenizer(WordPiece({"a": 0}, unk_token="[UNK]")).encode("b")
    if body["how"] == "library":
        re.compile("(")
    if body["how"] == "recursion":
        return hostile(body, job)
    while True:
        pass


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[RequestQueue]:
    answers = ModuleType("answers_of_the_test")
    answers.__dict__.update(echo=echo, slow=slow, broken=broken, hostile=hostile)
    monkeypatch.setitem(sys.modules, answers.__name__, answers)
    kinds = {"echo": True, "slow": False, "broken": True, "hostile": False}
    monkeypatch.setattr(
        module,
        "WARM_QUESTIONS",
        {name: WarmQuestion(f"{answers.__name__}.{name}", quick) for name, quick in kinds.items()},
    )
    monkeypatch.setattr(answer_process.libraries, "IMPORT_STEPS", ())
    # libraries that earlier tests have imported may start a thread in each fork
    monkeypatch.setattr(answer_process.libraries, "can_fork", lambda: True)
    LET_GO.clear()
    BEGUN.clear()
    one = RequestQueue()
    one.start()
    yield one
    LET_GO.set()
    one.close()


def answered(job: QuestionJob) -> QuestionJob:
    assert job.future is not None
    job.future.result(60)
    return job


def test_a_quick_question_does_not_wait_for_a_long_one(desk: RequestQueue) -> None:
    long = desk.get_or_start_job("slow", {"a": 1}, "me")
    assert BEGUN.wait(60)
    assert answered(desk.get_or_start_job("echo", {"b": 2}, "me")).value == {"b": 2}
    assert not long.finished
    assert (long.phase, long.total) == ("counting", 10)
    assert desk.busy


def test_the_same_question_joins_the_job_and_another_body_replaces_it(desk: RequestQueue) -> None:
    first = desk.get_or_start_job("slow", {"a": 1}, "me")
    assert desk.get_or_start_job("slow", {"a": 1}, "me") is first
    assert BEGUN.wait(60)
    others = desk.get_or_start_job("slow", {"a": 2}, "another")
    second = desk.get_or_start_job("slow", {"a": 3}, "me")
    assert answered(first).error is not None, "it was canceled while running"
    LET_GO.set()
    assert answered(second).value == {"a": 3}
    assert answered(others).value == {"a": 2}, "another lane is not affected"


def test_a_question_canceled_while_waiting_is_not_started(desk: RequestQueue) -> None:
    desk.get_or_start_job("slow", {"a": 1}, "me")
    waiting = desk.get_or_start_job("slow", {"a": 1}, "you")
    desk.get_or_start_job("slow", {"a": 2}, "you")
    assert waiting.future is not None
    assert waiting.future.cancelled()
    assert desk.get_or_start_job("slow", {"a": 1}, "you") is not waiting


def test_a_delivered_answer_is_computed_again(desk: RequestQueue) -> None:
    first = answered(desk.get_or_start_job("echo", {}, ""))
    assert desk.get_or_start_job("echo", {}, "") is first
    desk.discard_delivered_job(first, "")
    assert desk.get_or_start_job("echo", {}, "") is not first


def test_unfetched_answers_are_discarded(desk: RequestQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    first = answered(desk.get_or_start_job("echo", {}, ""))
    desk.discard_unfetched_jobs()
    assert desk.get_or_start_job("echo", {}, "") is first
    monkeypatch.setattr(module, "UNFETCHED_ANSWER_SECONDS", -1.0)
    desk.discard_unfetched_jobs()
    assert desk.get_or_start_job("echo", {}, "") is not first


def test_an_error_is_explained_and_does_not_affect_the_next_question(desk: RequestQueue) -> None:
    ours = answered(desk.get_or_start_job("broken", {"a": 1}, "")).error
    assert ours is not None
    assert (ours.message, ours.hint) == ("It can't be.", "Do otherwise.")
    strange = answered(desk.get_or_start_job("broken", {}, "")).error
    assert strange is not None
    assert "ZeroDivisionError" in strange.message
    assert "warm/warm.log" in strange.hint
    assert answered(desk.get_or_start_job("echo", {}, "")).value == {}
    with pytest.raises(ToolkitError, match="does not know the question"):
        desk.get_or_start_job("weather", {}, "")


def test_a_broken_installation_is_the_answer_to_every_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_process.libraries, "IMPORT_STEPS", ("no.such.library",))
    one = RequestQueue()
    one.start()
    job = answered(one.get_or_start_job("lengths", {}, ""))
    assert job.error is not None
    assert "ModuleNotFoundError" in job.error.message
    one.close()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("endless", "made no progress for 1 s and was stopped"), ("panic", "failed inside the library: called"),
        ("memory", "needed over 3"), ("dies", "ended unexpectedly"), ("recursion", "failed: RecursionError"),
        ("library", "failed: error: missing ), unterminated subpattern"),
        ("compiled", "failed: Exception: WordPiece error: Missing [UNK] token"),
    ],
)  # fmt: skip
def test_a_hostile_model_costs_one_process_and_is_explained(
    desk: RequestQueue, monkeypatch: pytest.MonkeyPatch, how: str, says: str
) -> None:
    if how == "endless":  # the others end by themselves, however long a busy machine takes
        monkeypatch.setattr(answer_process, "STALL_SECONDS", 1.0)
    body = {"how": how, "config": {"model": {"hf_model_ckpt": "owner/evil"}}}
    error = answered(desk.get_or_start_job("hostile", body, "me")).error
    assert error is not None
    assert says in error.message
    assert "'owner/evil'" in error.message
    assert error.hint
    LET_GO.set()
    assert answered(desk.get_or_start_job("slow", {"a": 1}, "me")).value == {"a": 1}, "the lane answers the next one"


def test_a_question_that_does_not_notice_is_canceled_by_its_successor(
    desk: RequestQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_process, "CANCEL_SECONDS", 0.1)
    endless = desk.get_or_start_job("hostile", {"how": "endless"}, "me")
    assert BEGUN.wait(60)
    second = desk.get_or_start_job("hostile", {"how": "panic"}, "me")
    assert "canceled" in str(answered(endless).error)
    assert "failed inside the library" in str(answered(second).error)


def test_a_lane_without_a_process_that_forks_starts_a_new_one(
    desk: RequestQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered(desk.get_or_start_job("echo", {"a": 1}, "me"))
    started: list[list[str]] = []

    def note(command: list[str], **options: Any) -> Any:
        started.append(command)
        raise OSError("not here")

    monkeypatch.setattr(answer_process.subprocess, "Popen", note)
    monkeypatch.setattr(desk._forks, "_forks", False)
    assert answered(desk.get_or_start_job("slow", {"a": 1}, "me")).error is not None
    assert started[0][1:3] == ["-m", "toolkit.worker.questions.answer_process"]
    assert answered(desk.get_or_start_job("echo", {"a": 2}, "me")).value == {"a": 2}
