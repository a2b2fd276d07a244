"""The warm worker's desk: joined, replaced, given up, failed and forgotten questions, answered by fakes."""

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
        job.tell("counting", at, 10)
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
    one.begin()
    yield one
    LET_GO.set()
    one.close()


def answered(job: QuestionJob) -> QuestionJob:
    assert job.future is not None
    job.future.result(10)
    return job


def test_a_quick_question_does_not_wait_for_a_long_one(desk: RequestQueue) -> None:
    long = desk.look("slow", {"a": 1}, "me")
    assert BEGUN.wait(10)
    assert answered(desk.look("echo", {"b": 2}, "me")).value == {"b": 2}
    assert not long.over
    assert (long.phase, long.total) == ("counting", 10)
    assert desk.busy


def test_asking_the_same_joins_and_another_body_replaces(desk: RequestQueue) -> None:
    first = desk.look("slow", {"a": 1}, "me")
    assert desk.look("slow", {"a": 1}, "me") is first
    assert BEGUN.wait(10)
    others = desk.look("slow", {"a": 2}, "another")
    second = desk.look("slow", {"a": 3}, "me")
    assert answered(first).error is not None, "it was given up in the middle"
    LET_GO.set()
    assert answered(second).value == {"a": 3}
    assert answered(others).value == {"a": 2}, "another lane goes on"


def test_a_question_given_up_before_its_turn_is_never_begun(desk: RequestQueue) -> None:
    desk.look("slow", {"a": 1}, "me")
    waiting = desk.look("slow", {"a": 1}, "you")
    desk.cancel("slow", "you")
    assert waiting.future is not None
    assert waiting.future.cancelled()
    assert desk.look("slow", {"a": 1}, "you") is not waiting


def test_what_was_handed_out_is_computed_anew(desk: RequestQueue) -> None:
    first = answered(desk.look("echo", {}, ""))
    assert desk.look("echo", {}, "") is first
    desk.discard_delivered_job(first, "")
    assert desk.look("echo", {}, "") is not first


def test_what_nobody_fetches_is_forgotten(desk: RequestQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    first = answered(desk.look("echo", {}, ""))
    desk.discard_unfetched_jobs()
    assert desk.look("echo", {}, "") is first
    monkeypatch.setattr(module, "UNFETCHED_ANSWER_SECONDS", -1.0)
    desk.discard_unfetched_jobs()
    assert desk.look("echo", {}, "") is not first


def test_errors_are_words_and_the_next_question_finds_it_well(desk: RequestQueue) -> None:
    ours = answered(desk.look("broken", {"a": 1}, "")).error
    assert ours is not None
    assert (ours.message, ours.hint) == ("It can't be.", "Do otherwise.")
    strange = answered(desk.look("broken", {}, "")).error
    assert strange is not None
    assert "ZeroDivisionError" in strange.message
    assert "warm/warm.log" in strange.hint
    assert answered(desk.look("echo", {}, "")).value == {}
    with pytest.raises(ToolkitError, match="knows no question"):
        desk.look("weather", {}, "")


def test_a_broken_installation_is_told_to_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.libraries, "IMPORT_STEPS", ("no.such.library",))
    one = RequestQueue()
    one.begin()
    job = answered(one.look("lengths", {}, ""))
    assert job.error is not None
    assert "ModuleNotFoundError" in job.error.message
    one.close()
