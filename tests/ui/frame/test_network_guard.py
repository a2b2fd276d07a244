"""The network guard: what it allows and refuses, and the safe start command."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from toolkit.system.paths import APP_FILE
from toolkit.ui.frame.network_guard import (
    check_network_exposure,
    host_of_header,
    is_loopback,
    safe_start_command,
)

SAFE: dict[str, Any] = {
    "server.address": "127.0.0.1", "server.allowedHosts": ["localhost", "127.0.0.1"], "server.enableCORS": True,
    "server.enableXsrfProtection": True, "server.enableStaticServing": False, "server.enableAgentApi": False,
    "server.trustedUserHeaders": {},
}  # fmt: skip


def asked(host: str | None = "localhost:8501", signed_in: bool = False, shared: bool = False, **changes: Any) -> Any:
    options = SAFE | {f"server.{name}": value for name, value in changes.items()}
    return check_network_exposure(options.__getitem__, host, signed_in, shared)


def test_a_server_on_this_machine_only_is_allowed() -> None:
    assert asked() is None
    assert asked("127.0.0.1:8611") is None
    assert asked("[::1]:8501", address="::1") is None
    assert asked(None) is None


@pytest.mark.parametrize("address", [None, "", "0.0.0.0", "::", "192.168.1.4", "example.org"])
def test_other_addresses_are_refused_without_sign_in(address: str | None) -> None:
    found = asked(address=address)
    assert found is not None
    assert "visitors do not have to sign in" in found.reasons[0]
    assert asked(address=address, signed_in=True) is None
    assert asked(address=address, shared=True) is None
    spoofed = asked(address=address, signed_in=True, trustedUserHeaders={"X-User": "email"})
    assert "pass for somebody else" in spoofed.reasons[0]
    assert asked("lab.example", address=address, shared=True) is not None, "its name must be allowed, too"
    assert asked("lab.example", address=address, shared=True, allowedHosts=["lab.example"]) is None


def test_an_unknown_host_name_is_refused_even_if_streamlit_allows_it() -> None:
    assert "evil.example" in asked("evil.example:8501", allowedHosts=[]).reasons[0]
    assert asked("evil.example", allowedHosts=["*"]) is not None
    assert asked("lab.example", allowedHosts=["lab.example"]) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("enableCORS", False), ("enableXsrfProtection", False), ("enableStaticServing", True), ("enableAgentApi", True)],
)
def test_disabled_protections_are_refused(name: str, value: bool) -> None:
    assert f"server.{name}" in asked(**{name: value}).reasons[0]


def test_the_safe_command_starts_this_app_on_this_machine() -> None:
    argv = shlex.split(safe_start_command())
    assert argv[1:5] == ["-m", "streamlit", "run", str(APP_FILE)]
    assert APP_FILE.is_file()
    assert argv[argv.index("--server.address") + 1] == "127.0.0.1"


def test_hosts_and_loopback_addresses_are_recognized() -> None:
    assert host_of_header("[::1]:8501") == "::1"
    assert host_of_header("Localhost") == "localhost"
    assert is_loopback("127.9.9.9")
    assert not is_loopback("128.0.0.1")
