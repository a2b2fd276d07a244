"""Complete runs of the worker on a tiny model: what they write, what they train, how they end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.training import draft, events_of, make_run, rows, start_worker, train_here
from toolkit.runs.events import Event
from toolkit.runs.run_dir import RunDir
from toolkit.runs.status import read_run_status
from toolkit.system.durable import verify_commit

pytestmark = pytest.mark.worker


def kinds(events: list[Event], kind: str) -> list[Event]:
    return [event for event in events if event["kind"] == kind]


def phases(events: list[Event]) -> list[str]:
    """Return the phases in the order in which they first appear."""
    return list(dict.fromkeys(event["phase"] for event in kinds(events, "phase")))


def weights(run: RunDir) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(run.adapter_dir / "adapter_model.safetensors")


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return set(first) == set(second) and all((first[name] == second[name]).all() for name in first)


@pytest.fixture(scope="module")
def done(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, list[Event]]:
    """A finished run that several tests share."""
    place = tmp_path_factory.mktemp("done")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTK_STATE_DIR", str(place / "state"))
        patch.setenv("OMP_NUM_THREADS", "1")
        run = make_run(draft(place / "save", tiny_model))
        code, events = train_here(run)
        assert code == 0, events[-1]
        verify_commit(run.adapter_dir)
    return run, events


def test_a_run_logs_its_events_in_order(done: tuple[RunDir, list[Event]]) -> None:
    run, events = done
    assert events[0]["kind"] == "started"
    assert {"torch", "peft", "trl"} <= set(events[0]["versions"])
    before = ["loading libraries", "preparing data", "loading model"]
    assert phases(events) == [
        *before,
        "answering pinned prompts",
        "training",
        "evaluating",
        "saving",
        "answering test rows",
    ]
    (prepared,), (plan,) = kinds(events, "prepared"), kinds(events, "plan")
    assert (prepared["train_rows"], prepared["test_rows"], prepared["dropped"]) == (16, 5, 0)
    assert (plan["total_steps"], plan["steps_per_epoch"], plan["epochs"]) == (8, 4, 2)
    assert (plan["batch_size"], plan["trainable_parameters"] > 0) == (4, True)
    logs = kinds(events, "log")
    assert [event["step"] for event in logs] == list(range(1, 9))
    assert all({"loss", "grad_norm", "learning_rate", "tokens_per_second", "memory_bytes"} <= set(e) for e in logs)
    assert logs[-1]["tokens"] == 2 * prepared["train_tokens"]  # each row once an epoch, without padding
    assert logs[-1]["loss"] < logs[0]["loss"]
    evaluated = [event["step"] for event in kinds(events, "eval")]
    assert evaluated == list(range(1, 9))  # a tenth of 8 steps, rounded up to one
    assert all(isinstance(event["eval_loss"], float) for event in kinds(events, "eval"))
    assert events[-1]["kind"] == "finished"
    assert events[-1]["step"] == 8
    assert not kinds(events, "warning")
    status = read_run_status(run)
    assert (status.state, status.adapter_ready, status.step) == ("finished", True, 8)


def test_the_adapter_is_complete_and_plain_peft_can_load_it(done: tuple[RunDir, list[Event]], tiny_model: Path) -> None:
    import torch
    from peft import AutoPeftModelForCausalLM, PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run, events = done
    names = {path.name for path in run.path.rglob("*") if path.is_file()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "config.yml", "COMMIT.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl", ".pth"))]
    assert (run.adapter_dir / "config.yml").read_bytes() == run.config_path.read_bytes()
    saved = kinds(events, "adapter")[0]
    assert saved["bytes"] == sum(path.stat().st_size for path in run.adapter_dir.iterdir())
    settings = json.loads((run.adapter_dir / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(tiny_model)
    assert any(weight.abs().sum() > 0 for name, weight in weights(run).items() if "lora_B" in name)
    ids = torch.tensor([[5, 6, 7, 8]])
    by_path = AutoPeftModelForCausalLM.from_pretrained(run.adapter_dir).eval()
    by_hand = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), run.adapter_dir).eval()
    assert torch.equal(by_path(ids).logits, by_hand(ids).logits)
    assert AutoTokenizer.from_pretrained(run.adapter_dir).chat_template


def test_test_answers_are_stored_with_their_scores(done: tuple[RunDir, list[Event]]) -> None:
    from toolkit.data.examples.split import plan_split
    from toolkit.data.table import load_table
    from toolkit.runs.run_dir import read_run_config

    run, events = done
    (scores,) = kinds(events, "scores")
    lines = [json.loads(line) for line in (run.evaluation_dir / "predictions.jsonl").read_text().splitlines()]
    plan = plan_split(load_table(run.source_path), read_run_config(run).data)
    assert [line["row"] for line in lines] == plan.test.tolist()
    for line in lines:
        cells = rows(24)[line["row"]]
        assert (line["prompt"], line["expected"]) == (cells["question"], cells["answer"])
    right = sum(line["adapter"].strip() == line["expected"].strip() for line in lines)
    assert (scores["rows"], scores["exact_match"], scores["seen_rows"]) == (5, right / 5, 0)
    order = [event["kind"] for event in events]
    assert order.index("adapter") < order.index("scores")  # the adapter is saved before the test rows are answered


def test_a_failed_write_of_test_answers_keeps_the_adapter(
    tiny_model: Path, save_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.evaluation import predictions

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(predictions, "write_predictions", full)
    run = make_run(draft(save_dir, tiny_model, num_train_epochs=1))
    code, events = train_here(run)
    assert (code, events[-1]["kind"]) == (0, "finished")
    assert "No space left" in next(event["message"] for event in events if event["kind"] == "warning")
    assert not any(event["kind"] == "scores" for event in events)


def test_the_trained_rows_are_stored(done: tuple[RunDir, list[Event]]) -> None:
    from toolkit.worker.tokens.prepared_rows import read_splits

    run, events = done
    train, test = read_splits(run)
    (prepared,) = kinds(events, "prepared")
    assert (len(train), len(test)) == (16, 5)
    assert sum(len(ids) for ids in train["input_ids"]) == prepared["train_tokens"]
    assert not set(train["row"]) & set(test["row"])


def test_only_the_seed_changes_the_result(done: tuple[RunDir, list[Event]], tiny_model: Path, save_dir: Path) -> None:
    again, other, split = (make_run(draft(save_dir / name, tiny_model)) for name in ("again", "other", "split"))
    other_settings = draft(save_dir / "other", tiny_model, seed=7)
    split_settings = draft(save_dir / "split", tiny_model)
    split_settings["data"]["train_test_split_seed"] = 7
    other, split = make_run(other_settings), make_run(split_settings)
    for run in (again, other, split):
        assert train_here(run)[0] == 0
    assert same(weights(again), weights(done[0]))
    assert not same(weights(other), weights(done[0]))
    assert not same(weights(split), weights(done[0]))


def test_a_plain_model_with_gradient_checkpointing_and_accumulation(tiny_plain_model: Path, save_dir: Path) -> None:
    settings = draft(
        save_dir, tiny_plain_model, gradient_checkpointing=True, gradient_accumulation_steps=2, eval_steps=3,
        logging_steps=2, bf16=True, optim=None, lr_scheduler_type=None, num_train_epochs=3,
    )  # fmt: skip
    settings["training"]["sft_args"]["neftune_noise_alpha"] = 5.0
    code, events = train_here(make_run(settings))
    assert code == 0, events[-1]
    (plan,) = kinds(events, "plan")
    assert (plan["total_steps"], plan["batch_size"], plan["precision"]) == (6, 8, "bf16")
    assert [event["step"] for event in kinds(events, "eval")] == [3, 6]
    assert [event["step"] for event in kinds(events, "log")] == [2, 4, 6]
    assert kinds(events, "prepared")[0]["chat"] is False


@pytest.mark.parametrize("way", [{}, {"load_in_4bit": False, "load_in_8bit": True}])
def test_qlora_trains_and_scores(way: dict[str, Any], tiny_model: Path, save_dir: Path) -> None:
    settings = draft(save_dir, tiny_model)
    settings["model"] |= {"quantize": True, "bitsandbytes": way}
    code, events = train_here(make_run(settings))
    assert code == 0, events[-1]
    logs = kinds(events, "log")
    assert logs[-1]["loss"] < logs[0]["loss"]
    assert kinds(events, "plan")[0]["quantized"] is True
    assert kinds(events, "scores")
    assert not kinds(events, "warning")


def test_a_model_that_stays_unquantized_is_reported(tiny_model: Path, save_dir: Path) -> None:
    settings = draft(save_dir, tiny_model, num_train_epochs=1)
    way = {"load_in_4bit": False, "load_in_8bit": True, "llm_int8_enable_fp32_cpu_offload": True}
    settings["model"] |= {"quantize": True, "bitsandbytes": way, "device_map": None}
    code, events = train_here(make_run(settings))
    assert code == 0, events[-1]
    assert "trains unquantized" in kinds(events, "warning")[0]["message"]


def test_several_gpus_and_unusable_flash_attention_do_not_fail_a_run(
    tiny_model: Path, save_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the package is missing; elsewhere it may be of another release, or the model's heads too wide for it."""
    from toolkit.settings import device_defaults
    from toolkit.worker.training import trainer_setup

    def seen(**arguments: Any) -> Any:
        args = own(**arguments)
        args._n_gpu = 2  # what the library finds if two GPUs are visible, as "auto" requires
        return args

    own = trainer_setup.SFTConfig
    monkeypatch.setattr(trainer_setup, "SFTConfig", seen)
    monkeypatch.setattr(device_defaults, "resolve_attention", lambda config, place: device_defaults.FLASH_ATTENTION)
    code, events = train_here(make_run(draft(save_dir, tiny_model, num_train_epochs=1)))
    assert code == 0, events[-1]
    warnings = [event["message"] for event in kinds(events, "warning")]
    assert any("flash-attn can't be used with this model" in words and "PyTorch" in words for words in warnings)
    assert kinds(events, "plan")[0]["packed"] is False


def test_truncated_and_skipped_rows_are_reported(tiny_model: Path, save_dir: Path) -> None:
    cells = rows(24)
    cells[3] = {"question": None, "answer": "x"}
    cells[5] = {"question": "long " * 60, "answer": "x"}
    settings = draft(save_dir, tiny_model)
    settings["data"] |= {"train_size": 0.8, "test_size": 0.2, "accepted": ["prompt_too_long"]}
    code, events = train_here(make_run(settings, cells))
    assert code == 0, events[-1]
    (prepared,) = kinds(events, "prepared")
    assert (prepared["dropped"], prepared["cut_away"], prepared["truncated_rows"]) == (1, 1, 1)
    assert prepared["train_rows"] + prepared["test_rows"] == 22
    said = " ".join(event["message"] for event in kinds(events, "warning"))
    assert "truncated at the end" in said
    assert "lost their whole completion" in said
    assert "1 row has a missing cell" in said


def change(settings: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *parents, leaf = path.split(".")
    here = settings
    for name in parents:
        here = here.setdefault(name, {})
    here[leaf] = value
    return settings


@pytest.mark.parametrize(
    ("path", "value", "says", "after"),
    [
        ("training.sft_args.max_seq_length", 8, "prompt alone is longer", "preparing data"),
        ("data.prompt", "{nope}", "'nope'", "preparing data"),
        ("data.train_size", 400, "24 rows", "preparing data"),
        ("model.hf_model_ckpt", "/no/such/model", "does not exist", "preparing data"),
        ("lora.target_modules", ["nope"], "'nope'", "loading model"),
    ],
)
def test_every_failure_is_explained(
    path: str, value: Any, says: str, after: str, tiny_model: Path, save_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(change(draft(save_dir, tiny_model), path, value))
    code, events = train_here(run)
    assert code == 1
    last = events[-1]
    assert last["kind"] == "failed"
    assert says in last["message"]
    assert last["hint"]
    assert "Traceback" not in last["message"]
    assert "Traceback" in caplog.text  # in the log only
    assert phases(events)[-1] == after
    assert not run.adapter_dir.exists()
    assert read_run_status(run).state == "failed"


def test_a_nan_loss_fails_the_run(tiny_model: Path, save_dir: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    broken = Path(shutil.copytree(tiny_model, save_dir / "broken"))
    weights = load_file(broken / "model.safetensors")
    weights["model.embed_tokens.weight"][1] = torch.inf  # <|im_start|>: it is in every row
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    run = make_run(draft(save_dir, broken))
    code, events = train_here(run)
    assert code == 1
    assert (events[-1]["kind"], events[-1]["reason"]) == ("failed", "diverged")
    assert "NaN or infinite at step 1" in events[-1]["message"]
    assert "learning rate" in events[-1]["hint"]
    assert not run.adapter_dir.exists()


def test_a_missing_chat_template_fails_before_the_model_loads(tiny_plain_model: Path, save_dir: Path) -> None:
    settings = draft(save_dir, tiny_plain_model)
    settings["data"]["use_chat_template"] = True
    code, events = train_here(make_run(settings))
    assert code == 1
    assert "chat template" in events[-1]["message"]
    assert phases(events) == ["loading libraries", "preparing data"]


def test_a_stop_before_training_leaves_no_adapter(tiny_model: Path, save_dir: Path) -> None:
    run = make_run(draft(save_dir, tiny_model))
    run.stop_path.touch()
    code, events = train_here(run)
    assert code == 0
    assert (events[-1]["kind"], events[-1]["step"]) == ("stopped", 0)
    assert not run.adapter_dir.exists()


def wait_for(run: RunDir, kind: str, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not events_of(run, kind):
        assert time.monotonic() < deadline, run.log_path.read_text()[-2000:]
        time.sleep(0.05)


@pytest.mark.parametrize("how", ["file", "signal"])
def test_a_stop_finishes_the_step_and_keeps_the_adapter(how: str, tiny_model: Path, save_dir: Path) -> None:
    run = make_run(draft(save_dir, tiny_model, num_train_epochs=3000, eval_steps=100000))
    worker = start_worker(run)
    wait_for(run, "log")
    if how == "file":
        run.stop_path.touch()
    else:
        os.kill(worker.pid, signal.SIGTERM)
    assert worker.wait(60) == 0, run.log_path.read_text()[-2000:]
    events = events_of(run)
    assert events[-1]["kind"] == "stopped", events[-1]
    assert events[-1]["step"] == kinds(events, "adapter")[0]["step"] == kinds(events, "log")[-1]["step"] >= 1
    verify_commit(run.adapter_dir)
    assert not kinds(events, "scores")
    assert read_run_status(run).state == "stopped"


def test_a_second_worker_of_the_same_run_is_refused(done: tuple[RunDir, list[Event]]) -> None:
    from toolkit.system.locks import hold_lock

    run, events = done
    with hold_lock(run.lock_path) as mine:
        assert mine
        second = start_worker(run)
        assert second.wait(60) == 1
    assert events_of(run) == events
    assert "Another worker" in run.log_path.read_text()
