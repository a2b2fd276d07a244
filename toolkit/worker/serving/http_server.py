"""What every serving process does around its application: lock, port, announcement file, serving and shutdown.

`services/service_process.py` starts and finds these processes. The server listens on 127.0.0.1 only; when idle, it
wakes up once a second.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from toolkit.services.service_process import CLEAN_EXIT_LINE, SERVICE_SCHEMA, Service, sign_service_body
from toolkit.system.durable import durable_write
from toolkit.system.locks import describe_self, try_lock, write_lock_holder
from toolkit.system.private_files import restrict_new_files

LOOPBACK_ADDRESS = "127.0.0.1"
SECONDS_TO_CLOSE = 2
"""Seconds that open connections get at shutdown."""
TICK_SECONDS = 1.0
"""Seconds between two checks of `should_exit`, which a signal sets; uvicorn's 0.1 s costs CPU time when idle."""

ShutdownCallback = Callable[[], None]
"""Shuts the server down; call it on the event loop of the server."""


@dataclass(frozen=True)
class ServiceAddress:
    """Where a process serves. token: what callers must send. about: additional entries of the announcement file."""

    save_dir: Path
    token: str
    port: int
    about: Mapping[str, object]

    @classmethod
    def read(cls, port: str | None = None, **about: object) -> ServiceAddress:
        """Read the address from the environment.

        Raises:
            KeyError, ValueError: a variable is missing or invalid.
        """
        token = os.environ.pop("FTK_SERVICE_TOKEN")  # child processes must not inherit it
        return cls(Path(os.environ["FTK_SAVE_DIR"]).absolute(), token, int(port or 0), about)


def serve_application(
    service: Service, place: ServiceAddress, application: Callable[[ShutdownCallback], ASGIApp]
) -> int:
    """Serve until shutdown. Return the exit status: 0 after a shutdown, 2 the port is taken, 3 another one serves."""
    folder = service.folder(place.save_dir)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = try_lock(service.file(place.save_dir, "lock"))
    if lock is None:
        print(f"Another process ({service.name}) already serves {place.save_dir}.", file=sys.stderr)
        return 3
    write_lock_holder(lock, describe_self(attempt=1))
    try:
        listening = _listen(place.port)
    except OSError as error:
        print(f"Port {place.port} can't be used: {error.strerror}.", file=sys.stderr)
        return 2
    announced = service.file(place.save_dir, "json")
    signal.signal(signal.SIGTERM, _exit_on_signal)  # uvicorn raises the signal again after its own shutdown
    try:
        server = _Server(lambda: application(server.leave))
        durable_write(announced, json.dumps(_announcement(place, listening)), mode=0o600)
        server.run(sockets=[listening])
    finally:
        announced.unlink(missing_ok=True)
        print(CLEAN_EXIT_LINE, file=sys.stderr, flush=True)
    return 0


def run_and_exit(main: Callable[[], int]) -> None:
    """Run `main` and exit with its status at once, even if a model is still loading or answering in a thread."""
    restrict_new_files()
    try:
        status = main()
    except (SystemExit, KeyboardInterrupt):
        status = 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


class _Server(uvicorn.Server):
    """A uvicorn server that wakes up once a second instead of ten times a second when it is idle."""

    def __init__(self, factory: Callable[[], ASGIApp]) -> None:
        super().__init__(
            uvicorn.Config(
                factory,
                factory=True,
                timeout_graceful_shutdown=SECONDS_TO_CLOSE,
                ws="none",
                log_level="warning",
                access_log=False,
                server_header=False,
            )
        )
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """Shut the server down. Call it on its event loop."""
        self.should_exit = True
        self._leaving.set()

    async def main_loop(self) -> None:
        counter = 0
        while not await self.on_tick(counter):
            counter += 10  # on_tick counts tenths of seconds
            try:
                await asyncio.wait_for(self._leaving.wait(), TICK_SECONDS)
            except TimeoutError:
                continue  # a signal sets should_exit without waking the loop: check it again


def _listen(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((LOOPBACK_ADDRESS, port))
    listening.listen(128)  # from here on, connections are queued instead of refused
    return listening


def _announcement(place: ServiceAddress, listening: socket.socket) -> dict[str, object]:
    """Return the content of the announcement file, signed: others may write to a shared folder. Raises RunError."""
    me = describe_self(attempt=1)
    body = {
        "schema": SERVICE_SCHEMA,
        "port": listening.getsockname()[1],
        "pid": me.pid,
        "create_time": me.create_time,
        "token": place.token,
        **place.about,
    }
    return {**body, "hmac": sign_service_body(place.save_dir, body)}


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)
