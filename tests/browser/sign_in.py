"""A real OpenID Connect provider on this machine, and the secrets file of an app that uses it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.browser.server import free_port

ANN = {"sub": "ann-1", "email": "ann@example.com", "email_verified": True, "name": "Ann Archer"}
BEN = {"sub": "../ben", "email": "ben@lab.example", "email_verified": True, "name": "Ben Baker"}
EVE = {"sub": "eve-3", "email": "ann@example.com", "email_verified": False, "name": "Ann Archer"}
"""She claims an address that the provider has not verified."""


@contextmanager
def run_provider() -> Iterator[str]:
    """Run the provider, which knows Ann, Ben and Eve, and yield its issuer."""
    port = free_port()
    people = [part for person in (ANN, BEN, EVE) for part in ("--user-claims", json.dumps(person))]
    process = subprocess.Popen(
        [sys.executable, "-m", "oidc_provider_mock", "--port", str(port), *people],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    issuer = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"{issuer}/.well-known/openid-configuration").raise_for_status()
                break
            except httpx.TransportError:
                assert process.poll() is None and time.monotonic() < deadline, "the provider does not start"
                time.sleep(0.2)
        yield issuer
    finally:
        process.kill()
        process.wait(30)


def write_secrets(folder: Path, issuer: str, address: str) -> Path:
    """Write the secrets file of an app at this address, which Ann and everybody of lab.example may use."""
    file = folder / "secrets.toml"
    file.write_text(
        f"""
[auth]
redirect_uri = "{address}/oauth2callback"
cookie_secret = "a long random text for the tests, not a secret"
client_id = "finetuning-toolkit"
client_secret = "of the tests"
server_metadata_url = "{issuer}/.well-known/openid-configuration"

[people]
allow = ["Ann@Example.com", "@lab.example"]
"""
    )
    return file
