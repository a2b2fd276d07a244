"""Two runs of the list compared: two ticks, a button, and what the page then says."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from tests.pages.conftest import ROOT, Stage, button, words
from toolkit.evaluation import run_comparison
from toolkit.evaluation.predictions import Prediction, write_predictions
from toolkit.runs.run_dir import RunDir
from toolkit.ui.runs import run_table
from toolkit.ui.workspace import run_chooser, run_entries

RATE = "training.training_args.learning_rate"


def answer(run: RunDir, right: int, rows: int = 100) -> None:
    """Let a finished run answer this many of its test rows correctly."""
    write_predictions(run, [Prediction(at, f"q{at}", "yes", "no", "yes" if at < right else "no") for at in range(rows)])


def open_comparison(stage: Stage, *runs: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    app.query_params["compare"] = ",".join(runs)
    return stage.checked(app.run().switch_page("pages/studies.py").run())


def make_pair(stage: Stage, before: int = 40, after: int = 80, **more: object) -> tuple[RunDir, RunDir]:
    first = stage.finished("slow", adapter=False)
    second = stage.finished("fast", adapter=False, config={"training": {"training_args": {"learning_rate": 1e-2}}})
    for run, right in ((first, before), (second, after)):
        answer(run, right)
    return first, second


def test_two_ticks_and_a_button_open_the_comparison(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = make_pair(stage)
    app = stage.page("runs", second)
    assert button(app, "Compare two runs").disabled and "Tick two runs to compare them." in words(app)
    monkeypatch.setattr(run_table, "draw_run_table", lambda *_, **__: [second.id, first.id])  # AppTest can't tick
    app = stage.checked(app.run())
    assert button(app, "Show slow")
    app = stage.checked(button(app, "Compare these two runs").click().run())
    assert app.title[0].value == "Studies"
    assert "fast compared with slow" in words(app)


def test_a_finished_run_offers_the_comparison_next_to_its_result(stage: Stage) -> None:
    first = stage.finished("slow", adapter=False)
    second = stage.finished("fast")
    app = stage.page("runs", second)
    (offered,) = next(box for box in app.selectbox if box.label == "Other run").options
    assert offered.startswith("slow · ")
    app = stage.checked(button(app, "Compare the two runs").click().run())
    assert app.title[0].value == "Studies"
    assert app.query_params["compare"] in (f"{second.id},{first.id}", [f"{second.id},{first.id}"])


def test_a_tick_of_another_run_shows_it(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = make_pair(stage)
    app = stage.page("runs", second)
    ticks = [[first.id], [first.id]]
    monkeypatch.setattr(run_table, "draw_run_table", lambda *_, **__: ticks.pop() if ticks else [first.id])
    app = stage.checked(app.run())
    assert app.query_params["run"] in (first.id, [first.id])


def test_the_verdict_comes_first_and_says_what_it_rests_on(stage: Stage) -> None:
    first, second = make_pair(stage)
    app = open_comparison(stage, second.id, first.id)
    assert app.header[0].value.replace("\\", "").endswith("It is better than slow.")
    text = words(app)
    assert "Exact match over 100 rows: 80 %, slow 40 %; difference +40.0 points (+" in text
    assert "It fixed 40 rows and broke 0." in text
    assert "what another training seed would change" in text
    settings, changed = (entry.value for entry in app.dataframe[:2])
    assert settings["Setting"].tolist() == ["Learning rate"] and settings["slow"].tolist() == ["0.003"]
    assert len(changed) == 40 and "40 rows that only one of the runs answers correctly" in text


def test_few_clean_rows_lead_to_an_evaluation_of_both(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = make_pair(stage)
    monkeypatch.setattr(run_comparison, "find_seen_rows", lambda questions, *_: {second.id: set(range(1, 100))})
    app = open_comparison(stage, second.id, first.id)
    text = words(app)
    assert "1 row is too few to distinguish a change from chance. 99 of 100 rows are also in" in text
    assert "To compare on more rows" in text
    app = stage.checked(button(app, "Evaluate both on other rows").click().run())
    assert app.title[0].value == "Evaluate" and app.session_state["run_id"] == second.id


def test_equal_answers_are_no_difference_and_equal_names_are_told_apart(stage: Stage) -> None:
    runs = [stage.finished("same", adapter=False) for _ in range(2)]
    for run in runs:
        answer(run, 50)
    app = open_comparison(stage, *(run.id for run in runs))
    text = words(app)
    assert "show no significant difference from same ·" in text
    assert "All settings are equal." in text
    assert "No row changed between correct and wrong." in text


def test_runs_without_answers_are_named_and_their_curves_are_shown(stage: Stage) -> None:
    first = stage.finished("bare", adapter=False)
    second = stage.finished("full", adapter=False)
    answer(second, 50)
    text = words(open_comparison(stage, first.id, second.id))
    assert "The answers can't be compared." in text
    assert "bare: no answers to test rows are recorded." in text


@pytest.mark.parametrize("asked", ["gone", "../../etc,passwd", ",", "a,b,c"])
def test_an_address_that_names_no_two_runs_says_what_to_do(stage: Stage, asked: str) -> None:
    first, _ = make_pair(stage)
    app = open_comparison(stage, asked, first.id)
    assert "Tick two runs in the table on the Runs page." in app.warning[0].value.replace("\\", "")
    app = stage.checked(button(app, "Show the studies").click().run())
    assert not app.warning


def test_older_runs_are_listed_on_demand(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    _, second = make_pair(stage)
    for module in (run_entries, run_chooser):
        monkeypatch.setattr(module, "MAX_OFFERED_RUNS", 1)
    app = stage.page("runs", second)
    assert app.selectbox[0].options == [next(one for one in app.selectbox[0].options if "fast" in one)]
    assert "The newest 1 of 2 runs are listed." in words(app)
    app = stage.checked(button(app, "List all runs").click().run())
    assert len(app.selectbox[0].options) == 2
    assert "are listed" not in words(app)
    assert app.query_params["run"] in (second.id, [second.id])
