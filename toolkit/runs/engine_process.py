"""The inference engine's process: found, started and ended; how is `worker/serve.py`'s to know.

engine/engine.json (0600) names the living engine of a save_dir: port, pid with start time, token. It is believed only
while the engine holds engine/engine.lock. Speaks no HTTP: that is `client.py`'s.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from toolkit.config import Config
from toolkit.errors import EngineError
from toolkit.runs.lock import Holder, boot_id, end_processes, is_held, process_lives, try_lock
from toolkit.runs.rundir import RunDir
from toolkit.runs.spawn import PROJECT_ROOT, worker_environment

ENGINE_SCHEMA = 1
START_SECONDS = 30.0  # until the server announces itself; the model loads after that
OTHERS_SECONDS = 60.0
POLL_SECONDS = 0.05
LOG_TAIL_BYTES = 4000
IN_ORDER = "Ended in order."


@dataclass(frozen=True)
class EngineInfo:
    """Where a living engine is. run: the one whose base model it was started with. create_time: Unix seconds."""

    save_dir: Path
    port: int
    pid: int
    create_time: float
    run: str
    token: str = field(repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def find(save_dir: Path) -> EngineInfo | None:
    """The living engine of `save_dir`, whoever started it; None when there is none."""
    save_dir = save_dir.absolute()
    try:
        body = json.loads((save_dir / "engine" / "engine.json").read_bytes())
        if body.pop("schema") != ENGINE_SCHEMA:
            return None
        info = EngineInfo(save_dir=save_dir, **body)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # none was announced, or it is being written by another version
    return info if lives(info) else None


def lives(info: EngineInfo) -> bool:
    """Whether this very process still serves."""
    return is_held(info.save_dir / "engine" / "engine.lock") and process_lives(info.pid, info.create_time)


@contextmanager
def one_at_a_time(save_dir: Path) -> Iterator[None]:
    """Two pages that start an engine at once get the same one. Raises EngineError when another start hangs."""
    folder = save_dir / "engine"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    end = time.monotonic() + OTHERS_SECONDS
    while (handle := try_lock(folder / "start.lock")) is None:
        if time.monotonic() > end:
            raise EngineError("Another program is starting the engine and does not finish.", "Close it, or wait.")
        time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        os.close(handle)


def spawn(run: RunDir, config: Config, *, port: int | None, idle_minutes: float) -> EngineInfo:
    """Start the engine for the base model of `run`, in a session of its own; returns once it has announced itself.

    Raises EngineError with the end of its log when it ends instead.
    """
    settings = {
        "FTK_ENGINE_RUN": run.id,
        "FTK_ENGINE_TOKEN": secrets.token_urlsafe(32),
        "FTK_ENGINE_PORT": str(port or 0),
        "FTK_ENGINE_IDLE_MINUTES": str(idle_minutes),
    }
    log = run.save_dir / "engine" / "engine.log"
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "toolkit.worker.serve"],
            cwd=PROJECT_ROOT,
            env={**worker_environment(run, config, attempt=1), **settings},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        info = find(run.save_dir)
        if info is not None and info.pid == process.pid:
            # whoever waits for a child ends it for good; this thread does, however long it lives
            threading.Thread(target=process.wait, name="engine-reaper", daemon=True).start()
            return info
        time.sleep(POLL_SECONDS)
    process.kill()
    process.wait()
    raise EngineError("The engine could not be started.", last_words(run.save_dir) or f"Its log is {log}.")


def end(info: EngineInfo, grace_seconds: float) -> None:
    """Wait for the process to end by itself, then make it: SIGTERM, SIGKILL. Never another process with its pid."""
    deadline = time.monotonic() + grace_seconds
    while process_lives(info.pid, info.create_time) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    if process_lives(info.pid, info.create_time):
        end_processes(Holder(info.pid, info.create_time, info.pid, 1, boot_id()), grace_seconds=2.0)


def last_words(save_dir: Path) -> str:
    """The last lines that the engine wrote, or "" when there are none or it ended in order."""
    try:
        with (save_dir / "engine" / "engine.log").open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            lines = log.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    if lines and lines[-1] == IN_ORDER:
        return ""
    return "Its log ends with: " + " / ".join(lines[-2:]) if lines else ""


def how_to_ask(info: EngineInfo, run_id: str) -> str:
    """What a person needs to reach the engine from elsewhere: address, token, and two examples to copy."""
    return f"""
Ready. Any OpenAI client on this machine can ask it:

  address  {info.url}/v1
  key      {info.token}
  models   {run_id} (your adapter), base

curl {info.url}/v1/chat/completions \\
  -H "Authorization: Bearer {info.token}" -H "Content-Type: application/json" \\
  -d '{{"model": "{run_id}", "messages": [{{"role": "user", "content": "Hello"}}]}}'

from openai import OpenAI
client = OpenAI(base_url="{info.url}/v1", api_key="{info.token}")
for part in client.chat.completions.create(
    model="{run_id}", messages=[{{"role": "user", "content": "Hello"}}], stream=True
):
    if part.choices:
        print(part.choices[0].delta.content or "", end="", flush=True)

Ctrl-C ends it.
"""
