"""The process of the fine-tuning API: its key, how it is found, and how to reach it from other programs."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from toolkit.errors import RunError
from toolkit.services.service_process import Service, ServiceInfo, find_service
from toolkit.system.durable import load_secret_file

API_SERVICE = Service(
    name="api",
    module="toolkit",
    title="The fine-tuning API",
    error=RunError,
    stuck="It may be busy or stuck. Start it again.",
    gone="Start it again with: python -m toolkit api",
)
KEY_FILE = "key"
MIN_KEY_CHARACTERS = 20


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
    title, loss = "The key of the API", "the next start makes another key"
    fresh = f"sk-{secrets.token_urlsafe(32)}\n".encode()
    raw = load_secret_file(path, fresh, title, loss, f"Delete it: {loss}.")
    key = raw.decode("ascii", "replace").strip()
    if len(key) < MIN_KEY_CHARACTERS or not key.isascii():
        raise RunError(f"{title} at {path} is damaged.", f"Delete it: {loss}.")
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
