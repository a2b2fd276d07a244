"""The Playground before an engine runs, and the Studies page."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from streamlit.testing.v1 import AppTest

from tests.pages.conftest import ROOT, Stage, button, words
from toolkit.config import InferenceConfig
from toolkit.data.examples.split import plan_split
from toolkit.data.table import load_table
from toolkit.evaluation.predictions import Prediction, write_predictions
from toolkit.runs.run_dir import RunDir, list_runs, read_run_config
from toolkit.services import engine_client
from toolkit.services.engine_http import Done
from toolkit.services.engine_process import EngineInfo
from toolkit.services.engine_requests import ScoredCompletion
from toolkit.studies.known_runs import read_old_question
from toolkit.studies.question import AskedTrial, write_question
from toolkit.ui.evaluate import evaluate_view
from toolkit.ui.playground import engine_bar
from toolkit.ui.playground.columns import AnswerColumn
from toolkit.ui.playground.questions import prepare_question


def test_the_playground_is_empty_until_a_run_has_an_adapter(stage: Stage) -> None:
    assert button(stage.page("playground"), "Try it now")
    stage.finished("no adapter", adapter=False)
    assert "No run has finished yet" in words(stage.page("playground"))


def test_the_playground_points_to_a_queued_run(stage: Stage) -> None:
    stage.run(name="waiting")
    assert button(stage.page("playground"), "View run")


def test_the_text_boxes_hold_a_test_row(stage: Stage) -> None:
    run = stage.finished("done")
    app = stage.page("playground", run)
    assert app.text_area[0].label == "message"
    assert app.text_area[0].value
    assert "Not loaded" in words(app)
    assert not button(app, "Ask").disabled
    assert app.number_input(key="ask_seed").value is None


def test_invalid_settings_disable_ask(stage: Stage) -> None:
    run = stage.finished("done")
    app = stage.page("playground", run)
    app.session_state["workspace"]["draft"]["inference"].update(do_sample=True, temperature=0)
    app = stage.checked(app.run())
    assert button(app, "Ask").disabled


def test_without_a_study_the_page_leads_to_configure(stage: Stage) -> None:
    stage.finished("alone")
    app = stage.page("studies")
    assert "No study yet" in words(app)
    app = button(app, "Set up a study").click().run()
    assert stage.checked(app).title[0].value == "Configure"


def test_a_study_shows_its_runs_and_the_best(stage: Stage) -> None:
    for rank, exact in ((4, 0.5), (8, 0.9)):
        stage.finished(f"r {rank}", exact=exact, study="ranks", settings={"lora.r": rank}, adapter=False)
    stage.run(study="ranks", settings={"lora.r": 16})
    app = stage.page("studies")
    text = words(app)
    assert "= 8" in text or " 8" in text
    frame = app.dataframe[0].value
    assert len(frame) == 3
    assert "Queued" in frame.to_string()
    assert app.selectbox[0].options == ["ranks"]


def test_the_table_of_a_study_counts_clean_test_rows_only(stage: Stage) -> None:
    runs = [stage.finished(f"seed {seed}", study="seeds", settings={"data.train_test_split_seed": seed},
                           config={"data": {"train_test_split_seed": seed}}) for seed in (1, 2)]  # fmt: skip
    tables = [load_table(run.source_path) for run in runs]
    splits = [plan_split(table, read_run_config(run).data) for table, run in zip(tables, runs, strict=True)]
    clean = []
    for at, run in enumerate(runs):
        texts = [[row["message"] for row in tables[0].take(part)] for part in (splits[at].test, splits[1 - at].train)]
        kept = {text for text in texts[0] if text not in texts[1]}
        clean.append(sum(text in kept for text in texts[0]))
        # the rows that the other trial was trained on are answered wrongly, all others correctly
        answers = [Prediction(row, text, "x", "", "x" if text in kept else "") for row, text in enumerate(texts[0])]
        write_predictions(run, answers)
    assert all(0 < count < 128 for count in clean)
    app = stage.page("studies")
    frame = app.dataframe[0].value
    assert sorted(frame["Clean test rows"]) == sorted(clean)
    assert list(frame["Exact match"]) == [1.0, 1.0]
    assert f"{256 - sum(clean)} answers to rows that a trial of this study was trained on are excluded" in words(app)


def add_answers(run: RunDir, right: int, rows: int = 100) -> None:
    """Give a finished run its answers to test rows, of which this many are correct."""
    answers = [Prediction(at, f"q{at}", "yes", "no", "yes" if at < right else "no") for at in range(rows)]
    write_predictions(run, answers)


def test_a_study_begins_with_its_verdict_and_its_values_are_adopted_in_one_click(stage: Stage) -> None:
    for seed in (1, 2, 3):
        for rank, right in ((4, 40), (8, 90)):
            config = {"lora": {"r": rank}, "training": {"training_args": {"seed": seed}}}
            run = stage.finished(
                f"{rank} {seed}", study="ranks", settings={"lora.r": rank}, config=config, adapter=False
            )
            add_answers(run, right + seed)
    failed = ("failed", {"reason": "oom", "message": "The memory ran out."})
    config = {"lora": {"r": 8}, "training": {"training_args": {"seed": 4}}}
    stage.run(("started", {}), failed, study="ranks", settings={"lora.r": 8}, config=config)
    app = stage.page("studies")
    verdict = app.main.markdown[0].value.replace("\\", "").replace("\u00a0", " ")
    assert verdict.startswith("**LoRA rank (r) matters**: 8 instead of 4 gives +50 points exact match (95 % interval +")
    assert "100 test rows, 3 seeds)" in verdict and "1 of 7 runs failed: The memory ran out." in verdict
    assert "Use LoRA rank (r) 8." in verdict
    assert "Each line is a trial; higher exact match is better." in words(app)
    assert "Objective: exact match; higher is better." in words(app)
    assert not button(app, "Start 1 run on all rows").disabled
    assert "with LoRA rank (r) 8 on every row of the dataset but one" in words(app).replace("\\", "")
    assert "No test figure: a run needs one test row" in words(app)
    frame = app.dataframe[0].value
    assert len(frame) == 7 and "The memory ran out." in frame.to_string()
    assert sorted(frame["Seed"]) == [1, 1, 2, 2, 3, 3, 4]
    app.session_state["workspace"]["grid"] = {"lora.r": [4, 8]}
    app.session_state["workspace"]["draft"]["training"]["training_args"]["num_train_epochs"] = 7  # after the study
    app = stage.checked(button(app, "Use these values").click().run())
    saved = json.loads((stage.folder / "draft.json").read_text())
    assert saved["draft"]["lora"]["r"] == 8 and saved["draft"]["ablation"]["use_ablate"] is False
    assert saved["grid"] == {}
    assert saved["draft"]["training"]["training_args"]["num_train_epochs"] == 2, "as the study was trained"


def test_the_table_of_trials_sorts_by_size_links_to_runs_and_shows_trials_without_a_run(stage: Stage) -> None:
    for rank in (8, 32, 128):
        config = {"lora": {"r": rank}}
        stage.finished(f"r {rank}", study="ranks", settings={"lora.r": rank}, config=config, adapter=False)
    runs = {run.id: read_run_config(run).lora.r for run in list_runs(stage.folder)}
    frame = stage.page("studies").dataframe[0].value
    assert frame["LoRA rank (r)"].tolist() == [8, 32, 128], "numbers, not texts"
    assert frame["LoRA rank (r)"].dtype.kind == "i"
    links = dict(zip(frame["LoRA rank (r)"], frame["Run"], strict=True))
    assert links == {rank: f"/runs?run={run}" for run, rank in runs.items()}
    assert "Reason" not in frame, "none has failed"
    question = read_old_question(stage.folder, "ranks")
    assert question is not None
    more = AskedTrial({"lora.r": 256}, 42, "not trained yet")
    write_question(stage.folder, replace(question, trials=(*question.trials, more)))
    frame = stage.page("studies").dataframe[0].value
    assert frame["State"].tolist()[-1] == "Not queued" and frame["Run"].isna().tolist() == [False] * 3 + [True]


def test_the_importance_of_each_setting_and_an_interaction_are_shown(stage: Stage) -> None:
    for seed in (1, 2, 3, 4):
        for rank, alpha in ((4, 8), (4, 16), (8, 8), (8, 16)):
            config = {"lora": {"r": rank, "lora_alpha": alpha}, "training": {"training_args": {"seed": seed}}}
            settings = {"lora.r": rank, "lora.lora_alpha": alpha}
            run = stage.finished(f"{settings} {seed}", study="s", settings=settings, config=config, adapter=False)
            add_answers(run, (90 if (rank == 8) == (alpha == 16) else 40) + seed)
    app = stage.page("studies")
    verdict = app.main.markdown[0].value.replace("\\", "").replace("\u00a0", " ")
    assert "depend on each other: 8 instead of 4 gives −50 points with " in verdict and "+50 points with 16" in verdict
    importance = next(one.value for one in app.dataframe if "Importance" in one.value.columns)
    assert list(importance["Verdict"]) == ["Within noise", "Within noise"]
    assert all(0 <= share < 5 for share in importance["Importance"])


def test_the_best_of_a_study_of_one_seed_are_repeated_in_one_click(stage: Stage) -> None:
    for rank, right in ((4, 40), (8, 90), (16, 80), (32, 50)):
        config = {"lora": {"r": rank}, "ablation": {"study_name": "ranks"}}
        run = stage.finished(f"r {rank}", study="ranks", settings={"lora.r": rank}, config=config, adapter=False)
        add_answers(run, right)
    app = stage.checked(button(stage.page("studies"), "Repeat the best").click().run())
    app = stage.checked(app.switch_page("pages/configure.py").run())
    text = words(app).replace("\u00a0", " ")
    assert "4 combinations × 3 seeds = 12 runs. 4 of them are trained or queued already" in text
    assert button(app, "Start 4 runs"), "the better two with two more seeds"
    saved = json.loads((stage.folder / "draft.json").read_text())
    assert saved["grid"] == {"lora.r": [4, 8, 16, 32]} and saved["draft"]["ablation"]["prune_losers"] is True


def test_the_study_of_more_data_is_set_up_in_one_click(stage: Stage) -> None:
    stage.finished("alone")
    app = stage.checked(button(stage.page("studies"), "Will more data help?").click().run())
    assert app.title[0].value == "Configure"
    assert "3 combinations × 3 seeds = 9 runs." in words(app)
    saved = json.loads((stage.folder / "draft.json").read_text())
    assert saved["grid"] == {"data.train_size": [0.2, 0.4, 0.8]}
    assert saved["draft"]["ablation"]["study_name"] == "more data"


def test_the_playground_offers_single_values_while_a_study_is_on(stage: Stage) -> None:
    run = stage.finished("done")
    app = stage.page("playground", run)
    app.session_state["workspace"]["draft"]["ablation"]["use_ablate"] = True
    app.session_state["workspace"]["grid"] = {"inference.max_new_tokens": [8, 16]}
    app = stage.checked(app.run())
    assert not [entry for entry in app.button if str(entry.key).startswith("several:")]
    assert app.text_input(key="field:inference.max_new_tokens").value == "128"


def test_other_runs_of_the_same_base_can_be_compared_and_a_preset_is_one_click(stage: Stage) -> None:
    other, run = stage.finished("other"), stage.finished("done")
    stage.finished("elsewhere", config={"model": {"hf_model_ckpt": "owner/other-model"}})
    app = stage.page("playground", run)
    assert [option.split(" · ")[0] for option in app.multiselect[0].options] == ["Base model", "other"]
    assert app.multiselect[0].value == ["base"]
    app = stage.checked(app.multiselect[0].set_value(["base", other.id]).run())
    app = stage.checked(button(app, "Creative").click().run())
    kept = app.session_state["workspace"]["draft"]["inference"]
    assert (kept["do_sample"], kept["temperature"], kept["max_new_tokens"]) == (True, 1.1, 128)
    presets = {entry.label: entry.proto.icon for entry in app.button if str(entry.key).startswith("preset:")}
    assert [name for name, icon in presets.items() if "check" in icon] == ["Creative"], "the active one is marked"
    app = stage.checked(app.toggle(key="own_settings").set_value(True).run())
    app = stage.checked(app.selectbox(key=f"way:{other.id}").set_value("greedy").run())
    assert app.session_state["workspace"]["draft"]["inference"]["do_sample"] is True, "the form is unchanged"


def test_a_model_loaded_next_to_a_training_is_shown_and_unloaded_with_one_click(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = EngineInfo(stage.folder, 1, 1, 1.0, "token", "run")
    held = engine_client.EngineStatus(
        "ready", runs=("run", "run@40"), base="bundled:demo-model", gpu_memory_bytes=3 * 2**30
    )
    ended: list[EngineInfo] = []
    monkeypatch.setattr(engine_bar, "find_engine", lambda _: None if ended else info)
    monkeypatch.setattr(engine_client, "read_engine_status", lambda _: held)
    monkeypatch.setattr(engine_client, "stop_engine", ended.append)
    waiting = stage.run(name="waiting")
    app = stage.page("runs", waiting)
    assert "Loaded in the Playground: demo-model with 2 adapters · 3.0 GiB of GPU memory" in words(app)
    app = stage.checked(button(app, "Unload model").click().run())
    assert ended == [info] and "Loaded in the Playground" not in words(app)


def test_a_loaded_model_says_how_other_programs_reach_it(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stage.finished("done")
    info = EngineInfo(stage.folder, 8765, 1, 1.0, "the-key", run.id)
    held = engine_client.EngineStatus("ready", runs=(run.id,), base="bundled:demo-model")
    monkeypatch.setattr(engine_bar, "find_engine", lambda _: info)
    monkeypatch.setattr(engine_client, "read_engine_status", lambda _: held)
    text = words(stage.page("playground", run))
    assert "http://127.0.0.1:8765/v1" in text and "the-key" in text
    assert "curl http://127.0.0.1:8765/v1/chat/completions" in text
    assert "Ctrl-C" not in text, "that is for the command line"


def test_an_answer_comes_first_and_its_figures_are_one_line_below(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stage.finished("done")
    columns = [AnswerColumn(run.id, "This run", InferenceConfig()), AnswerColumn("base", "Base", InferenceConfig())]
    asked = prepare_question(run.id, "2 lamps?", [], expected="two lamps", seed=7, columns=columns)
    for answer, text, reason in zip(asked.answers, ("two lamps", "<b>no</b> idea"), ("stop", "length"), strict=True):
        answer.text, answer.ended = text, True
        answer.done = Done(text, "<prompt>", 3, 2, 0.01, 100.0, reason, 7)
        answer.scored = ScoredCompletion((), 0.5, 1.65)
    app = stage.page("playground", run)
    app.session_state["records"] = {(run.id, False): [asked]}
    app = stage.checked(app.run())
    details = "2 tokens · 100 tokens/s · first token after 10 ms · seed 7 · expected answer: loss 0.5, perplexity 1.65"
    assert [entry.value for entry in app.caption].count(details) == 2
    outcomes = [entry.value for entry in app.markdown if "correct" in entry.value]
    assert outcomes == [
        ":green[:material/check_circle: correct]",
        ":red[:material/cancel: incorrect] · :orange[:material/content_cut: truncated at max new tokens]",
    ]
    assert "<b>no</b> idea" in [entry.value for entry in app.code], "too little in common to mark differences"
    started: list[RunDir] = []
    monkeypatch.setattr(evaluate_view, "launch_evaluation", lambda one: started.append(one))
    app = stage.checked(button(app, "Evaluate").click().run())
    assert app.title[0].value == "Evaluate" and started == [run], "the verdict is one click away"


def test_checkpoints_and_the_url_choose_the_columns(stage: Stage) -> None:
    run, other = stage.finished("done"), stage.finished("other", adapter=False)
    for one, step in ((run, 40), (run, 80), (other, 7)):
        (one.checkpoints_dir / f"step-{step:06d}").mkdir(parents=True)
    app = stage.page("playground", run)
    labels = app.multiselect[0].options
    assert labels[:3] == ["Base model", "Step 80 of this run", "Step 40 of this run"]
    assert labels[3].startswith("other · ") and labels[3].endswith(" · step 7"), "a run without an adapter too"
    app = stage.checked(app.multiselect[0].set_value([f"{run.id}@80", f"{other.id}@7"]).run())
    assert app.query_params["beside"] in (named := f"{run.id}@80,{other.id}@7", [named])
    again = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    again.query_params["run"], again.query_params["beside"] = run.id, f"{run.id}@40,base,gone@1"
    again = stage.checked(again.run().switch_page("pages/playground.py").run())
    assert again.multiselect[0].value == [f"{run.id}@40", "base"]
