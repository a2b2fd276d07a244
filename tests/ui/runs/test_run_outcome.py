"""The result of a run in one figure, and the remedy of a failure."""

from __future__ import annotations

from typing import Any

import pytest

from toolkit.runs.end_reasons import explain_exception
from toolkit.runs.event_facts import Curve
from toolkit.runs.status import RunStatus
from toolkit.settings.field_spec import field_specs_by_path
from toolkit.system.printable import format_figure
from toolkit.ui.runs.run_outcome import RunResult, find_remedy, summarize_result

LOSSES = Curve.from_points([(10, 2.5), (96, 0.25)])


def scored(**scores: Any) -> RunStatus:
    return RunStatus("finished", scores=scores)


def test_exact_match_is_the_result_where_a_row_is_answered_exactly() -> None:
    result = summarize_result(scored(rows=128, exact_match=122 / 128, exact_match_base=0.0), LOSSES)
    meaning = "exact match, base model → adapter (122 of 128 test rows)"
    assert result == RunResult("0 %", "95.3 %", meaning, "green")
    worse = summarize_result(scored(rows=1, exact_match=0.0, exact_match_base=1.0), None)
    assert worse == RunResult("100 %", "0 %", "exact match, base model → adapter (0 of 1 test row)", "red")


def test_test_rows_that_are_also_training_rows_are_named() -> None:
    result = summarize_result(scored(rows=128, exact_match=1.0, exact_match_base=0.0, seen_rows=12), LOSSES)
    assert result is not None
    assert result.meaning.endswith("(128 of 128 test rows; 12 of them are also in the training set)")


def test_free_text_shows_the_loss_and_a_run_without_figures_shows_none() -> None:
    unmatched = scored(rows=128, exact_match=0.0, exact_match_base=0.0)
    assert summarize_result(unmatched, LOSSES) == RunResult("2.5", "0.25", "test loss, step 10 → step 96", "green")
    assert summarize_result(scored(), LOSSES) == summarize_result(unmatched, LOSSES)
    same = summarize_result(unmatched, None)
    assert same is not None and (same.before, same.after, same.color) == ("0 %", "0 %", "gray")
    assert summarize_result(scored(), Curve.from_points([(10, 2.5)])) is None


@pytest.mark.parametrize(
    ("type_name", "text", "path"),
    [
        ("OSError", "x is not a local folder and is not a valid model identifier", "model.hf_model_ckpt"),
        ("LocalEntryNotFoundError", "couldn't connect to the hub", "model.hf_model_ckpt"),
        ("DivergedError", "loss is nan", "training.training_args.learning_rate"),
        ("OutOfMemoryError", "CUDA out of memory.", "training.training_args.per_device_train_batch_size"),
        ("ValueError", "Target modules {'x'} not found", "lora.target_modules"),
        ("AssertionError", "Torch not compiled with CUDA enabled", "model.device_map"),
    ],
)
def test_a_failure_leads_to_the_setting_that_its_hint_names(type_name: str, text: str, path: str) -> None:
    why = explain_exception(type_name, text)
    remedy = find_remedy(RunStatus("failed", reason=why.reason, message=why.message, hint=why.hint))
    assert remedy is not None and path in field_specs_by_path()
    assert (remedy.page, remedy.path) == ("configure", path)


def test_a_failure_that_no_setting_caused_has_no_remedy() -> None:
    for type_name, text in (("OSError", "No space left on device"), ("OSError", "Input/output error"), ("Odd", "odd")):
        why = explain_exception(type_name, text)
        assert find_remedy(RunStatus("failed", reason=why.reason, hint=why.hint)) is None, why


def test_figures_have_no_exponent_where_digits_do_and_a_minus_sign() -> None:
    shown = {0.25: "0.25", 1180.0: "1,180", 118_000.4: "118,000", -0.5: "−0.5", 2e-5: "2e−5", 1e20: "1e20", 0.0: "0"}
    assert {number: format_figure(number) for number in shown} == shown
