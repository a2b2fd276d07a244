"""What the commands share: consoles, exit codes, common options, and how errors and paths are printed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from toolkit.config import Config
from toolkit.errors import ConfigError, Problem, ToolkitError
from toolkit.system.printable import strip_control_characters

EXIT_FAILED, EXIT_BAD_SETTINGS, EXIT_GATE_REFUSED, EXIT_INTERRUPTED = 1, 2, 3, 130
"""130 is 128 + SIGINT, as shells report a command that was stopped with Ctrl-C."""

DEFAULT_SAVE_DIR = Path(Config().save_dir or ".")
SaveDirOption = Annotated[Path, typer.Option(help="The output folder that holds the runs.")]

# markup is off: names of runs and files may hold [brackets]
out = Console(highlight=False, markup=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def format_path(path: Path) -> str:
    """Return the path relative to the current folder if it is inside it."""
    current = Path.cwd()
    return str(path.relative_to(current)) if path.is_relative_to(current) else str(path)


def print_warnings(problems: Iterable[Problem]) -> None:
    """Print each problem as a warning on standard error."""
    for problem in problems:
        err.print(strip_control_characters(f"warning: {problem}"))


@contextmanager
def print_errors() -> Iterator[None]:
    """Print an exception as a message and exit with its code instead of showing a traceback.

    Internal errors keep their traceback while FTK_DEBUG is set.
    """
    try:
        yield
    except ConfigError as error:
        for problem in error.problems:
            err.print(strip_control_characters(f"error: {problem}"))
        sys.exit(EXIT_BAD_SETTINGS)
    except ToolkitError as error:
        err.print(strip_control_characters(f"error: {error}"))
        sys.exit(EXIT_FAILED)
    except Exception as error:  # nothing is caught after this: a bug must not end in a traceback either
        if "FTK_DEBUG" in os.environ:
            raise
        err.print(
            f"error: internal error ({type(error).__name__}: {error}). This is a bug in the toolkit; "
            "run the command again with FTK_DEBUG=1 to see the traceback."
        )
        sys.exit(EXIT_FAILED)
