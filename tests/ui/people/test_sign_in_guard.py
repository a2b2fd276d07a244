"""Which requests the sign-in guard refuses: those for files, unless the browser is that of their owner."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send
from streamlit.runtime.media_file_manager import MediaFileManager
from streamlit.runtime.memory_media_file_storage import MemoryMediaFileStorage
from streamlit.web.server.starlette.starlette_app_utils import create_signed_value

from toolkit.access.people import Person, read_admission_rules
from toolkit.errors import SignInError
from toolkit.system.paths import PROJECT_ROOT
from toolkit.ui.people import sign_in_guard, signed_in
from toolkit.ui.people.made_files import make_for_owner

ISSUER, SECRET = "https://id.example", "s" * 32
ANN, BEN = Person(ISSUER, "1", "ann@example.com", ""), Person(ISSUER, "2", "ben@example.com", "")


def claims_of(person: Person, **more: Any) -> dict[str, Any]:
    about = {"iss": person.issuer, "sub": person.subject, "email": person.email, "email_verified": True}
    return {**about, "is_logged_in": True, **more}


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An app with sign-in, in which Ann and Ben have a session each, and Ann's page shows a file."""
    sessions = [
        SimpleNamespace(session=SimpleNamespace(id=person.email[:3], _user_info=claims_of(person)))
        for person in (ANN, BEN)
    ]
    runtime = SimpleNamespace(
        _session_mgr=SimpleNamespace(list_sessions=lambda: sessions),
        media_file_mgr=SimpleNamespace(
            _files_by_session_and_coord={"ann": {"0.1": "f1", "0.2": "f3"}, "ben": {"0.1": "f2", "0.2": "f3"}}
        ),
    )
    monkeypatch.setattr(sign_in_guard, "Runtime", SimpleNamespace(exists=lambda: True, instance=lambda: runtime))
    monkeypatch.setattr(sign_in_guard, "get_cookie_secret", lambda: SECRET)
    monkeypatch.setattr(sign_in_guard, "is_sign_in_configured", lambda: True)
    rules = read_admission_rules({"allow": ["@example.com"]})
    monkeypatch.setattr(signed_in, "load_admission_rules", lambda: rules)
    yield


async def inner_app(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


def status(path: str, claims: dict[str, Any] | None = None, method: str = "GET", secret: str = SECRET) -> int:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("a refused request is not read")

    name = "_streamlit_user"
    signed = create_signed_value(secret, name, json.dumps(claims)) if claims is not None else b"nothing"
    scope = {"type": "http", "method": method, "path": path, "headers": [(b"cookie", name.encode() + b"=" + signed)]}
    asyncio.run(sign_in_guard.SignInGuard(inner_app)(scope, receive, send))
    return int(sent[0]["status"])


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/runs",
        "/_stcore/health",
        "/_stcore/host-config",
        "/auth/login",
        "/oauth2callback",
        "/static/index.js",
        "/base/_stcore/health",
    ],
)
def test_what_the_sign_in_page_needs_is_open(guarded: None, path: str) -> None:
    assert status(path) == 200


@pytest.mark.parametrize(
    "path",
    [
        "/media/f1.csv",
        "/base/media/f1.csv",
        "/_stcore/upload_file/ann/x",
        "/media//f1.csv",
        "/_stcore/metrics",
        "/_stcore/bidi-components/x/y",
        "/media/gone",
    ],
)
def test_files_need_a_person_on_the_list(guarded: None, path: str) -> None:
    for method in ("GET", "PUT", "DELETE", "POST", "HEAD"):
        assert status(path, method=method) == 403
    assert status(path, claims_of(ANN)) == 200
    assert status(path, claims_of(ANN), secret="another") == 403
    assert status(path, claims_of(ANN, is_logged_in=False)) == 403
    assert status(path, claims_of(ANN, email_verified=False)) == 403
    assert status(path, claims_of(Person(ISSUER, "3", "eve@other.example", ""))) == 403


def test_a_file_of_another_session_is_refused(guarded: None) -> None:
    mine, theirs = claims_of(BEN), ("/media/f1.csv", "/_stcore/upload_file/ann/x")
    assert [status(path, mine) for path in theirs] == [403, 403]
    assert [status(path, mine) for path in ("/media/f2.csv", "/media/f3.csv", "/_stcore/upload_file/ben/x")] == [
        200
    ] * 3


def test_a_file_that_is_made_on_a_press_is_its_owners(guarded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = MediaFileManager(MemoryMediaFileStorage("/media"))
    monkeypatch.setattr(sign_in_guard.Runtime.instance(), "media_file_mgr", manager)

    def press(made: Callable[[], bytes]) -> str:
        """Return the address that Streamlit answers to a press on the button, whoever asks with the button's id."""
        return manager.execute_deferred(manager.add_deferred(made, "text/csv", "0.9", "rows.csv"))

    address = press(make_for_owner(lambda: b"a,b", "rows.csv", "text/csv", ANN.identity))
    manager.clear_session_refs("")
    assert (status(address, claims_of(ANN)), status(address, claims_of(BEN)), status(address)) == (200, 403, 403)
    assert press(make_for_owner(lambda: b"a,b", "rows.csv", "text/csv", BEN.identity)) == address
    assert status(address, claims_of(BEN)) == 200, "he has made the same file himself"


def test_pages_make_files_for_their_owner_only() -> None:
    made = [
        file.name
        for file in (PROJECT_ROOT / "toolkit" / "ui").rglob("*.py")
        if "download_button(" in file.read_text("utf-8")
    ]
    assert sorted(made) == ["made_files.py", "preset_bar.py", "study_view.py"], "give others to draw_made_download"


def test_without_sign_in_nothing_is_refused(guarded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_in_guard, "is_sign_in_configured", lambda: False)
    assert status("/media/f1.csv") == 200


def test_a_secrets_file_that_cannot_be_read_lets_nobody_in(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "secrets.toml"
    broken.write_text("[auth")
    secrets = SimpleNamespace(load_if_toml_exists=lambda: False)
    monkeypatch.setattr(signed_in.st, "secrets", secrets)
    monkeypatch.setattr(signed_in.st, "get_option", {"secrets.files": [str(broken)]}.__getitem__)
    signed_in.is_sign_in_configured.cache_clear()
    try:
        with pytest.raises(SignInError, match="can't be read"):
            signed_in.is_sign_in_configured()
        with pytest.raises(SignInError):
            signed_in.own_folder()
    finally:
        signed_in.is_sign_in_configured.cache_clear()
