"""Chat over the API, with an engine that is only a function: names, streams, refusals, and an engine that dies."""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from tests.fakes.fine_tuning_api import STAND_IN, ApiWithoutProcesses, write_attempt
from toolkit.api import engine_proxy
from toolkit.api.jobs.tuned_models import name_tuned_model
from toolkit.config import Config
from toolkit.errors import EngineError
from toolkit.runs.run_dir import create_run
from toolkit.services.engine_process import EngineInfo

HELLO = [{"role": "user", "content": "hello"}]
Answer = Callable[[httpx.Request], httpx.Response]


@pytest.fixture
def tuned(api: ApiWithoutProcesses) -> str:
    """Return the name of a fine-tuned model: any run has one, also a run that the app has started."""
    run = create_run(Config(save_dir=str(api.save_dir)), None, name="Bot")
    write_attempt(run, 1, range(1, 4), "finished", step=3)
    return name_tuned_model(run)


@pytest.fixture
def engine(api: ApiWithoutProcesses, monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], list[str]]:
    """Return a function that lets the engine answer so; it returns the list of models that will be attached."""

    def use(answer: Answer) -> list[str]:
        attached: list[str] = []
        info = EngineInfo(api.save_dir, 1, 1, 0.0, "engine-token", "run")
        client = functools.partial(httpx.AsyncClient, transport=httpx.MockTransport(answer))
        monkeypatch.setattr(engine_proxy.httpx, "AsyncClient", client)
        monkeypatch.setattr(engine_proxy.engine_client, "start_engine", lambda _, run: attached.append(run) or info)
        monkeypatch.setattr(engine_proxy.engine_client, "wait_for_engine", lambda *_: None)
        monkeypatch.setattr(engine_proxy.engine_client, "attach_adapter", lambda _, name: attached.append(name))
        return attached

    return use


def test_names_are_translated_in_both_directions(
    api: ApiWithoutProcesses, tuned: str, engine: Callable[[Answer], list[str]]
) -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer engine-token"
        seen.append(json.loads(request.content)["model"])
        return httpx.Response(200, json={"model": seen[-1], "choices": []})

    attached = engine(answer)
    run = tuned.split(":")[4]
    for name in (tuned, f"{tuned}:ckpt-step-2", STAND_IN, "gpt-4o-mini"):
        for path in ("/v1/chat/completions", "/v1/completions"):
            assert api.http.post(path, json={"model": name, "messages": HELLO}).json()["model"] == name
    assert seen == [run, run, f"{run}@2", f"{run}@2", "base", "base", "base", "base"]
    assert set(attached) == {run, f"{run}@2"}


def test_a_refusal_of_the_engine_keeps_its_status(
    api: ApiWithoutProcesses, tuned: str, engine: Callable[[Answer], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine(lambda _: httpx.Response(400, json={"error": {"message": "too long", "code": "context_length_exceeded"}}))
    reply = api.http.post("/v1/chat/completions", json={"model": tuned, "messages": HELLO})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "context_length_exceeded")

    def busy(*_: object) -> EngineInfo:
        raise EngineError("The engine is answering with another base model.", "Wait.")

    monkeypatch.setattr(engine_proxy.engine_client, "start_engine", busy)
    reply = api.http.post("/v1/chat/completions", json={"model": tuned, "messages": HELLO})
    assert reply.status_code == 503 and "another base model" in reply.json()["error"]["message"]


def test_streams_pass_and_a_dead_engine_is_said(
    api: ApiWithoutProcesses, tuned: str, engine: Callable[[Answer], list[str]]
) -> None:
    async def events() -> AsyncIterator[bytes]:
        yield b': waiting\n\ndata: {"model":"x","choices":[{"delta":{"content":"h\xc3\xa9"}}]}\n\n'
        yield b"data: [DONE]\n\n"

    async def cut() -> AsyncIterator[bytes]:
        yield b'data: {"model":"x","choices":[]}\n\n'
        raise httpx.ReadError("gone")

    kind = {"content-type": "text/event-stream; charset=utf-8"}
    body = {"model": tuned, "messages": HELLO, "stream": True}
    engine(lambda _: httpx.Response(200, headers=kind, content=events()))
    text = api.http.post("/v1/chat/completions", json=body).text
    lines = [line for line in text.splitlines() if line]
    assert lines[0] == ": waiting" and lines[-1] == "data: [DONE]"
    assert json.loads(lines[1].removeprefix("data: ")) == {"model": tuned, "choices": [{"delta": {"content": "hé"}}]}
    engine(lambda _: httpx.Response(200, headers=kind, content=cut()))
    last = api.http.post("/v1/chat/completions", json=body).text.strip().splitlines()[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_unavailable"

    def dead(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    engine(dead)
    reply = api.http.post("/v1/chat/completions", json=body)
    assert reply.status_code == 503 and reply.json()["error"]["code"] == "engine_unavailable"
