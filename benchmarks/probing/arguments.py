"""The command line with hostile arguments, and what the argument lists of processes show to other users."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil

from benchmarks.probing.probe import Probe
from benchmarks.probing.server import Target

COMMANDS = ("run", "study", "data", "check", "resume", "pause", "list", "serve", "evaluate", "export", "follow", "link")
ARGUMENTS = (
    "",
    " ",
    "../../etc/passwd",
    "/etc/passwd",
    "/dev/zero",
    "/",
    "x" * 5000,
    "\x1b[2J\x1b]0;x\x07",
    "\u202ex",
    "$(touch /tmp/probe-argument)",
    "`touch /tmp/probe-argument`",
    ";touch /tmp/probe-argument",
    "-x",
    "--",
    "@file",
    "http://evil.example/x",
    "20200101-000000-aaaa",
    "{0.__class__}",
    "%s%n",
    "[red]x[/red]",
    "[/x]",
)
SECONDS = 120.0
_STEERING = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_OWN_CODES = re.compile(r"\x1b\[[0-9;]*m")
"""Colors of the help, which the library of the command line writes itself."""


def argument_probes(folder: Path) -> Iterator[Probe]:
    """Call each command with each argument, in a folder without runs; in one process, because imports take seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    for command in COMMANDS:
        for argument in ARGUMENTS:
            line = [
                command,
                *([argument] if command not in ("list", "link") else []),
                "--save-dir",
                str(folder / "none"),
            ]
            without = line[:-2] if command in ("run", "study", "data", "check") else line
            yield Probe("argv", f"{command} {argument[:40]!r}", partial(_call, folder, without), SECONDS)
    for command in ("resume", "list", "follow"):
        for argument in ARGUMENTS:
            line = [command, *(["x"] if command == "resume" else []), "--save-dir", argument]
            yield Probe("argv", f"{command} in {argument[:40]!r}", partial(_call, folder, line), SECONDS)


def _call(folder: Path, line: list[str]) -> str:
    os.chdir(folder)
    reading, writing = os.pipe()
    for stream in (1, 2):
        os.dup2(writing, stream)
    os.close(writing)
    sys.stdout, sys.stderr = (open(stream, "w", buffering=1, closefd=False) for stream in (1, 2))  # noqa: SIM115
    os.set_blocking(reading, False)
    from toolkit.cli.main import main

    sys.argv = ["toolkit", *line]
    with suppress(SystemExit):
        main()
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        said = os.read(reading, 65536).decode(errors="replace")
    except BlockingIOError:
        said = ""
    if "Traceback" in said or "internal error" in said:
        return f"a traceback: {said[-300:]!r}"
    if Path("/tmp/probe-argument").exists():
        return "it ran a command"
    found = _STEERING.search(said) or re.search("\x1b", _OWN_CODES.sub("", said))
    return f"printed {found[0]!r}: {said[:100]!r}" if found else ""


def process_probes(target: Target, pid: int) -> Iterator[Probe]:
    """The app's processes: no secret in an argument list, which every user of the machine can read."""
    secrets = [target.token, *(part for _, value in target.access for part in value.split("=")[-1:])]
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        for number, secret in enumerate(secrets):
            attempt = partial(_find_in_arguments, process.pid, secret)
            yield Probe("argv", f"process {process.name()} {process.pid}, secret {number}", attempt, isolated=False)


def _find_in_arguments(pid: int, secret: str) -> str:
    try:
        shown = " ".join(psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return ""
    return "its arguments hold a secret" if secret and secret in shown else ""
