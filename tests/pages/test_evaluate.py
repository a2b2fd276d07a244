"""The Evaluate page over prepared answers: exact counts, no difference within noise, every row in the list."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from tests.evaluation.planted import known_flips, plant, two_adapters
from tests.fakes.training import make_table
from tests.pages.conftest import Stage, button, words
from toolkit.evaluation import evaluation_dir, progress, prompt_sets
from toolkit.evaluation.answers import AnswerLog, EvaluationAnswer, ProbeAnswer, read_recorded_answers
from toolkit.evaluation.conclude import conclude_evaluation
from toolkit.evaluation.evaluation_dir import Evaluation, EvaluationSpec, loaded_models_lock
from toolkit.evaluation.questions import make_questions
from toolkit.evaluation.statistics.pass_rules import parse_pass_rules
from toolkit.runs.events import EventWriter
from toolkit.runs.model_names import BASE
from toolkit.runs.run_dir import RunDir
from toolkit.system.background_job import JobFiles
from toolkit.system.locks import WorkerLock

DATA = {"data": {"prompt": "{q}", "prompt_stub": "{a}"}}


@pytest.fixture
def run(stage: Stage, tmp_path: Path) -> RunDir:
    source = tmp_path / "given.csv"
    source.write_text("q,a\n" + "".join(f"training question {i},answer {i}\n" for i in range(20)))
    config = {"data": {**DATA["data"], "file_type": "csv", "path": str(source), "train_size": 10, "test_size": 10}}
    return stage.finished("mine", config=config)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Evaluation]:
    """The evaluations whose process would have been started."""
    found: list[Evaluation] = []

    def start_and_end(files: JobFiles, module: str, arguments: list[str], *_: object, **__: object) -> None:
        """A process that ended immediately after its first event."""
        found.append(Evaluation(RunDir(files.state.parents[2]), arguments[1]))
        with EventWriter(files.state) as events:
            events.append("started")

    monkeypatch.setattr(progress, "start_job", start_and_end)
    return found


def over(evaluation: Evaluation) -> None:
    with EventWriter(evaluation.events_path) as events:
        events.append("started")
        events.append("finished")


def tiles(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


def test_known_changes_are_counted_exactly(stage: Stage, run: RunDir) -> None:
    said = known_flips(fixed=31, broke=3, same=7, both_wrong=5)
    evaluation, _ = plant(run, said, probe=[0.4] * 20)
    over(evaluation)
    app = stage.page("evaluate", run)
    assert tiles(app) == {"Fixed": "31", "Broke": "3", "Unchanged (correct)": "7", "Unchanged (wrong)": "5"}
    text = words(app)
    assert "It is better than its base model." in text
    assert "It fixed 31 rows and broke 3." in text
    assert "It shows forgetting" in text
    assert list(tiles(app))[:2] == ["Broke", "Fixed"], "what got worse comes first"
    measures = app.dataframe[0].value
    assert list(measures["Measure"]) == ["Exact match", "Word F1", "chrF"], "the others are folded"
    assert measures.loc[measures["Measure"] == "Exact match", "Verdict"].item() == "better"
    (folded,) = [entry for entry in app.expander if entry.label == "All 13 measures"]
    assert not folded.proto.expanded and len(folded.dataframe[0].value) == 13
    rows = app.dataframe[-1].value
    assert len(rows) == 46
    assert list(rows["Outcome"])[:3] == ["▼ Broke"] * 3, "the most damaged first"
    assert "Row" in text
    app = app.pills(key="row_outcomes").set_value(["both wrong"]).run()
    assert len(stage.checked(app).dataframe[-1].value) == 5
    app = app.pills(key="row_outcomes").set_value([]).run()
    app = app.text_input(key="row_text").set_value("question 4").run()
    assert len(stage.checked(app).dataframe[-1].value) == 7, "4 and 40 to 45"
    app = app.text_input(key="row_text").set_value("nowhere").run()
    assert "No row matches the filter" in words(stage.checked(app))


def test_labels_are_shown_as_a_picture_with_their_own_spelling(stage: Stage, run: RunDir) -> None:
    said = {"Zurück (neu)": ("no idea", "Zurück (neu)"), "In Transit": ("In Transit", "zurück neu")}
    evaluation, _ = plant(run, said, asked_for=list(said) * 6)
    over(evaluation)
    app = stage.page("evaluate", run)
    assert "Recall by label: In Transit 0 %, Zurück (neu) 100 %" in words(app)
    charts = {chart.proto.id.rsplit("-", 1)[-1]: chart.proto for chart in app.get("plotly_chart")}
    assert "Zurück (neu)" in json.loads(charts["confusion"].spec)["layout"]["yaxis"]["ticktext"]
    assert "Exact match: " in charts["differences"].alt


def test_two_adapters_are_compared_on_the_page(stage: Stage, run: RunDir) -> None:
    other = stage.finished("yours")
    evaluation, _ = plant(run, two_adapters(), others=[other.id])
    over(evaluation)
    app = stage.page("evaluate", run)
    assert words(app).count("It is better than its base model.") == 2
    assert tiles(app) == {"Fixed": "30", "Broke": "0", "Unchanged (correct)": "0", "Unchanged (wrong)": "16"}
    app = stage.checked(app.selectbox(key=f"model_{evaluation.id}").set_value(other.id).run())
    assert tiles(app)["Fixed"] == "15"
    app = stage.checked(app.selectbox(key=f"against_{evaluation.id}_{other.id}").set_value(run.id).run())
    assert tiles(app) == {"Fixed": "10", "Broke": "25", "Unchanged (correct)": "5", "Unchanged (wrong)": "6"}
    assert "yours compared with mine, on the same rows" in words(app) and "It is worse than mine." in words(app)
    rows = app.dataframe[-1].value
    assert list(rows.columns[-3:]) == ["Expected", "mine", "yours"]
    assert list(rows["Outcome"])[:2] == ["▼ Broke"] * 2
    measures = app.dataframe[0].value
    assert measures.loc[measures["Measure"] == "Exact match", "Verdict"].item() == "worse"


def test_an_interrupted_evaluation_continues_when_its_page_is_opened(
    stage: Stage, run: RunDir, started: list[Evaluation]
) -> None:
    evaluation = evaluation_dir.create_evaluation(run, EvaluationSpec())
    with EventWriter(evaluation.events_path) as events:
        events.append("started")
        events.append("progress", done=3, total=20)
    app = stage.page("evaluate", run)
    assert started == [evaluation]
    app = stage.checked(app.run())
    assert started == [evaluation], "once per session: one that always fails waits for a click"
    assert "The evaluation was interrupted" in words(app)
    stage.checked(button(app, "Continue evaluation").click().run())
    assert started == [evaluation] * 2


def test_no_real_change_is_within_noise(stage: Stage, run: RunDir) -> None:
    said = known_flips(fixed=4, broke=4, same=20, both_wrong=20, wrong=("no idea", "no idea"))
    evaluation, _ = plant(run, said, probe=[0.1, -0.1] * 10)
    over(evaluation)
    app = stage.page("evaluate", run)
    text = words(app)
    assert "These rows show no significant difference from its base model." in text
    assert "It shows no forgetting" in text
    measures = app.dataframe[0].value
    assert set(measures["Verdict"]) == {"within noise"}


def test_forgetting_is_found_without_expected_answers(stage: Stage, run: RunDir) -> None:
    table = make_table(run.save_dir / "asked.parquet", [{"q": f"question {n}"} for n in range(6)])
    evaluation = evaluation_dir.create_evaluation(
        run, EvaluationSpec(rows=None, source="file", label="questions alone"), table=table
    )
    log = AnswerLog(evaluation.answers_path)
    log.write([EvaluationAnswer(model, n, "said") for n in range(6) for model in (BASE, run.id)])
    log.write([ProbeAnswer(model, n, nll, 10) for n in range(20) for model, nll in ((BASE, 10.0), (run.id, 14.0))])
    log.close()
    conclude_evaluation(
        evaluation, make_questions(evaluation), read_recorded_answers(evaluation.answers_path), (BASE, run.id), 1.0
    )
    over(evaluation)
    text = words(stage.checked(stage.page("evaluate", run)))
    assert "The rows have no expected answers, so nothing can be scored" in text
    assert "It shows forgetting" in text


def test_text_from_outside_is_escaped(stage: Stage, run: RunDir) -> None:
    nasty = "<b>bold</b> [link](http://e.x) :red[red] $x$"
    evaluation, _ = plant(run, {nasty: ("**no**", nasty), "other": ("other", "<img src=x>")})
    over(evaluation)
    app = stage.page("evaluate", run)
    shown = [str(entry.value) for entry in app.markdown]
    assert not [text for text in shown if re.search(r"(?<!\\)(<b>|<img|\]\(http|\*\*no|\$x)", text)]


def test_the_first_click_evaluates_the_test_set(stage: Stage, run: RunDir, started: list[Evaluation]) -> None:
    app = stage.page("evaluate", run)
    assert "Is the adapter better than the base model?" in words(app)
    app = stage.checked(button(app, "Evaluate").click().run())
    (evaluation,) = started
    spec = evaluation_dir.read_evaluation_spec(evaluation)
    assert (spec.source, spec.rows, spec.probe) == ("test", evaluation_dir.DEFAULT_EVALUATION_ROWS, True)
    assert button(app, "Continue evaluation"), "the process has ended without an event"


def test_an_evaluation_starts_with_one_click_from_the_run(stage: Stage, run: RunDir, started: list[Evaluation]) -> None:
    app = stage.page("runs", run)
    app = stage.checked(button(app, "Evaluate").click().run())
    assert app.title[0].value == "Evaluate"
    assert [one.run.id for one in started] == [run.id]


def test_progress_and_stop_are_on_the_page(stage: Stage, run: RunDir) -> None:
    evaluation = evaluation_dir.create_evaluation(run, EvaluationSpec())
    with WorkerLock(evaluation.lock_path), EventWriter(evaluation.events_path) as events:
        events.append("started")
        events.append("phase", phase="asking")
        events.append("progress", done=30, total=120, remaining_s=9.0)
        app = stage.page("evaluate", run)
        text = words(app)
        assert "30 of 120 answers" in text
        assert "about 9 s left" in text
        button(app, "Stop").click().run()
        assert evaluation.stop_path.exists()
    app = stage.page("evaluate", run)
    assert "interrupted after 30 of 120 answers" in words(app)


def test_a_failure_is_explained(stage: Stage, run: RunDir) -> None:
    evaluation = evaluation_dir.create_evaluation(run, EvaluationSpec())
    with EventWriter(evaluation.events_path) as events:
        events.append("started")
        events.append("failed", message="The memory is not enough.", hint="Close something.")
    text = words(stage.page("evaluate", run))
    assert "The memory is not enough." in text
    assert "Close something." in text


def test_rules_and_gate(stage: Stage, run: RunDir, started: list[Evaluation]) -> None:
    evaluation, _ = plant(run, known_flips(fixed=20, broke=0, same=5, both_wrong=1))
    over(evaluation)
    evaluation_dir.save_rules(
        stage.folder, parse_pass_rules({"rules": [{"kind": "contains", "text": "wrong", "negate": True}]})
    )
    app = stage.page("evaluate", run)
    assert "must not contain “wrong” in at least 100 % of the rows" in words(app).replace(":gray[", "").replace("]", "")
    app = app.selectbox(key="gate_no gate").set_value("exact_match").run()
    rules = evaluation_dir.read_saved_rules(stage.folder)
    assert rules.gate is not None
    assert rules.gate.improves == "exact_match"
    app = stage.checked(button(app, "Apply rules to this evaluation").click().run())
    assert started == [evaluation]
    assert evaluation_dir.read_evaluation_rules(evaluation) == rules
    app = stage.page("evaluate", run)
    app = button_by_key(app, "drop_rule_0").click().run()
    assert evaluation_dir.read_saved_rules(stage.folder).rules == ()


def button_by_key(app: AppTest, key: str) -> Any:
    return next(entry for entry in app.button if entry.key == key)


def test_a_prompt_set_is_run_and_kept_with_the_run(stage: Stage, run: RunDir, started: list[Evaluation]) -> None:
    kept = prompt_sets.save_prompt_set(
        stage.folder, prompt_sets.make_prompt_set("greetings", [("Hello?", "Hi!"), ("Who?", None)])
    )
    app = stage.page("evaluate", run)
    app = app.segmented_control(key="eval_source").set_value("prompts").run()
    app = stage.checked(button(app, "Evaluate with these options").click().run())
    (evaluation,) = started
    assert evaluation_dir.read_evaluation_spec(evaluation).label == "greetings"
    assert evaluation_dir.read_evaluation_prompts(evaluation).items == kept.items


def test_the_page_is_empty_until_a_run_has_an_adapter(stage: Stage) -> None:
    assert button(stage.page("evaluate"), "Try it now")
    stage.run(name="waiting")
    assert button(stage.page("evaluate"), "View run")


def test_the_status_line_shows_a_running_evaluation(stage: Stage) -> None:
    assert "Nothing is running" in words(stage.page("evaluate"))
    with WorkerLock(loaded_models_lock(stage.folder)):
        assert "An evaluation is running" in words(stage.page("evaluate"))
