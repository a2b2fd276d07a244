"""When the engine reports ready, every run requested during loading is attached."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from toolkit.worker.serving.engine_host import MAX_WAITING_REQUESTS, EngineHost
from toolkit.worker.serving.request_models import RequestError, ScoreRequest


@pytest.mark.worker
def test_the_engine_is_ready_after_the_queued_runs_are_attached(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from toolkit.worker.serving.engine import Engine

    loaded, attached, may_load, may_attach = threading.Event(), [], threading.Event(), threading.Event()

    def load(*_: object) -> SimpleNamespace:
        may_load.wait(10)
        loaded.set()

        def attach(run: str) -> None:
            may_attach.wait(10)
            attached.append(run)

        return SimpleNamespace(attach=attach, runs=(), base_name="")

    monkeypatch.setattr(Engine, "load", load)
    host = EngineHost(tmp_path, "first", 0, lambda: None)
    loading = host._computing.submit(host._load)
    attaching = [host.attach("second"), host.attach("third")]
    may_load.set()
    loading.result(10)
    assert loaded.is_set()
    assert host.health()["status"] == "loading", "ready before the asked runs were attached"
    may_attach.set()
    for each in attaching:
        each.result(10)
    end = time.monotonic() + 10
    while host.state == "loading" and time.monotonic() < end:
        time.sleep(0.01)
    assert host.state == "ready"
    assert attached == ["second", "third"]


def test_score_requests_count_as_waiting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    go_on = threading.Event()

    def score(*_: object) -> list[object]:
        go_on.wait(30)
        return []

    async def ask() -> None:
        host = EngineHost(tmp_path, "first", 0, lambda: None)
        host.engine = SimpleNamespace(config_for_model=lambda *_: None, score_completion=score, runs=(), base_name="")  # type: ignore[assignment]
        host.state = "ready"
        monkeypatch.setattr(host, "_memory", dict)
        asked = ScoreRequest.model_validate({"model": "first", "prompt": "a", "completion": "b"})
        given = [host.score(asked) for _ in range(MAX_WAITING_REQUESTS)]
        assert host.health()["waiting"] == MAX_WAITING_REQUESTS
        with pytest.raises(RequestError, match="already waiting"):
            host.score(asked)
        go_on.set()
        await asyncio.gather(*(asyncio.wrap_future(one) for one in given))
        await asyncio.sleep(0)
        assert host.waiting == 0

    with ThreadPoolExecutor(1) as thread:  # the main one may have the event loop of the browser tests
        thread.submit(asyncio.run, ask()).result()
