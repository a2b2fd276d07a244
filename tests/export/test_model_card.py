"""Model cards and usage recipes: the figures, the quoting, and text from outside that stays text."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import yaml

from tests.export.test_parity_certificate import contract
from tests.fakes.training import draft, make_run
from toolkit.data.examples.templates import compile_template
from toolkit.errors import RunError
from toolkit.export.export_forms import EXPORT_FORMS
from toolkit.export.export_process import start_export
from toolkit.export.export_state import ADAPTER_HASH_KEY, commit_hash, export_folder, export_job, read_export_state
from toolkit.export.model_card import exact_matches, model_card, wilson_interval
from toolkit.export.prompt_contract import CONTRACT_FILE, read_contract, read_reference_contract
from toolkit.export.usage_recipes import list_usage_recipes, template_to_python
from toolkit.runs.events import EventWriter
from toolkit.runs.run_dir import RunDir, read_run_config
from toolkit.system.background_job import StateFileReporter
from toolkit.system.durable import commit_dir
from toolkit.system.locks import WorkerLock


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    settings = draft(tmp_path / "my runs", Path("owner/model"))
    settings["data"]["prompt"] = "Say {question} `now`"
    return make_run(settings)


def test_the_card_contains_what_was_set_and_measured(run: RunDir) -> None:
    run.evaluation_dir.mkdir()
    lines = [{"row": i, "expected": "a", "base": "b", "adapter": " a " if i else "b"} for i in range(10)]
    (run.evaluation_dir / "predictions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    card = model_card(run, read_run_config(run), EXPORT_FORMS["adapter"], contract(), chart_file="curves.png")
    head = yaml.safe_load(card.split("---")[1])
    assert head["base_model"] == "owner/model" and head["library_name"] == "peft"
    assert "| 0.0 % (0.0 to 27.8) | 90.0 % (59.6 to 98.2) |" in card
    assert "``Say {question} `now` ``" in card.replace("`` S", "``S")
    assert "--max-lora-rank 8" in card and "![Loss by step](curves.png)" in card
    assert "order lamp" not in card  # no row of the data


@pytest.mark.parametrize("paused", [False, True])
def test_the_card_says_that_training_was_stopped_early(run: RunDir, paused: bool) -> None:
    with EventWriter(run.events_path) as events:
        events.append("started")
        events.append("plan", total_steps=40, epochs=2)
        events.append("stopped", step=7, **({"paused": True} if paused else {}))
    card = model_card(run, read_run_config(run), EXPORT_FORMS["adapter"], contract(), chart_file=None)
    assert "stopped after step 7 of 40" in card


def test_the_interval_stays_valid_at_both_ends() -> None:
    assert wilson_interval(0, 10)[0] == 0 and wilson_interval(10, 10)[1] == pytest.approx(1)
    assert wilson_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)  # Wilson, as tables have it
    assert exact_matches(Path("nowhere")) is None


@pytest.mark.parametrize("form", list(EXPORT_FORMS))
@pytest.mark.parametrize("chat", [True, False])
def test_recipes_are_quoted_for_their_language(run: RunDir, form: str, chat: bool) -> None:
    place = "/a folder/o'clock $(touch x)"
    for one in list_usage_recipes(run, read_run_config(run), EXPORT_FORMS[form], place, chat=chat):
        if one.language == "python":
            tree = ast.parse(one.text)
            assert place in [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
            assert ("apply_chat_template" in one.text) is chat
        else:
            assert "o'\"'\"'clock" in one.text or place not in one.text


def test_a_run_on_conversations_is_described_by_its_conversations(run: RunDir) -> None:
    config = read_run_config(run)
    config = config.model_copy(update={"data": config.data.model_copy(update={"messages": "chat `s`"})})
    asked = contract().model_copy(update={"chat": True})
    card = model_card(run, config, EXPORT_FORMS["adapter"], asked, chart_file=None)
    assert "- conversations: column `` chat `s` ``" in card
    assert "the assistant's messages with their end tokens" in card and "with all turns so far" in card
    assert "{question}" not in card and "{answer}" not in card and "def prompt" not in card
    ways = list_usage_recipes(run, config, EXPORT_FORMS["adapter"], "m", chat=True)
    (snippet,) = [one.text for one in ways if one.language == "python"]
    ast.parse(snippet)
    assert 'turns = [{"role": "user"' in snippet and "apply_chat_template" in snippet


def test_a_template_as_code_renders_the_same() -> None:
    row = {"a b": "x", "q'": 'y"'}
    template = compile_template("1 {{ {a b}\n'{q'}' \\", list(row))
    assert eval(template_to_python(template), {"row": row}) == template.render(row)


def test_the_state_of_an_export_follows_from_files_and_lock(run: RunDir) -> None:
    run.exports_dir.mkdir()
    assert read_export_state(run, "adapter").state == "none"
    job = export_job(run, "adapter")
    report = StateFileReporter(job)
    with WorkerLock(job.lock):
        report("merging", 0.4)
        state = read_export_state(run, "adapter")
        assert (state.state, state.phase, state.fraction) == ("running", "merging", 0.4)
        with pytest.raises(RunError, match="no adapter"):
            start_export(run, "adapter")
    state = read_export_state(run, "adapter")
    assert state.state == "failed" and "without an error message" in state.message
    report.fail("no memory", "buy some")
    assert read_export_state(run, "adapter").message == "no memory"
    with pytest.raises(RunError, match="not an export form"):
        read_export_state(run, "../adapter")


def test_an_export_of_an_earlier_adapter_is_outdated(run: RunDir) -> None:
    def adapter(weights: bytes) -> None:
        staging = run.path / ".adapter-new"
        staging.mkdir()
        (staging / "adapter_model.safetensors").write_bytes(weights)
        commit_dir(staging, run.adapter_dir, {})

    adapter(b"first")
    (run.exports_dir / ".new").mkdir(parents=True)
    made_of = {ADAPTER_HASH_KEY: commit_hash(run.adapter_dir)}
    commit_dir(run.exports_dir / ".new", export_folder(run, "adapter"), made_of)
    assert read_export_state(run, "adapter").state == "unchecked"
    adapter(b"second")
    state = read_export_state(run, "adapter")
    assert state.state == "failed" and "out of date" in state.message and state.folder is not None


def test_a_contract_is_read_as_it_was_written(run: RunDir) -> None:
    assert read_reference_contract(run) is None
    run.exports_dir.mkdir()
    (run.exports_dir / CONTRACT_FILE).write_text(contract().dump())
    assert read_reference_contract(run) == contract()
    (run.exports_dir / CONTRACT_FILE).write_text(json.dumps({"schema": 99}))
    with pytest.raises(RunError, match="newer version"):
        read_contract(run.exports_dir)
