"""The app's access token: one for each output folder, in a file next to the installation's key.

It survives a restart of the app, so that open tabs keep working, and is not in the output folder, which may be copied.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from toolkit.config import Config
from toolkit.errors import RunError
from toolkit.system.durable import durable_write, load_secret_file, state_folder
from toolkit.system.private_files import find_privacy_problem

SAVE_DIR_VARIABLE = "FINETUNING_TOOLKIT_SAVE_DIR"
REQUIRE_VARIABLE = "FTK_REQUIRE_TOKEN"
NETWORK_VARIABLE = "FTK_ALLOW_NETWORK"
DEFAULT_ADDRESS = "http://localhost:8501"
_TOKEN_BYTES = 32
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
_ADDRESS = re.compile(r"https?://[A-Za-z0-9.:\[\]_-]+(/[A-Za-z0-9._~/-]*)?", re.ASCII)


def is_token_required() -> bool:
    """Return whether visitors need the token: yes, unless the environment switches it off."""
    return os.environ.get(REQUIRE_VARIABLE, "").lower() not in ("0", "off", "no", "false")


def is_network_allowed() -> bool:
    """Return whether the app may be shown on other addresses than this machine's: by choice, and with the token."""
    chosen = os.environ.get(NETWORK_VARIABLE, "").lower() in ("1", "on", "yes", "true")
    return chosen and is_token_required()


def find_app_folder() -> Path:
    """Return the output folder of an app that is started here: FINETUNING_TOOLKIT_SAVE_DIR, or ./experiments."""
    default = str(Config.model_fields["save_dir"].default)
    return Path(os.environ.get(SAVE_DIR_VARIABLE) or default).expanduser().resolve()


def load_access_token(save_dir: Path) -> str:
    """Return the token of the app that is started with this output folder, created at first use. Raises RunError."""
    path = _access_file(save_dir, "token")
    loss = "the app then makes a new token and prints its link"
    token = load_secret_file(path, draw_token().encode(), "The app's access token", loss).decode("ascii", "replace")
    if not _TOKEN.fullmatch(token):
        raise RunError(f"The app's access token at {path} is damaged.", f"Delete it: {loss}.")
    return token


def draw_token() -> str:
    """Return a new random token, which has no characters that an address would have to escape."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


def build_link(address: str, token: str) -> str:
    """Return the link that opens the app. address: without a slash at the end, such as "http://localhost:8501"."""
    return f"{address}/?token={token}"


def find_token(pasted: str) -> str:
    """Return the token in what a person has pasted: the token itself, or a link or an address with it."""
    text = pasted.strip()
    try:
        named = parse_qs(urlsplit(text).query).get("token", [])
    except ValueError:  # "http://[": not an address
        named = []
    return named[0] if named else text


def write_address(save_dir: Path, address: str) -> None:
    """Keep the address of the app that runs with this output folder, for `python -m toolkit link`. Raises OSError."""
    path = _access_file(save_dir, "address")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    durable_write(path, address)


def read_address(save_dir: Path) -> str:
    """Return the address of the app that was last started with this output folder, or the default."""
    path = _access_file(save_dir, "address")
    try:
        written = "" if find_privacy_problem(path) else path.read_text(encoding="utf-8")[:1000]
    except (OSError, UnicodeDecodeError):
        return DEFAULT_ADDRESS
    return written if _ADDRESS.fullmatch(written) else DEFAULT_ADDRESS


def _access_file(save_dir: Path, ending: str) -> Path:
    digest = hashlib.sha256(os.fsencode(save_dir.expanduser().resolve())).hexdigest()[:16]
    return state_folder() / "access" / f"{digest}.{ending}"
