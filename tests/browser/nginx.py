"""A real nginx on this machine, with the configuration of docs/security.md and a certificate made for the test."""

from __future__ import annotations

import datetime
import ipaddress
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.browser.server import ROOT, free_port

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")
NAME = "finetuning.example.com"
"""The name in the documented configuration."""


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Write a self-signed certificate for localhost and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    names: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2)).add_extension(x509.SubjectAlternativeName(names), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True).sign(key, hashes.SHA256())
    )  # fmt: skip
    certificate, private = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private.write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    return certificate, private


def documented_configuration() -> str:
    """The server block in docs/security.md."""
    (found,) = re.findall(r"```nginx\n(.*?)```", (ROOT / "docs" / "security.md").read_text(), re.DOTALL)
    return str(found)


@contextmanager
def run_nginx(folder: Path, app_port: int) -> Iterator[tuple[str, ssl.SSLContext]]:
    """Run nginx in front of the app; yield its address and what trusts its certificate."""
    assert NGINX
    port = free_port()
    certificate, private = make_certificate(folder)
    server = documented_configuration()
    for written, here in (
        ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"), (f"server_name {NAME};", "server_name localhost;"),
        ("/etc/ssl/finetuning/certificate.pem", str(certificate)), ("/etc/ssl/finetuning/key.pem", str(private)),
        ("127.0.0.1:8501", f"127.0.0.1:{app_port}"),
    ):  # fmt: skip
        assert written in server, written
        server = server.replace(written, here)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    head = f"pid {folder}/nginx.pid;\ndaemon off;\nerror_log {folder}/nginx.log;\nworker_processes 1;\n"
    configuration = folder / "nginx.conf"
    configuration.write_text(f"{head}events {{}}\nhttp {{\naccess_log off;\n{paths}{server}}}\n")
    process = subprocess.Popen([NGINX, "-e", f"{folder}/nginx.log", "-c", str(configuration)], stdin=subprocess.DEVNULL)
    trust = ssl.create_default_context(cafile=str(certificate))
    address = f"https://localhost:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"{address}/_stcore/health", verify=trust)
                break
            except httpx.TransportError:
                assert process.poll() is None and time.monotonic() < deadline, (folder / "nginx.log").read_text()
                time.sleep(0.1)
        yield address, trust
    finally:
        process.terminate()
        process.wait(30)
