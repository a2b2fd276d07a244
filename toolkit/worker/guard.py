"""What stands before every route: the host name, the token, and the shape of an error.

A web page can make a browser send requests to 127.0.0.1, also under a name of its own (DNS rebinding): requests for
another host than this machine are refused, and all but /health need the bearer token. Knows no model.
"""

from __future__ import annotations

import hmac
import re

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from toolkit.errors import ToolkitError
from toolkit.worker.payload import RequestError

MAX_BODY_BYTES = 4 * 2**20
OWN_HOSTS = re.compile(r"(127\.0\.0\.1|localhost)(:\d{1,5})?", re.ASCII)
TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
         409: "conflict_error", 413: "invalid_request_error", 429: "rate_limit_error"}  # fmt: skip


def error_body(error: Exception) -> dict[str, object]:
    """OpenAI's error object, with the `hint` that every error here has."""
    status, code, param = _details(error)
    message, hint = (error.message, error.hint) if isinstance(error, ToolkitError) else (str(error), "")
    kind = TYPES.get(status, "server_error")
    return {"error": {"message": message, "hint": hint, "type": kind, "param": param or None, "code": code}}


def error_response(error: Exception) -> JSONResponse:
    status, code, _ = _details(error)
    headers = {"Retry-After": "2"} if code in ("loading", "busy") else None
    return JSONResponse(error_body(error), status_code=status, headers=headers)


def _details(error: Exception) -> tuple[int, str, str]:
    if isinstance(error, RequestError):
        return error.status, error.code, error.param
    return 400, "invalid_request", ""


class Guard:
    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refusal = self._refusal(scope)
            if refusal is not None:
                await error_response(refusal)(scope, receive, send)
                return
        elif scope["type"] != "lifespan":
            return  # no websockets here
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> RequestError | None:
        headers = Headers(scope=scope)
        if len(headers.getlist("host")) != 1 or not OWN_HOSTS.fullmatch(headers["host"]):
            return RequestError("This host name is not served.", "Use 127.0.0.1.", status=403, code="foreign_host")
        if scope["path"] == "/health" and scope["method"] == "GET":
            return None
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if not hmac.compare_digest(f"{scheme.lower()} {token}".encode(), self._expected):
            hint = "Send the header 'Authorization: Bearer TOKEN' with the token from engine/engine.json."
            return RequestError("The token is missing or wrong.", hint, status=401, code="invalid_api_key")
        if int(headers.get("content-length", "0") or 0) > MAX_BODY_BYTES:
            message = f"The request is larger than {MAX_BODY_BYTES // 2**20} MiB."
            return RequestError(message, "Shorten it.", status=413, code="too_large")
        return None
