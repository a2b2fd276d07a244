"""Joined, replaced, canceled, failed and discarded questions of the request queue, with fake answers."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import pytest

from toolkit.errors import ToolkitError
from toolkit.worker.questions import desk as module
from toolkit.worker.questions.desk import QuestionJob, RequestQueue
from toolkit.worker.questions.registry import WarmQuestion

LET_GO, BEGUN = threading.Event(), threading.Event()


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


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[RequestQueue]:
    answers = ModuleType("answers_of_the_test")
    answers.__dict__.update(echo=echo, slow=slow, broken=broken)
    monkeypatch.setitem(sys.modules, answers.__name__, answers)
    kinds = {"echo": True, "slow": False, "broken": True}
    monkeypatch.setattr(
        module,
        "WARM_QUESTIONS",
        {name: WarmQuestion(f"{answers.__name__}.{name}", quick) for name, quick in kinds.items()},
    )
    monkeypatch.setattr(module.libraries, "IMPORT_STEPS", ())
    LET_GO.clear()
    BEGUN.clear()
    one = RequestQueue()
    one.start()
    yield one
    LET_GO.set()
    one.close()


def answered(job: QuestionJob) -> QuestionJob:
    assert job.future is not None
    job.future.result(10)
    return job


def test_a_quick_question_does_not_wait_for_a_long_one(desk: RequestQueue) -> None:
    long = desk.get_or_start_job("slow", {"a": 1}, "me")
    assert BEGUN.wait(10)
    assert answered(desk.get_or_start_job("echo", {"b": 2}, "me")).value == {"b": 2}
    assert not long.finished
    assert (long.phase, long.total) == ("counting", 10)
    assert desk.busy


def test_the_same_question_joins_the_job_and_another_body_replaces_it(desk: RequestQueue) -> None:
    first = desk.get_or_start_job("slow", {"a": 1}, "me")
    assert desk.get_or_start_job("slow", {"a": 1}, "me") is first
    assert BEGUN.wait(10)
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
    monkeypatch.setattr(module.libraries, "IMPORT_STEPS", ("no.such.library",))
    one = RequestQueue()
    one.start()
    job = answered(one.get_or_start_job("lengths", {}, ""))
    assert job.error is not None
    assert "ModuleNotFoundError" in job.error.message
    one.close()
