"""The wire to a serving process (`service.py`): one connection, its errors in the user's words.

Every failure is the service's own error. What to ask is its client's.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from toolkit.services.service_process import Service, ServiceInfo, read_service_log_tail

CONNECT_SECONDS = 5.0


@contextmanager
def connect_to_service(info: ServiceInfo, silence: float) -> Iterator[httpx.Client]:
    """A connection to that process and nowhere else; httpx's errors become the service's.

    silence: seconds without a byte after which it counts as stuck.
    """
    service = info.service
    limits = httpx.Timeout(silence, connect=CONNECT_SECONDS)
    # never used on the loopback; httpx's own would read all certificates of the machine, 15 ms for each answer
    trusts_nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    headers = {"Authorization": f"Bearer {info.token}"}
    try:
        with httpx.Client(
            base_url=info.url, headers=headers, timeout=limits, verify=trusts_nobody, trust_env=False
        ) as http:
            yield http
    except httpx.TimeoutException as error:
        raise service.error(f"{service.title} does not answer.", service.stuck) from error
    except httpx.HTTPError as error:
        hint = read_service_log_tail(service, info.save_dir) or service.gone
        raise service.error(f"{service.title} can't be reached: it has ended.", hint) from error


def read_service_reply(service: Service, response: httpx.Response) -> dict[str, Any]:
    """The JSON object of a reply; raises the service's error for a refusal."""
    raise_service_error(service, response)
    found: dict[str, Any] = response.json()
    return found


def raise_service_error(service: Service, response: httpx.Response) -> None:
    if response.status_code < 400:
        return
    try:
        error = response.json()["error"]
        raise service.error(error["message"], error["hint"])
    except (ValueError, KeyError, TypeError) as strange:
        message = f"{service.title} answered with status {response.status_code}."
        raise service.error(message, "Its log has the details.") from strange
