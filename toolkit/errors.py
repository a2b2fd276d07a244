"""The errors that a user may see.

ToolkitError            message + hint; every page and the command line show exactly these two
├── ConfigError         settings that can't be used; has one Problem for each of them
├── DataError           a file, a table or a template that can't be used
├── RunError            a run that can't be created, started, stopped or read
├── EngineError         the inference engine can't be started, or it refused a request
├── WarmError           the background worker can't be started, or it could not answer
└── SignInError         the visitor has not signed in, may not use the app, or sign-in is not set up
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """An error or a warning about one setting.

    path: dotted path of the setting ("training.training_args.bf16"), or "" for the whole config.
    message: what is wrong, with the value found. hint: what to do next.
    severity: an "error" blocks Start, a "warning" is only shown.
    """

    path: str
    message: str
    hint: str = ""
    severity: Severity = "error"

    def __str__(self) -> str:
        prefix = f"{self.path}: " if self.path else ""
        return f"{prefix}{self.message}" + (f" {self.hint}" if self.hint else "")


class ToolkitError(Exception):
    """An error that the user can act on: `message` says what is wrong, `hint` what to do next.

    reason: an identifier for programs, as in `runs/end_reasons.py`; "" derives it from the message.
    """

    def __init__(self, message: str, hint: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class ConfigError(ToolkitError):
    """Settings that can't be used. problems: one entry for each, at least one."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        lines = "\n".join(f"- {problem}" for problem in self.problems)
        count = len(self.problems)
        super().__init__(f"{count} setting{'s' if count != 1 else ''} can't be used:\n{lines}")


class DataError(ToolkitError):
    """A file, a table or a template that can't be used."""


class RunError(ToolkitError):
    """A run that can't be created, started, stopped or read."""


class EngineError(ToolkitError):
    """The inference engine can't be started, or refused a request."""


class WarmError(ToolkitError):
    """The background worker can't be started, or could not answer a question."""


class SignInError(ToolkitError):
    """The visitor has not signed in, is not on the list of people, or sign-in is not set up as it must be."""
