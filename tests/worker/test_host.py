"""The engine's life: ready means that every run asked for while the base loaded can be asked."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from toolkit.worker.host import Host


@pytest.mark.worker
def test_ready_comes_after_the_runs_asked_for_while_loading(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from toolkit.worker.engine import Engine

    loaded, attached, may_load, may_attach = threading.Event(), [], threading.Event(), threading.Event()

    def load(*_: object) -> SimpleNamespace:
        may_load.wait(10)
        loaded.set()

        def attach(run: str) -> None:
            may_attach.wait(10)
            attached.append(run)

        return SimpleNamespace(attach=attach, runs=(), base_name="")

    monkeypatch.setattr(Engine, "load", load)
    host = Host(tmp_path, "first", 0, lambda: None)
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
