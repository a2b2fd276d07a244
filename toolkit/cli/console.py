"""What the commands share: consoles, exit codes, common options, and how errors and paths are printed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from toolkit.config import Config
from toolkit.errors import ConfigError, Problem, ToolkitError
from toolkit.system.printable import clean_terminal_text

EXIT_FAILED, EXIT_BAD_SETTINGS, EXIT_GATE_REFUSED, EXIT_INTERRUPTED = 1, 2, 3, 130
"""130 is 128 + SIGINT, as shells report a command that was stopped with Ctrl-C."""

DEFAULT_SAVE_DIR = Path(Config().save_dir or ".")
ConfigArgument = Annotated[
    Path, typer.Argument(help="A YAML file with settings, for example one exported from the Configure page.")
]
SaveDirOption = Annotated[Path, typer.Option(metavar="DIR", help="The output folder that holds the runs.")]


class PlainConsole(Console):
    """A console that shows foreign text as characters: no markup, and no sequence that could steer the terminal.

    width: in characters; None for the terminal's own.
    """

    def __init__(self, *, stderr: bool = False, soft_wrap: bool = True, width: int | None = None) -> None:
        # markup is off: names of runs and files may hold [brackets]
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=soft_wrap, width=width)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Yield the segments of `renderable`; those that rich itself steers the terminal with keep their codes."""
        for segment in super().render(renderable, options):
            plain = segment.text if segment.control else clean_terminal_text(segment.text)
            yield Segment(plain, segment.style, segment.control)


out, err = PlainConsole(), PlainConsole(stderr=True)


def format_path(path: Path) -> str:
    """Return the path relative to the current folder if it is inside it."""
    current = Path.cwd()
    return str(path.relative_to(current)) if path.is_relative_to(current) else str(path)


def print_warnings(problems: Iterable[Problem]) -> None:
    """Print each problem as a warning on standard error."""
    for problem in problems:
        err.print(f"warning: {problem}")


@contextmanager
def print_errors() -> Iterator[None]:
    """Print an exception as a message and exit with its code instead of showing a traceback.

    Internal errors keep their traceback while FTK_DEBUG is set.
    """
    try:
        yield
    except ConfigError as error:
        for problem in error.problems:
            err.print(f"error: {problem}")
        sys.exit(EXIT_BAD_SETTINGS)
    except ToolkitError as error:
        err.print(f"error: {error}")
        sys.exit(EXIT_FAILED)
    except OSError as error:  # a path or a disk that can't be used is no bug
        if "FTK_DEBUG" in os.environ:
            raise
        err.print(f"error: {error.strerror or error}: {str(error.filename or '')[:200]}. Check the path and the disk.")
        sys.exit(EXIT_FAILED)
    except Exception as error:  # nothing is caught after this: a bug must not end in a traceback either
        if "FTK_DEBUG" in os.environ:
            raise
        err.print(
            f"error: internal error ({type(error).__name__}: {error}). This is a bug in the toolkit; "
            "run the command again with FTK_DEBUG=1 to see the traceback."
        )
        sys.exit(EXIT_FAILED)
