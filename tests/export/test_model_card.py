"""Model cards and usage recipes: the figures, the quoting, and text from outside that stays text."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from tests.export.test_parity_certificate import contract
from tests.fakes.training import draft, make_run
from toolkit.data.examples.templates import compile_template
from toolkit.errors import RunError
from toolkit.evaluation.predictions import (
    ADAPTER,
    Prediction,
    compute_exact_match,
    read_predictions,
    write_predictions,
)
from toolkit.evaluation.statistics.measures import MEASURES_BY_NAME
from toolkit.evaluation.statistics.verdict import format_with_interval
from toolkit.export.export_forms import EXPORT_FORMS
from toolkit.export.export_process import start_export
from toolkit.export.export_state import ADAPTER_HASH_KEY, commit_hash, export_folder, export_job, read_export_state
from toolkit.export.model_card import model_card
from toolkit.export.prompt_contract import CONTRACT_FILE, read_contract, read_reference_contract
from toolkit.export.usage_recipes import list_usage_recipes, template_to_python
from toolkit.runs.events import EventWriter
from toolkit.runs.model_names import BASE
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
    write_predictions(run, [Prediction(i, "q", "a", "b", " a " if i else "b") for i in range(10)])
    card = model_card(run, read_run_config(run), EXPORT_FORMS["adapter"], contract(), chart_file="curves.png")
    head = yaml.safe_load(card.split("---")[1])
    assert head["base_model"] == "owner/model" and head["library_name"] == "peft"
    figure = compute_exact_match(read_predictions(run))
    measure = MEASURES_BY_NAME["exact_match"]
    base, adapter = (format_with_interval(measure, figure.models[name]) for name in (BASE, ADAPTER))
    assert f"| exact match, 10 rows (95 % interval) | {base} | {adapter} |" in card
    assert base == "0 % (0.0 to 30.8)" and adapter.startswith("90 % (")  # Clopper-Pearson, as tables have it
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


@pytest.mark.parametrize("setting", [{"use_dora": True}, {"trainable_token_indices": [5]}, {"modules_to_save": ["n"]}])
def test_an_adapter_that_vllm_refuses_has_no_command_for_it(run: RunDir, setting: dict[str, Any]) -> None:
    config = read_run_config(run)
    other = config.model_copy(update={"lora": config.lora.model_copy(update=setting)})
    for one, expected in ((config, True), (other, False)):
        recipes = list_usage_recipes(run, one, EXPORT_FORMS["adapter"], "place", chat=False)
        (text,) = [recipe.text for recipe in recipes if recipe.title == "vLLM"]
        assert text.startswith("vllm serve") is expected
        assert expected or next(iter(setting)) in text


def test_no_text_from_elsewhere_becomes_markup(run: RunDir) -> None:
    evil = "x\n```\n\n![i](http://evil.example) <b>b</b> [l](http://evil.example)\u202e"
    config = read_run_config(run)
    lora = config.lora.model_copy(update={"target_modules": [evil]})
    data = config.data.model_copy(update={"prompt": f"{{{evil}}}", "prompt_stub": evil})
    model = config.model.model_copy(update={"hf_model_ckpt": evil})
    config = config.model_copy(update={"lora": lora, "data": data, "model": model})
    meta = json.loads(run.meta_path.read_text())
    run.meta_path.write_text(json.dumps({**meta, "name": evil, "dataset": {"label": evil, "sha256": evil}}))
    with EventWriter(run.events_path) as events:
        events.append("plan", total_steps=2, trainable_parameters=1, total_parameters=2, precision=evil, device=evil)
        events.append("prepared", train_rows=1, test_rows=0, truncated_rows=1, max_length=evil)
    asked = contract().model_copy(update={"versions": {evil: evil}})
    for form in EXPORT_FORMS.values():
        card = model_card(run, config, form, asked, chart_file=None, location=evil)
        blocks = MarkdownIt().parse(card.split("---", 2)[2])
        kinds = {one.type for block in blocks for one in (block, *(block.children or ()))}
        assert not {"image", "link_open", "html_inline", "html_block"} & kinds, card
        assert "\u202e" not in card.partition("## Use")[0]


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
