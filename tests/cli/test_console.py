"""The terminal: foreign text is shown as characters and steers nothing, wherever it is printed."""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path

import pytest
from rich.table import Table as Grid
from typer.testing import CliRunner

from docs.generate_reference import REFERENCE_PAGE
from toolkit import cli
from toolkit.cli import console
from toolkit.cli.console import PlainConsole
from toolkit.cli.main import app
from toolkit.errors import ToolkitError
from toolkit.system.printable import PlainLogHandler

HOSTILE = "a\x1b[2J\x1b]0;title\x07\x9b31m\x08\r\u202eb\x00\x7f\u2066c"
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u2066]")


def printed(*, table: bool) -> str:
    shown = PlainConsole(width=80)
    shown.file = io.StringIO()
    if table:
        grid = Grid(HOSTILE, box=None)
        grid.add_row(HOSTILE)
        shown.print(grid, soft_wrap=False)
    else:
        shown.print(HOSTILE)
    return shown.file.getvalue()


@pytest.mark.parametrize("table", [False, True])
def test_no_control_character_reaches_the_terminal(table: bool) -> None:
    text = printed(table=table)
    assert not STEERING.search(text)
    assert "a[2J]0;title31mbc" in text, "the visible characters stay"


@pytest.mark.parametrize("error", [ToolkitError(HOSTILE, HOSTILE), ValueError(HOSTILE)])
def test_no_control_character_of_an_error_reaches_the_terminal(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit), console.print_errors():
        raise error
    text = capsys.readouterr().err
    assert "error: " in text and not STEERING.search(text)


@pytest.mark.parametrize("place", ["/etc/passwd", "x" * 5000])
def test_a_folder_that_can_not_be_one_is_no_bug(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), console.print_errors():
        app(["list", "--save-dir", place], standalone_mode=False)
    text = capsys.readouterr().err
    assert "Check the path" in text and "bug" not in text and len(text) < 400


def test_a_logged_warning_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    error = ValueError(HOSTILE)
    trace = (ValueError, error, None)
    PlainLogHandler().handle(logging.LogRecord("name", logging.WARNING, "file", 1, "%s", (HOSTILE,), trace))
    text = capsys.readouterr().err
    assert text.count("[2J]0;title31mbc") == 2 and "ValueError" in text and not STEERING.search(text)


def test_the_commands_print_through_the_plain_console_only() -> None:
    files = sorted(Path(cli.__path__[0]).glob("*.py"))
    assert len(files) >= 4
    direct = re.compile(r"(?<![.\w])print\(|typer\.echo|(?<!Plain)Console\(|sys\.std(out|err)\.write")
    found = {file.name: direct.findall(file.read_text().replace("class PlainConsole(Console)", "")) for file in files}
    assert not {name: calls for name, calls in found.items() if calls}


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        ("run", "run CONFIG [OPTIONS]"), ("data", "data FILE [OPTIONS]"), ("export", "export RUN [OPTIONS]"),
        ("serve", "serve RUN [RUN@STEP ...] [OPTIONS]"), ("list", "list [OPTIONS]"),
    ],
)  # fmt: skip
def test_help_names_arguments_as_the_docs_do(command: str, usage: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], terminal_width=200, prog_name="python -m toolkit").output
    assert f"Usage: python -m toolkit {usage}" in " ".join(shown.split())
    assert not re.search(r"\{\w+\}|<bool>|<str>|list\[", shown.partition("Options")[2]), shown
    assert f"python -m toolkit {usage}" in REFERENCE_PAGE.read_text(encoding="utf-8")


def test_an_argument_that_is_missing_is_named_as_in_the_help() -> None:
    assert "Missing argument 'CONFIG'" in CliRunner().invoke(app, ["run"]).output
