"""A service process starts only after its predecessor has released its lock, and only a signed one is believed."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import psutil
import pytest

from toolkit.services import service_process
from toolkit.services.engine_process import EngineInfo
from toolkit.services.warm_process import WARM_SERVICE
from toolkit.system.locks import is_lock_held, try_lock


def test_a_start_waits_for_the_lock_of_a_killed_process(tmp_path: Path) -> None:
    lock = WARM_SERVICE.file(tmp_path, "lock")
    lock.parent.mkdir(parents=True)
    handle = try_lock(lock)
    assert handle is not None
    assert is_lock_held(lock)
    threading.Timer(0.3, os.close, [handle]).start()
    service_process._wait_for_lock_release(WARM_SERVICE, tmp_path)
    assert not is_lock_held(lock)


@pytest.fixture
def own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))


def announce(folder: Path, **body: object) -> None:
    file = EngineInfo.service.file(folder, "json")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(body))


@pytest.mark.usefixtures("own_key")
def test_only_what_this_installation_has_signed_for_this_folder_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may write to the folder could name any process, which the app would ask and end."""
    me = psutil.Process()
    folder = tmp_path / "save"
    named = {"port": 1, "pid": me.pid, "create_time": me.create_time(), "token": "t", "run": "r"}
    body = {"schema": service_process.SERVICE_SCHEMA, **named}
    announce(folder, **body, hmac=service_process.sign_service_body(folder, body))
    assert service_process.find_service(EngineInfo, folder) is None  # nobody holds the lock
    handle = try_lock(EngineInfo.service.file(folder, "lock"))
    assert handle is not None
    found = service_process.find_service(EngineInfo, folder)
    assert found is not None
    assert found.pid == me.pid
    signed = service_process.sign_service_body(folder, body)
    for forged in (
        body, {**body, "hmac": ""}, {**body, "hmac": None}, {**body, "hmac": "0" * 64},
        {**body, "port": 2, "hmac": signed},
        {**body, "pid": 1, "hmac": signed}, {**body, "more": 1, "hmac": signed},
        {**body, "hmac": service_process.sign_service_body(tmp_path / "another", body)},
    ):  # fmt: skip
        announce(folder, **forged)
        assert service_process.find_service(EngineInfo, folder) is None, forged
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "another installation"))
    announce(folder, **body, hmac=signed)
    assert service_process.find_service(EngineInfo, folder) is None
    os.close(handle)
