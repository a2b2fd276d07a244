"""python -m toolkit.worker.serve: the inference engine as a process of its own, for this machine alone.

Environment: FTK_SAVE_DIR, FTK_ENGINE_RUN (the run whose base model is loaded), FTK_ENGINE_TOKEN, and optionally
FTK_ENGINE_PORT (default: any free one) and FTK_ENGINE_IDLE_MINUTES (default 30; 0 is never). The server answers at
once, the model loads meanwhile; ending the process gives the memory back. Writes save_dir/engine/engine.json (0600),
where any later program of the same user finds it; one engine a save_dir. Exit status: 0 ended as asked, 2 wrong
environment, 3 another engine is there.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn

from toolkit.runs.durable import durable_write
from toolkit.runs.lock import describe_self, try_lock, write_body
from toolkit.worker.api import application
from toolkit.worker.host import Host

ENGINE_SCHEMA = 1
LOOPBACK = "127.0.0.1"
IDLE_MINUTES = 30.0
SECONDS_TO_CLOSE = 2
LAST_LINE = "Ended in order."


@dataclass(frozen=True)
class Environment:
    save_dir: Path
    run_id: str
    token: str
    port: int
    idle_seconds: float

    @classmethod
    def read(cls) -> Environment:
        """Raises KeyError or ValueError: only programs write these variables."""
        return cls(
            save_dir=Path(os.environ["FTK_SAVE_DIR"]).absolute(),
            run_id=os.environ["FTK_ENGINE_RUN"],
            token=os.environ.pop("FTK_ENGINE_TOKEN"),
            port=int(os.environ.get("FTK_ENGINE_PORT") or 0),
            idle_seconds=60 * float(os.environ.get("FTK_ENGINE_IDLE_MINUTES") or IDLE_MINUTES),
        )


def main() -> int:
    try:
        env = Environment.read()
    except (KeyError, ValueError) as error:
        print(f"The environment is not complete: {error}", file=sys.stderr)
        return 2
    folder = env.save_dir / "engine"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = try_lock(folder / "engine.lock")
    if lock is None:
        print(f"Another engine serves {env.save_dir}.", file=sys.stderr)
        return 3
    write_body(lock, describe_self(attempt=1))
    try:
        listening = _listen(env.port)
    except OSError as error:
        print(f"Port {env.port} can't be used: {error.strerror}.", file=sys.stderr)
        return 2
    announced = folder / "engine.json"
    try:
        _serve(env, listening, announced)
    finally:
        announced.unlink(missing_ok=True)
        print(LAST_LINE, file=sys.stderr)
    return 0


def _serve(env: Environment, listening: socket.socket, announced: Path) -> None:
    def end() -> None:
        server.should_exit = True

    host = Host(env.save_dir, env.run_id, env.idle_seconds, end)
    server = uvicorn.Server(
        uvicorn.Config(
            application(host, env.token),
            ws="none",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=SECONDS_TO_CLOSE,
        )
    )
    signal.signal(signal.SIGTERM, _leave)  # uvicorn raises it again after its own orderly end
    durable_write(announced, json.dumps(_announcement(env, listening)), mode=0o600)
    server.run(sockets=[listening])


def _listen(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((LOOPBACK, port))
    listening.listen(128)  # from now on a client waits instead of being refused
    return listening


def _announcement(env: Environment, listening: socket.socket) -> dict[str, object]:
    me = describe_self(attempt=1)
    return {
        "schema": ENGINE_SCHEMA,
        "port": listening.getsockname()[1],
        "pid": me.pid,
        "create_time": me.create_time,
        "run": env.run_id,
        "token": env.token,
    }


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    try:
        status = main()
    except (SystemExit, KeyboardInterrupt):
        status = 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # a load or an answer may still be going on in its thread: nobody waits for it any more
