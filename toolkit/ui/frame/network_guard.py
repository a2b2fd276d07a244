"""The network guard: decides from the server's actual options whether the app may be shown to this visitor.

`.streamlit/config.toml` is not enough, because flags and environment variables override it. The address of a running
server can't be changed, so an unsafe server shows only a page with the reasons and a safe start command.
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
    """Why the app is not shown (one sentence for each reason), and a command that starts it safely."""

    reasons: tuple[str, ...]
    command: str


def safe_start_command() -> str:
    """Return a command line that starts the app reachable from this machine only; it works from any folder."""
    return shlex.join(app_command())


def is_loopback(address: str | None) -> bool:
    """Return True for localhost, 127.x.y.z and ::1, and False for None and "", which mean every interface."""
    if not address:
        return False
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return False


def host_of_header(header: str) -> str:
    """Return the host of a Host header without the port: "[::1]:8501" -> "::1"."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.rpartition(":")[0].lower() if header.count(":") == 1 else header.lower()


def check_network_exposure(
    option: Callable[[str], Any], host: str | None, signed_in: bool = False, shared_by_choice: bool = False
) -> NetworkRefusal | None:
    """Return why the app must not be shown to this visitor; None if it may be.

    option: reads a Streamlit option by its dotted name. host: the Host header of the request, or None.
    signed_in: the visitor has signed in with Streamlit's own [auth]. shared_by_choice: the owner allows
    the network, and every visitor has shown the access token.
    """
    reasons = []
    address = option("server.address")
    if not is_loopback(address) and not (signed_in or shared_by_choice):
        where = f"the address {address}" if address else "every network interface of this machine"
        reasons.append(f"The server listens on {where}, and visitors do not have to sign in.")
    if host is not None and not signed_in:
        allowed = {*LOCAL_HOST_NAMES, *option("server.allowedHosts")} - {"*"}
        # a page of another site can point its own name at 127.0.0.1 (DNS rebinding): only known names are served
        if host_of_header(host) not in allowed:
            reasons.append(f"The browser requested the host {host_of_header(host)[:80]}, which is not allowed.")
    for name in ("server.enableCORS", "server.enableXsrfProtection"):
        if not option(name):
            reasons.append(f"{name} is off: any website could control this app through your browser.")
    if signed_in and option("server.trustedUserHeaders"):
        reasons.append("server.trustedUserHeaders is set: whoever sends such a header could pass for somebody else.")
    if option("server.enableStaticServing"):
        reasons.append("server.enableStaticServing is on: files in the app's folder would be served to anyone.")
    if option("server.enableAgentApi"):
        reasons.append("server.enableAgentApi is on: other programs could control this app without a browser.")
    return NetworkRefusal(tuple(reasons), safe_start_command()) if reasons else None
