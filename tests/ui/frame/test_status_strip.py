"""The status line: an error in a refresh is shown as a message."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from toolkit.errors import RunError
from toolkit.ui.frame import status_strip


def line() -> None:
    from toolkit.ui.frame import status_strip

    status_strip._line()


@pytest.mark.parametrize(
    ("error", "words"),
    [(RuntimeError("a bug"), "Something went wrong"), (RunError("The folder is gone.", "Look."), "The folder is gone")],
)
def test_an_error_in_a_refresh_is_shown_as_a_message(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(status_strip, "list_live_runs", fail)
    app = AppTest.from_function(line).run()
    assert not app.exception
    assert words in app.error[0].value
