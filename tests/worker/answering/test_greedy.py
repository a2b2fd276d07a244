"""Batched answers equal those of each prompt alone, and a stop takes effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fakes.training import draft, make_run, train_here
from toolkit.config import Config
from toolkit.evaluation.questions import EvaluationQuestion
from toolkit.runs.run_dir import RunDir
from toolkit.worker.process.stop import StopRequested, StopSignal

pytestmark = pytest.mark.worker

PROMPTS = [
    "order",
    "please order a lamp and a chair and a table",
    "one two",
    "how many parcels did we order last week?",
]


@pytest.fixture(scope="module")
def adapted(tiny_model: Path) -> tuple[Config, Any, Any]:
    import torch
    from peft import LoraConfig, get_peft_model

    from toolkit.worker.models.load import load_base_model, load_tokenizer

    config = Config.model_validate({"model": {"hf_model_ckpt": str(tiny_model)}})
    torch.manual_seed(1)
    lora = LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", init_lora_weights=False)
    return config, get_peft_model(load_base_model(config), lora).eval(), load_tokenizer(config)


def test_a_left_padded_batch_answers_like_each_prompt_alone(adapted: Any, tmp_path: Path) -> None:
    from toolkit.worker.answering.greedy import generate_greedy_texts
    from toolkit.worker.tokens.examples import encode_prompt

    config, model, tokenizer = adapted
    stop = StopSignal(tmp_path / "stop")
    ids = [encode_prompt(config, tokenizer, prompt)[1] for prompt in PROMPTS]
    together = generate_greedy_texts(model, tokenizer, ids, 12, stop)
    assert together == [generate_greedy_texts(model, tokenizer, [each], 12, stop)[0] for each in ids]
    assert len(set(together)) > 1


def test_base_answers_equal_those_of_the_base_model_alone(adapted: Any, tiny_model: Path, tmp_path: Path) -> None:
    from toolkit.worker.answering.greedy import answer_held_out_rows, generate_greedy_texts
    from toolkit.worker.models.load import load_base_model
    from toolkit.worker.tokens.examples import encode_prompt

    config, model, tokenizer = adapted
    stop = StopSignal(tmp_path / "stop")
    questions = [EvaluationQuestion(i, i, prompt, "x" * 8) for i, prompt in enumerate(PROMPTS)]
    found = answer_held_out_rows(config, model, tokenizer, questions, stop)
    assert [item.row for item in found] == [0, 1, 2, 3]
    ids = [encode_prompt(config, tokenizer, prompt)[1] for prompt in PROMPTS]
    longest = len(tokenizer("x" * 8, add_special_tokens=False)["input_ids"]) + 16
    assert [item.base for item in found] == generate_greedy_texts(
        load_base_model(config).eval(), tokenizer, ids, longest, stop
    )
    assert [item.base for item in found] != [item.adapter for item in found]


def test_the_time_limit_reduces_the_rows(adapted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.worker.answering import greedy

    monkeypatch.setattr(greedy, "GREEDY_BATCH_ROWS", 2)
    monkeypatch.setattr(greedy, "MAX_HELD_OUT_SECONDS", 0.0)
    config, model, tokenizer = adapted
    questions = [EvaluationQuestion(i, i, prompt, "x") for i, prompt in enumerate(PROMPTS)]
    assert len(greedy.answer_held_out_rows(config, model, tokenizer, questions, StopSignal(tmp_path / "stop"))) == 2


def test_a_stop_takes_effect_between_two_tokens(adapted: Any, tmp_path: Path) -> None:
    from toolkit.worker.answering.greedy import generate_greedy_texts

    _, model, tokenizer = adapted
    (tmp_path / "stop").touch()
    with pytest.raises(StopRequested):
        generate_greedy_texts(model, tokenizer, [[1, 2, 3]], 10_000, StopSignal(tmp_path / "stop"))


def trained(save_dir: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, score: Any) -> tuple[RunDir, Any]:
    from toolkit.worker.answering import greedy

    monkeypatch.setattr(greedy, "answer_held_out_rows", score)
    run = make_run(draft(save_dir, tiny_model, num_train_epochs=1))
    code, events = train_here(run)
    assert code == 0
    assert [event["kind"] for event in events].count("adapter") == 1
    assert not run.evaluation_dir.exists()
    return run, events


def test_an_error_while_scoring_does_not_fail_the_run(
    save_dir: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trouble(*_: Any) -> None:
        raise RuntimeError("out of luck")

    _, events = trained(save_dir, tiny_model, monkeypatch, trouble)
    assert events[-1]["kind"] == "finished"
    assert "out of luck" in events[-2]["message"]


def test_a_stop_while_scoring_stops_the_run(save_dir: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: Any) -> None:
        raise StopRequested

    _, events = trained(save_dir, tiny_model, monkeypatch, asked)
    assert (events[-1]["kind"], events[-1]["step"]) == ("stopped", 4)
