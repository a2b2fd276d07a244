"""Prompts equal those of training, with and without a chat template; only runs of the same base model are attached."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.worker


@pytest.fixture
def save_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "save"


def load(save_dir: Path, run_id: str) -> Any:
    from toolkit.worker.serving.engine import Engine

    return Engine.load(save_dir, run_id, lambda phase: None)


def said(*turns: tuple[str, str]) -> list[Any]:
    from toolkit.worker.serving.request_models import RequestMessage

    return [RequestMessage(role=role, content=text) for role, text in turns]


def test_a_run_without_a_chat_template_gets_the_prompt_of_training(save_dir: Path, tiny_plain_model: Path) -> None:
    from tests.fakes.engine_runs import finished_run
    from toolkit.runs.run_dir import read_run_config
    from toolkit.worker.serving.request_models import RequestError
    from toolkit.worker.tokens import examples

    run = finished_run(save_dir, tiny_plain_model)
    engine = load(save_dir, run.id)
    form = engine.config_for_model(run.id)
    text, ids = engine.encode_messages(form, said(("user", "send 12 lamps: ")))
    assert text == "send 12 lamps: "
    assert (text, ids) == examples.encode_prompt(read_run_config(run), engine.tokenizer, "send 12 lamps: ")
    assert engine.encode_raw_text(form, text) == (text, ids)
    assert engine.config_for_model("base") == form
    turns = [("user", "a"), ("assistant", "b"), ("user", "c")]
    for refused in (said(*turns), said(("system", "be brief"), ("user", "a"))):
        with pytest.raises(RequestError, match="without a chat template"):
            engine.encode_messages(form, refused)


def test_a_run_with_a_chat_template_takes_conversations(save_dir: Path, tiny_model: Path) -> None:
    from tests.fakes.engine_runs import finished_run
    from toolkit.worker.serving.request_models import RequestError

    run = finished_run(save_dir, tiny_model)
    engine = load(save_dir, run.id)
    form = engine.config_for_model(run.id)
    text, ids = engine.encode_messages(form, said(("system", "be"), ("user", "a"), ("assistant", "b"), ("user", "c")))
    assert text == (
        "<|im_start|>system\nbe<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
        "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n"
    )
    assert engine.encode_raw_text(form, text) == (text, ids), "a rendered prompt, sent raw, is the same prompt"
    for wrong in (said(("user", "a"), ("assistant", "b")), said(("user", "a"), ("system", "b")), said(("system", "a"))):
        with pytest.raises(RequestError):
            engine.encode_messages(form, wrong)


def test_an_answer_is_scored_after_the_whole_conversation(save_dir: Path, tiny_model: Path) -> None:
    import torch

    from tests.fakes.engine_runs import finished_run

    run = finished_run(save_dir, tiny_model)
    engine = load(save_dir, run.id)
    form, before = engine.config_for_model(run.id), said(("system", "be"), ("user", "a"), ("assistant", "b"))
    found = engine.score_completion(run.id, form, "c", "12 lamps", 0, before)
    _, ids = engine.encode_messages(form, [*before, *said(("user", "c"))])
    answer = engine.tokenizer("12 lamps<|im_end|>", add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logits = engine.adapters.model(torch.tensor([[*ids, *answer]])).logits[0, len(ids) - 1 : -1]
    expected = torch.log_softmax(logits.float(), -1).gather(1, torch.tensor(answer)[:, None])[:, 0]
    assert [token.logprob for token in found[: len(answer)]] == pytest.approx(expected.tolist(), abs=1e-4)
    alone = engine.score_completion(run.id, form, "c", "12 lamps", 0)
    assert alone[0].logprob != found[0].logprob


def test_only_intact_adapters_of_this_base_model_are_attached(
    save_dir: Path, tiny_model: Path, tiny_plain_model: Path
) -> None:
    from tests.fakes.engine_runs import finished_run, make_config
    from toolkit.errors import ToolkitError
    from toolkit.runs.run_dir import create_run

    first, second = finished_run(save_dir, tiny_model, 1), finished_run(save_dir, tiny_model, 2)
    other = finished_run(save_dir, tiny_plain_model)
    unfinished = create_run(make_config(save_dir, tiny_model), None)
    damaged = finished_run(save_dir, tiny_model, 3)
    weights = damaged.adapter_dir / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    engine = load(save_dir, first.id)
    engine.attach(second.id)
    engine.attach(second.id)
    for run_id, words in [
        (other.id, "another base model"),
        (unfinished.id, "no adapter yet"),
        (damaged.id, "damaged"),
        ("nope", "no run"),
    ]:
        with pytest.raises(ToolkitError, match=words):
            engine.attach(run_id)
    assert engine.runs == (first.id, second.id)
    with pytest.raises(ToolkitError, match="is not loaded"):
        engine.config_for_model(other.id)
    with pytest.raises(ToolkitError, match="is not loaded"):
        engine.config_for_model("base", other.id)


@pytest.mark.parametrize("others", [0, 1])
def test_a_continued_run_answers_with_its_new_adapter(save_dir: Path, tiny_model: Path, others: int) -> None:
    from tests.fakes.engine_runs import finished_run, make_config, write_adapter

    run = finished_run(save_dir, tiny_model)
    engine = load(save_dir, run.id)
    other = [finished_run(save_dir, tiny_model, seed=5) for _ in range(others)]
    for one in other:
        engine.attach(one.id)

    def figures(name: str) -> list[float]:
        return [
            token.logprob
            for token in engine.score_completion(name, engine.config_for_model(name), "send 12", "blue lamps", 0)
        ]

    before, plain, beside = figures(run.id), figures("base"), [figures(one.id) for one in other]
    write_adapter(run, make_config(save_dir, tiny_model), seed=9)
    assert figures(run.id) == figures_of_a_fresh_engine(save_dir, run.id) != before
    assert figures("base") == plain and [figures(one.id) for one in other] == beside
    shutil.rmtree(run.adapter_dir)
    assert figures(run.id) != plain, "deleted meanwhile: what is attached goes on"
    assert engine.runs == (run.id, *(one.id for one in other))


def figures_of_a_fresh_engine(save_dir: Path, run_id: str) -> list[float]:
    engine = load(save_dir, run_id)
    return [
        token.logprob
        for token in engine.score_completion(run_id, engine.config_for_model(run_id), "send 12", "blue lamps", 0)
    ]


def test_client_and_engine_agree_on_which_runs_share_a_base_model(save_dir: Path, tiny_model: Path) -> None:
    from tests.fakes.engine_runs import finished_run
    from toolkit.config import Config
    from toolkit.runs.run_dir import read_run_config
    from toolkit.services.engine_client import base_model_key
    from toolkit.system.machine import Machine

    run = finished_run(save_dir, tiny_model)
    engine, config = load(save_dir, run.id), read_run_config(run)

    def changed(**sections: dict[str, Any]) -> Config:
        draft = config.model_dump(mode="json")
        for section, values in sections.items():
            draft[section].update(values)
        return Config.model_validate(draft)

    bf16 = {"training_args": {"bf16": True, "num_train_epochs": 9}}
    here = Machine(cpu_count=2, memory_bytes=10**9)
    assert read_run_config(run).training.training_args.bf16 is None, "an empty setting is the fp32 of this machine"
    same = [
        changed(training={"training_args": {"bf16": False}}),
        changed(lora={"r": 9}),
        changed(data={"prompt": "{x}"}),
        changed(inference={"top_k": 3}),
    ]
    other = [changed(training=bf16), changed(model={"quantize": True, "bitsandbytes": {"load_in_4bit": True}}),
             changed(model={"hf_model_ckpt": "bundled:demo-model"})]  # fmt: skip
    for config_, expected in [*((c, True) for c in same), *((c, False) for c in other)]:
        assert (base_model_key(config_, here) == base_model_key(config, here)) is expected
        assert engine.shares_base(config_) is expected


@pytest.mark.parametrize("bits", [4, 8])
def test_adapters_of_a_quantized_base_model_are_switched_without_merging(
    save_dir: Path, tiny_model: Path, bits: int
) -> None:
    from tests.fakes.engine_runs import finished_run
    from toolkit.worker.serving.stream_answer import GenerationRequest

    runs = [finished_run(save_dir, tiny_model, seed, bits=bits).id for seed in (1, 2)]
    engine = load(save_dir, runs[0])
    engine.attach(runs[1])
    text, ids = engine.encode_messages(engine.config_for_model(runs[0]), said(("user", "send 12 lamps")))

    def answer(name: str) -> str:
        settings = engine.config.inference
        found = engine.answer(GenerationRequest(name, text, ids, settings, 0.0), lambda piece: None, threading.Event())
        assert not engine.adapters.merged
        return str(found.text)

    first = [answer(name) for name in ("base", *runs)]
    assert len(set(first)) == 3
    assert [answer(name) for name in ("base", *runs)] == first


def test_tools_that_the_template_does_not_write_are_refused(
    save_dir: Path, tiny_model: Path, tiny_plain_model: Path
) -> None:
    from tests.fakes.engine_runs import finished_run
    from toolkit.worker.serving.request_models import RequestError, RequestMessage

    tool = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
    asked, result = (
        RequestMessage(role="user", content="a"),
        RequestMessage(role="tool", content="b", tool_call_id="c1"),
    )
    called = RequestMessage(role="assistant", tool_calls=[call])
    for model, words in (
        (tiny_model, "does not write the list of tools"),
        (tiny_plain_model, "without a chat template"),
    ):
        run = finished_run(save_dir, model)
        engine = load(save_dir, run.id)
        form = engine.config_for_model(run.id)
        with pytest.raises(RequestError, match=words) as caught:
            engine.encode_messages(form, [asked], [tool])
        assert caught.value.hint
        with pytest.raises(RequestError, match="tool calls" if model == tiny_model else words):
            engine.encode_messages(form, [asked, called, result])
