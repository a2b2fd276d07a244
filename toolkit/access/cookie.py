"""The cookie that lets a browser in: named by host and port, with a value that follows from the token.

Browsers send the cookies of `localhost` to every port there. The cookie therefore does not hold the token itself, and
that of one port is worthless at another.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass

COOKIE_SECONDS = 30 * 24 * 3600
"""30 days, after which the link is needed again."""


@dataclass(frozen=True)
class AccessCookie:
    """The cookie of one address. host: the Host header of the request, such as "localhost:8501"."""

    host: str
    token: str

    @property
    def name(self) -> str:
        """The name, which no other app on this machine uses: "finetuning-toolkit-localhost-8501"."""
        return "finetuning-toolkit-" + re.sub(r"[^a-z0-9]+", "-", self.host.lower()).strip("-")

    @property
    def value(self) -> str:
        """The value, from which the token can't be computed."""
        return hmac.new(self.token.encode(), f"cookie of {self.host.lower()}".encode(), "sha256").hexdigest()

    def is_in(self, headers: Iterable[str]) -> bool:
        """Return whether these Cookie headers hold it; other cookies of the same name do not matter."""
        expected, found = f"{self.name}={self.value}".encode(), False
        for header in headers:
            for part in header.split(";"):
                found |= hmac.compare_digest(part.strip().encode(), expected)
        return found
