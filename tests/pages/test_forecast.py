"""The forecast on the Configure page: it follows the settings, and one click makes a run fit."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.pages.conftest import Stage, button, words
from toolkit.forecast import base_model_files, scene
from toolkit.forecast.forecast import Forecast
from toolkit.ui.configure import forecast_view
from toolkit.ui.configure.forecast_view import shorten_number


def test_the_forecast_follows_the_settings(stage: Stage) -> None:
    app = stage.page("configure")
    assert "of 2.07 M parameters" in words(app)
    assert "128 steps" in words(app)
    assert any("Fits" in str(badge.value) for badge in app.markdown) or "Fits" in str(app.main)
    app.session_state["workspace"]["draft"]["training"]["training_args"]["num_train_epochs"] = 5
    stage.checked(app.run())
    assert "320 steps" in words(app)


def test_the_summary_and_the_forecast_say_the_same_while_tokens_are_counted(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, add = itertools.count(1), forecast_view.add_session_measurement

    def count_more_tokens(found: Forecast) -> Forecast:
        return replace(add(found), times=replace(found.times, training=36_000.0 * next(asked)))

    monkeypatch.setattr(forecast_view, "add_session_measurement", count_more_tokens)
    said = re.findall(r"about \d+ h", words(stage.page("configure")).replace("*", ""))
    assert len(said) > 1 and len(set(said)) == 1, said


def test_make_it_fit_changes_settings_until_the_run_fits(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(total=555_000_000 / 0.95, available=600_000_000)
    monkeypatch.setattr(scene.psutil, "virtual_memory", lambda: memory)
    app = stage.page("configure")
    # unset, it would be switched on automatically, and the run would fit
    app.session_state["workspace"]["draft"]["training"]["training_args"]["gradient_checkpointing"] = False
    stage.checked(app.run())
    button(app, "Make it fit").click()
    stage.checked(app.run())
    assert "Changed from the defaults" in words(app)
    assert not [entry for entry in app.button if entry.label == "Make it fit"]


def test_parameter_counts_are_shortened() -> None:
    assert [shorten_number(n) for n in (12, 651_264, 2_065_344, 8_030_261_248)] == ["12", "651 k", "2.07 M", "8.03 B"]
    assert [shorten_number(n) for n in (999, 999_400, 999_600, 999_885_952)] == ["999", "999 k", "1 M", "1 B"]


def test_auto_says_what_it_stands_for_on_this_machine(stage: Stage) -> None:
    app = stage.page("configure")
    app = stage.checked(app.button_group(key="configure_section").set_value("precision").run())
    text = words(app)
    assert "Now fp32: works on any CPU" in text
    assert "Now tf32 off: it needs an Ampere GPU or newer." in text
    assert "Now no gradient checkpointing: " in text and "on if the run does not fit" not in text.lower()
    app = stage.checked(app.segmented_control(key="field:training.training_args.bf16").set_value("Off").run())
    assert "Now fp32" not in words(app)
    app = stage.checked(app.button_group(key="configure_section").set_value("sequence").run())
    assert "Now on: the tokenizer has a chat template." in words(app)


def test_a_model_is_chosen_from_the_picker(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(base_model_files, "_start_download", lambda name: "unknown")
    app = stage.page("configure")
    app = stage.checked(button(app, "Choose a model").click().run())
    text = words(app)
    assert "2.07 M parameters · 3.9 MiB · part of this app" in text
    assert "596 M parameters · download of 1.1 GiB · Apache 2.0" in text
    assert "accept the license on huggingface.co and set HF_TOKEN first" in text
    assert "Fits: " in text and "Too large: " in text, "8 GB of memory"
    assert [entry.label for entry in app.button if entry.key == "use_model:bundled:demo-model"] == ["In use"]
    app = stage.checked(app.button(key="use_model:Qwen/Qwen3-0.6B").click().run())
    assert app.session_state["workspace"]["draft"]["model"]["hf_model_ckpt"] == "Qwen/Qwen3-0.6B"
    assert "of 596 M parameters" in words(app), "the forecast follows"


def test_nothing_is_offered_for_download_offline(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    app = stage.page("configure")
    app = stage.checked(button(app, "Choose a model").click().run())
    assert "HF_HUB_OFFLINE is set" in words(app)
    assert app.button(key="use_model:Qwen/Qwen3-0.6B").disabled
