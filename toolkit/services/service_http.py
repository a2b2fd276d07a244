"""HTTP connections to a service process. Every failure is raised as the service's own error class."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from toolkit.services.service_process import Service, ServiceInfo, read_service_log_tail

CONNECT_SECONDS = 5.0
"""The loopback connects at once: a process that takes longer is stopped or overloaded."""


@contextmanager
def connect_to_service(info: ServiceInfo, silence_seconds: float) -> Iterator[httpx.Client]:
    """Provide an HTTP client for this process; raise httpx's errors as the service's own error class.

    silence_seconds: time without a byte after which the process counts as stuck.
    """
    service = info.service
    limits = httpx.Timeout(silence_seconds, connect=CONNECT_SECONDS)
    # plain HTTP uses no certificates, but httpx's default context loads all of the machine's: 15 ms per connection
    empty_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    headers = {"Authorization": f"Bearer {info.token}"}
    try:
        with httpx.Client(
            base_url=info.url, headers=headers, timeout=limits, verify=empty_context, trust_env=False
        ) as http:
            yield http
    except httpx.TimeoutException as error:
        raise service.error(f"{service.title} does not answer.", service.stuck) from error
    except httpx.HTTPError as error:
        hint = read_service_log_tail(service, info.save_dir) or service.gone
        raise service.error(f"{service.title} can't be reached: it has ended.", hint) from error


def read_service_reply(service: Service, response: httpx.Response) -> dict[str, Any]:
    """Return the JSON object of a reply. Raises the service's error for a refusal."""
    raise_service_error(service, response)
    body: dict[str, Any] = response.json()
    return body


def raise_service_error(service: Service, response: httpx.Response) -> None:
    """Raise the service's error if the response is one (status 400 and above)."""
    if response.status_code < 400:
        return
    try:
        error = response.json()["error"]
        raise service.error(error["message"], error["hint"])
    except (ValueError, KeyError, TypeError) as unexpected:
        message = f"{service.title} answered with status {response.status_code}."
        raise service.error(message, "Its log has the details.") from unexpected
