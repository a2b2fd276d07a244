"""What a start shows: the link in the terminal, and the browser without the token in its arguments."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from toolkit.access.token_file import load_access_token, read_address
from toolkit.ui.frame import access_guard, announce

LOCAL: dict[str, Any] = {
    "server.address": "127.0.0.1", "browser.serverAddress": "localhost", "browser.serverPort": 8501,
    "server.sslCertFile": None, "server.baseUrlPath": "", "server.headless": True, "secrets.files": [],
}  # fmt: skip


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Streamlit's options, as a test sets them; the app's folder and its state are the test's own."""
    found = dict(LOCAL)
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("FINETUNING_TOOLKIT_SAVE_DIR", str(tmp_path / "save"))
    monkeypatch.setattr(announce.st, "get_option", found.__getitem__)
    access_guard.load_app_token.cache_clear()
    yield found
    access_guard.load_app_token.cache_clear()


@pytest.mark.parametrize(
    ("changed", "address"),
    [
        ({}, "http://localhost:8501"),
        ({"server.address": None}, "http://localhost:8501"),
        ({"server.address": "0.0.0.0"}, "http://localhost:8501"),
        ({"server.address": "::1", "browser.serverPort": 9000}, "http://localhost:9000"),
        ({"server.address": "192.168.1.4"}, "http://192.168.1.4:8501"),
        ({"server.address": "fd00::1"}, "http://[fd00::1]:8501"),
        ({"server.baseUrlPath": "/lab/"}, "http://localhost:8501/lab"),
        ({"browser.serverAddress": "lab.example/x", "server.sslCertFile": "c.pem"}, "https://lab.example:8501"),
    ],
)
def test_the_address_is_the_one_that_a_browser_here_can_open(changed: dict[str, Any], address: str) -> None:
    assert announce.find_app_address((LOCAL | changed).__getitem__) == address


def test_a_start_prints_the_link_and_keeps_the_address(
    options: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(announce.webbrowser, "open", opened.append)
    options["browser.serverPort"] = 8502
    announce.announce_app()
    assert f"http://localhost:8502/?token={load_access_token(tmp_path / 'save')}" in capsys.readouterr().out
    assert read_address(tmp_path / "save") == "http://localhost:8502"
    assert not opened, "a server without a screen opens no browser"
    monkeypatch.setenv("FTK_REQUIRE_TOKEN", "0")
    announce.announce_app()
    said = capsys.readouterr().out
    assert "token=" not in said and "FTK_REQUIRE_TOKEN lets every user of this machine in" in said


def test_the_browser_opens_a_private_file_that_leads_to_the_link(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    called = threading.Event()
    monkeypatch.setattr(announce.webbrowser, "open", lambda url: (opened.append(url), called.set()))
    options["server.headless"] = False
    announce.announce_app()
    assert called.wait(60)
    page = tmp_path / "save" / announce.OPENING_PAGE
    token = load_access_token(tmp_path / "save")
    assert opened == [page.as_uri()] and token not in opened[0]
    assert f"url=http://localhost:8501/?token={token}" in page.read_text()
    assert page.stat().st_mode & 0o077 == 0
    announce.remove_opening_page()
    assert not page.exists()
