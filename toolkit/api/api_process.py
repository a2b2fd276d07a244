"""The process of the fine-tuning API: its key, how it is found, and how to reach it from other programs."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from toolkit.errors import RunError
from toolkit.services.service_process import Service, ServiceInfo, find_service
from toolkit.system.durable import durable_write
from toolkit.system.private_files import find_privacy_problem

API_SERVICE = Service(
    name="api",
    module="toolkit",
    title="The fine-tuning API",
    error=RunError,
    stuck="It may be busy or stuck. Start it again.",
    gone="Start it again with: python -m toolkit api",
)
KEY_FILE = "key"


@dataclass(frozen=True)
class ApiInfo(ServiceInfo):
    """Address of the running server of a save_dir. model: what OpenAI's models are replaced by."""

    model: str

    service: ClassVar[Service] = API_SERVICE


def find_api(save_dir: Path) -> ApiInfo | None:
    """Return the running server of `save_dir`; None when there is none."""
    return find_service(ApiInfo, save_dir)


def load_api_key(save_dir: Path) -> str:
    """Return the key that clients must send. It is made once, so that a restart of the server changes nothing.

    Raises RunError: other users may know the file, or it can't be used.
    """
    path = API_SERVICE.folder(save_dir) / KEY_FILE
    hint = "Delete it: the next start makes another key."
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.path.lexists(path):
            durable_write(path, f"sk-{secrets.token_urlsafe(32)}\n")
        problem = find_privacy_problem(path)
        key = path.read_text(encoding="ascii").strip() if not problem else ""
    except (OSError, ValueError) as error:
        raise RunError(f"The key of the API at {path} can't be used: {error}.", hint) from error
    if problem:
        raise RunError(f"The key of the API at {path} {problem}.", hint)
    if len(key) < 20:
        raise RunError(f"The key of the API at {path} is damaged.", hint)
    return key


def describe_api_access(info: ApiInfo) -> str:
    """Return how to reach the API, with an example to copy."""
    return f"""
OpenAI's fine-tuning API is ready. Any OpenAI client on this machine can use it:

  address  {info.url}/v1
  key      {info.token}
  model    {info.model} (also for OpenAI's own names, such as gpt-4.1-nano)

export OPENAI_BASE_URL={info.url}/v1 OPENAI_API_KEY={info.token}

Press Ctrl-C to stop it. A run in progress continues."""
