"""The forecast beside the form: it moves with the settings, and one click makes a run fit."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.pages.conftest import Stage, button, words
from toolkit.forecast import scene
from toolkit.ui.configure.forecast_view import shorten_number


def test_it_stands_beside_the_form_and_moves_with_it(stage: Stage) -> None:
    app = stage.page("configure")
    assert "of 2.07 M parameters" in words(app)
    assert "128 steps" in words(app)
    assert any("Fits" in str(badge.value) for badge in app.markdown) or "Fits" in str(app.main)
    app.session_state["workspace"]["draft"]["training"]["training_args"]["num_train_epochs"] = 5
    stage.checked(app.run())
    assert "320 steps" in words(app)


def test_what_does_not_fit_is_made_to_fit_by_a_click(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(total=555_000_000 / 0.95, available=600_000_000)
    monkeypatch.setattr(scene.psutil, "virtual_memory", lambda: memory)
    app = stage.page("configure")
    # left empty it would be on by itself, and the run would fit
    app.session_state["workspace"]["draft"]["training"]["training_args"]["gradient_checkpointing"] = False
    stage.checked(app.run())
    button(app, "Make it fit").click()
    stage.checked(app.run())
    assert "Changed from the defaults" in words(app)
    assert not [entry for entry in app.button if entry.label == "Make it fit"]


def test_numbers_of_parameters_are_short() -> None:
    assert [shorten_number(n) for n in (12, 651_264, 2_065_344, 8_030_261_248)] == ["12", "651 k", "2.07 M", "8.03 B"]
