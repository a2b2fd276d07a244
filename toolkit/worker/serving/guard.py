"""What all HTTP routes of the workers share: the check of host name and token, reading the body, and the error format.

A web page can make a browser send requests to 127.0.0.1, even under a host name of its own (DNS rebinding). Requests
for another host than this machine are therefore rejected, and every route needs the bearer token.
"""

from __future__ import annotations

import hmac
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from toolkit.errors import ToolkitError
from toolkit.services.service_process import Service
from toolkit.system.out_of_memory import out_of_memory_kind, out_of_memory_message
from toolkit.worker.serving.request_models import RequestError

MAX_BODY_BYTES = 4 * 2**20
"""4 MiB: longer than the context of any model, and small enough to hold in memory."""
LOOPBACK_HOSTS = re.compile(r"(127\.0\.0\.1|localhost)(:\d{1,5})?", re.ASCII)
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "conflict_error",
    411: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}
"""HTTP status to OpenAI's `type` of an error."""


def error_body(error: Exception) -> dict[str, object]:
    """Return OpenAI's error object, extended by `hint`, the next step for the user."""
    status, code, param = _error_status(error)
    message, hint = (error.message, error.hint) if isinstance(error, ToolkitError) else (str(error), "")
    kind = ERROR_TYPES.get(status, "server_error")
    return {"error": {"message": message, "hint": hint, "type": kind, "param": param or None, "code": code}}


def error_response(error: Exception) -> JSONResponse:
    """Return the HTTP response of an error."""
    status, code, _ = _error_status(error)
    headers = {"Retry-After": "2"} if code in ("loading", "busy") else None
    return JSONResponse(error_body(error), status_code=status, headers=headers)


def _error_status(error: Exception) -> tuple[int, str, str]:
    if isinstance(error, RequestError):
        return error.status, error.code, error.param
    return 400, "invalid_request", ""


class RequestGuard:
    """ASGI middleware that rejects requests with a foreign host name, a wrong token or a body that is too large.

    body_limits: (method, path) of a route with another limit in bytes than MAX_BODY_BYTES.
    """

    def __init__(
        self,
        app: ASGIApp,
        token: str,
        service: Service,
        body_limits: Mapping[tuple[str, str], int] = MappingProxyType({}),
    ) -> None:
        self._app, self._service, self._body_limits = app, service, body_limits
        self._expected = f"bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            error = self._check(scope)
            if error is not None:
                await error_response(error)(scope, receive, send)
                return
        elif scope["type"] != "lifespan":
            return  # websockets are not offered
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> RequestError | None:
        """Return why the request is rejected, or None."""
        headers = Headers(scope=scope)
        if len(headers.getlist("host")) != 1 or not LOOPBACK_HOSTS.fullmatch(headers["host"]):
            message = "Requests for this host name are not allowed."
            return RequestError(message, "Use 127.0.0.1.", status=403, code="foreign_host")
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if not hmac.compare_digest(f"{scheme.lower()} {token}".encode(), self._expected):
            name = self._service.name
            hint = f"Send the header 'Authorization: Bearer TOKEN' with the token from {name}/{name}.json."
            return RequestError("The token is missing or wrong.", hint, status=401, code="invalid_api_key")
        limit = self._body_limits.get((scope["method"], scope["path"]), MAX_BODY_BYTES)
        if int(headers.get("content-length", "0") or 0) > limit:
            message = f"The request body is larger than {limit // 2**20} MiB."
            return RequestError(message, "Send a smaller request.", status=413, code="too_large")
        return None


async def read_request_body(request: Request) -> bytes:
    """Return the body. Raises RequestError: it is larger than MAX_BODY_BYTES."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            message = f"The request body is larger than {MAX_BODY_BYTES // 2**20} MiB."
            raise RequestError(message, "Send a smaller request.", status=413, code="too_large")
        parts.append(part)
    return b"".join(parts)


def error_handlers(service: Service, offered: str) -> dict[Any, Any]:
    """Return exception handlers for Starlette that answer every error with `error_body`.

    offered: the routes where a caller sees what is available.
    """

    async def known_error(_: Request, error: Exception) -> Response:
        return error_response(error)

    async def no_such_route(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        message = f"{request.method} {request.url.path[:100]} is not a route of this service ({service.name})."
        return error_response(RequestError(message, f"See {offered}.", status=status, code="not_found"))

    async def failed(_: Request, error: Exception) -> Response:
        # the traceback gets into the log: Starlette raises the error again after this response
        message = f"{service.title} failed: {type(error).__name__}."
        return error_response(RequestError(message, log_hint(service), status=500, code="internal"))

    return {ToolkitError: known_error, HTTPException: no_such_route, Exception: failed}


def log_hint(service: Service) -> str:
    """Return where the details of an unexpected error are."""
    return f"See the log for details: {service.name}/{service.name}.log in the output folder."


def as_toolkit_error(error: Exception, service: Service) -> ToolkitError:
    """Return a ToolkitError as it is; print the traceback of any other error and return its first line as one."""
    if isinstance(error, ToolkitError):
        return error
    traceback.print_exception(error)
    first = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    kind = out_of_memory_kind(error)
    if kind is not None:
        return RequestError(*out_of_memory_message(kind, "loading_model"), status=503, code="out_of_memory")
    return RequestError(f"{type(error).__name__}: {first}", log_hint(service), status=500, code="internal")


@contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Replace an allocation error inside the block by a RequestError, and free cached GPU memory."""
    try:
        yield
    except Exception as error:
        kind = out_of_memory_kind(error)
        if kind is None:
            raise
        import torch  # not above: the import takes over a second, and the server listens before it

        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        message, hint = out_of_memory_message(kind, "generating")
        raise RequestError(message, hint, status=503, code="out_of_memory") from error
