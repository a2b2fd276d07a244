"""The sign-in guard: answers requests for a person's files only to the browser of that person.

The pages check on their own who has signed in. The middleware `SignInGuard` runs before Streamlit's other routes: it
lets nobody else fetch what a page offers as a download, or send an upload, even with the address of the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from streamlit.auth_util import get_cookie_with_chunks
from streamlit.runtime import Runtime
from streamlit.web.server.server_util import get_cookie_secret
from streamlit.web.server.starlette.starlette_app_utils import decode_signed_value
from streamlit.web.server.starlette.starlette_server_config import USER_COOKIE_NAME

from toolkit.access.people import Person
from toolkit.errors import SignInError
from toolkit.ui.people.made_files import find_makers
from toolkit.ui.people.signed_in import admit_visitor, is_sign_in_configured

OPEN_ROUTES = ("health", "host-config", "stream")
"""Routes below `_stcore` that Streamlit's own page needs before anybody has signed in."""


class SignInGuard:
    """ASGI middleware that refuses requests for the files of other people, and those of people who may not come in."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = None if scope["type"] != "http" else _find_refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            answer = PlainTextResponse(refusal, 403, {"Connection": "close", "Cache-Control": "no-store"})
            await answer(scope, receive, send)


def sign_in_guard_middleware() -> Any:
    """Return the sign-in guard in the form that `st.App` takes."""
    return Middleware(SignInGuard)


def read_signed_claims(cookies: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the claims that Streamlit has signed into its cookie after a sign-in; empty if there are none."""

    def read_cookie(name: str) -> bytes | None:
        return decode_signed_value(get_cookie_secret(), name, cookies.get(name, "").encode("latin-1", "replace"))

    try:
        claims = json.loads(get_cookie_with_chunks(read_cookie, USER_COOKIE_NAME) or b"{}")
    except ValueError:  # a chunk is missing
        return {}
    return claims if isinstance(claims, dict) else {}


def _find_refusal(scope: Scope) -> str | None:
    """Return why the request is refused, None if it is not."""
    parts = [part for part in scope["path"].split("/") if part]
    is_file = "media" in parts[:-1] or ("_stcore" in parts and parts[-1] not in OPEN_ROUTES)
    if not is_file:
        return None
    try:
        if not is_sign_in_configured():
            return None
        person = admit_visitor(read_signed_claims(HTTPConnection(scope).cookies))
    except SignInError as error:
        return str(error)
    return None if _belongs_to(person, parts) else "This file is part of another person's session."


def _belongs_to(person: Person, parts: list[str]) -> bool:
    """Return whether no session of somebody else owns what a path names."""
    if not Runtime.exists():
        return False
    identities = _session_identities()
    if "upload_file" in parts:
        return all(identity == person.identity for session, identity in identities.items() if session in parts)
    if "media" not in parts:
        return True
    files = getattr(Runtime.instance().media_file_mgr, "_files_by_session_and_coord", {})
    file_id = parts[-1].partition(".")[0]
    owners = {identities.get(session, "") for session, kept in [*files.items()] if file_id in [*kept.values()]}
    owners |= find_makers(file_id)
    # between two runs of a page its files have no owner; their addresses, known to that page, have 224 bits
    return not owners or person.identity in owners


def _session_identities() -> dict[str, str]:
    """Return session id -> identity of who uses it; "" for a visitor who has not signed in."""
    found = {}
    for info in Runtime.instance()._session_mgr.list_sessions():
        claims = info.session._user_info
        found[info.session.id] = f"{claims.get('iss')}|{claims.get('sub')}" if claims.get("is_logged_in") else ""
    return found
