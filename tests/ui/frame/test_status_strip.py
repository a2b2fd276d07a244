"""The strip of what is running: an error in one of its own ticks becomes words."""

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
def test_a_tick_that_fails_is_words(error: Exception, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(status_strip, "list_live_runs", fail)
    app = AppTest.from_function(line).run()
    assert not app.exception
    assert words in app.error[0].value
