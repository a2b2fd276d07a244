"""One line to a webhook or a messenger when a run ends, fails or waits for a person.

The addresses come from an environment variable: they often hold a secret, and an argument can be read by every user of
the machine. No message of an error repeats them.
"""

from __future__ import annotations

import os
import re
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

import httpx

from toolkit.errors import RunError
from toolkit.system.printable import strip_control_characters

ADDRESS_VARIABLE = "FTK_NOTIFY"
WEBHOOK_TIMEOUT_SECONDS = 20.0
_FOUND_BY_MESSENGERS = re.compile(r"(?i):(?=//(?!huggingface\.co/))|www(?=\.)|@")
"""What a messenger makes a link or a mention of. Our own hints name pages of the Hub."""


def read_notification_addresses() -> tuple[str, ...]:
    """Return the addresses in FTK_NOTIFY, which blanks separate. Raises RunError where apprise would be needed."""
    addresses = tuple(os.environ.get(ADDRESS_VARIABLE, "").split())
    for address in addresses:
        if not _is_webhook(address) and not _load_apprise().Apprise().add(address):
            raise RunError(
                f"An address in {ADDRESS_VARIABLE} can't be used: {urlsplit(address).scheme or 'no'} scheme.",
                "Give an https:// address, or one that apprise knows, for example ntfy://topic.",
            )
    return addresses


def neutralize_for_messengers(text: str) -> str:
    """Return text on one line in which no messenger finds a link, an image, a mention or a command in <...>."""
    line = " ".join(strip_control_characters(text).split()).replace("<", "‹").replace(">", "›")
    return _FOUND_BY_MESSENGERS.sub(lambda found: f"{found[0]}\N{WORD JOINER}", line)


def send_notification(address: str, text: str, facts: dict[str, str]) -> str:
    """Send one line, and return why it failed, or "". facts: fields beside "text" in the JSON of a webhook."""
    if not _is_webhook(address):
        messenger = _load_apprise().Apprise()
        messenger.add(address)
        return "" if messenger.notify(body=text, body_format="text") else "the service did not take it"
    try:
        answer = httpx.post(address, json={"text": text, **facts}, timeout=WEBHOOK_TIMEOUT_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return type(error).__name__  # its text may repeat the address
    return "" if answer.is_success else f"status {answer.status_code}"


def _is_webhook(address: str) -> bool:
    return urlsplit(address).scheme in ("http", "https")


def _load_apprise() -> Any:
    try:
        return import_module("apprise")
    except ImportError as error:
        raise RunError(
            f"An address in {ADDRESS_VARIABLE} that does not begin with https:// needs the package apprise.",
            "Install it with: pip install apprise",
        ) from error
