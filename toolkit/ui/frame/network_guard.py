"""The network guard: says whether this app may show itself to whoever asks, judged from how it really runs.

`.streamlit/config.toml` is not enough: flags and environment variables win over it. Nothing here can change the
address of a running server, so the answer to a wrong one is a page that says why and how to start it rightly.
"""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from toolkit.system.spawn import app_command

LOCAL_HOST_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class NetworkRefusal:
    """Why the app does not show itself (one sentence each), and the command that starts it rightly."""

    reasons: tuple[str, ...]
    command: str


def safe_start_command() -> str:
    """Return the command line that starts this app on this machine only, from any folder."""
    return shlex.join(app_command())


def is_loopback(address: str | None) -> bool:
    """True for localhost, 127.x.y.z and ::1. None and "" mean every network interface, hence False."""
    if not address:
        return False
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return False


def host_of_header(header: str) -> str:
    """The name in a Host header, without the port: "[::1]:8501" -> "::1"."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.rpartition(":")[0].lower() if header.count(":") == 1 else header.lower()


def check_network_exposure(
    option: Callable[[str], Any], host: str | None, signed_in: bool = False
) -> NetworkRefusal | None:
    """None when the app may go on.

    option: reads a Streamlit option by its dotted name. host: the Host header of this visit, None when there is none.
    signed_in: the visitor has signed in through Streamlit's own [auth].
    """
    reasons = []
    address = option("server.address")
    if not is_loopback(address) and not signed_in:
        where = f"the address {address}" if address else "every network interface of this machine"
        reasons.append(f"The server listens on {where}, and nobody has to sign in.")
    if host is not None and not signed_in:
        allowed = {*LOCAL_HOST_NAMES, *option("server.allowedHosts")} - {"*"}
        if host_of_header(host) not in allowed:
            reasons.append(
                f"The browser asked for the host {host_of_header(host)[:80]}, which is not on the allowed list."
            )
    for name in ("server.enableCORS", "server.enableXsrfProtection"):
        if not option(name):
            reasons.append(f"{name} is switched off, so that any website could use this app through your browser.")
    if option("server.enableStaticServing"):
        reasons.append("server.enableStaticServing is on: files beside the app would be served to anyone.")
    if option("server.enableAgentApi"):
        reasons.append("server.enableAgentApi is on: programs could drive this app without a browser.")
    return NetworkRefusal(tuple(reasons), safe_start_command()) if reasons else None
