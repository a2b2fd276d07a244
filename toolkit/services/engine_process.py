"""The process of the inference engine: finding it, starting it, and how to reach it from other programs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from toolkit.config import Config
from toolkit.errors import EngineError
from toolkit.runs.run_dir import RunDir
from toolkit.runs.worker_process import worker_environment
from toolkit.services import service_process
from toolkit.services.service_process import Service, ServiceInfo

ENGINE_SERVICE = Service(
    name="engine",
    module="toolkit.worker.serve",
    title="The engine",
    error=EngineError,
    stuck="It may be busy or stuck. Try again, or stop it and load the model again.",
    gone="Load the model again.",
)


@dataclass(frozen=True)
class EngineInfo(ServiceInfo):
    """Address of a running engine. run: id of the run whose base model it was started with."""

    run: str

    service: ClassVar[Service] = ENGINE_SERVICE


def find_engine(save_dir: Path) -> EngineInfo | None:
    """Return the running engine of `save_dir`, whichever program started it; None when there is none."""
    return service_process.find_service(EngineInfo, save_dir)


def lock_engine_start(save_dir: Path) -> AbstractContextManager[None]:
    """Lock the start of the engine, so that two pages that start it at once get the same one.

    Raises EngineError when another start hangs.
    """
    return service_process.lock_service_start(ENGINE_SERVICE, save_dir)


def spawn_engine(run: RunDir, config: Config, *, port: int | None, idle_minutes: float) -> EngineInfo:
    """Start the engine for the base model of `run`. Returns when its server is up. Raises EngineError.

    port: None takes any free one. idle_minutes: 0 means that it never stops by itself.
    """
    settings = {
        "FTK_ENGINE_RUN": run.id,
        "FTK_ENGINE_PORT": str(port or 0),
        "FTK_ENGINE_IDLE_MINUTES": str(idle_minutes),
    }
    return service_process.spawn_service(
        EngineInfo, run.save_dir, {**worker_environment(run, config, attempt=1), **settings}
    )


def read_engine_log_tail(save_dir: Path) -> str:
    """Return the last lines that the engine wrote, or "" when there are none or it ended normally."""
    return service_process.read_service_log_tail(ENGINE_SERVICE, save_dir)


def describe_engine_access(info: EngineInfo, run_id: str, models: Sequence[str]) -> str:
    """Return how to reach the engine from other programs: address, key, models, and two examples to copy."""
    return f"""
Ready. Any OpenAI client on this machine can use it:

  address  {info.url}/v1
  key      {info.token}
  models   {", ".join(sorted(models, key=lambda name: name != run_id))}

{write_curl_command(info, run_id)}

{write_client_code(info, run_id)}

Press Ctrl-C to stop it.
"""


def write_curl_command(info: EngineInfo, run_id: str) -> str:
    """Return a command that asks the engine a question."""
    return f"""curl {info.url}/v1/chat/completions \\
  -H "Authorization: Bearer {info.token}" -H "Content-Type: application/json" \\
  -d '{{"model": "{run_id}", "messages": [{{"role": "user", "content": "Hello"}}]}}'"""


def write_client_code(info: EngineInfo, run_id: str) -> str:
    """Return Python code that asks the engine a question with OpenAI's client."""
    return f"""from openai import OpenAI
client = OpenAI(base_url="{info.url}/v1", api_key="{info.token}")
for part in client.chat.completions.create(
    model="{run_id}", messages=[{{"role": "user", "content": "Hello"}}], stream=True
):
    if part.choices:
        print(part.choices[0].delta.content or "", end="", flush=True)"""
