"""An answer equals that of `model.generate`, every setting has an effect, and it can be ended at any token."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from toolkit.config import InferenceConfig

pytestmark = pytest.mark.worker

PROMPT = "<|im_start|>user\nplease send 12 blue lamps<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> tuple[Any, Any]:
    from tests.fakes.engine_runs import make_config
    from toolkit.worker.models.load import load_base_model, load_tokenizer

    config = make_config(tiny_model.parent, tiny_model)
    model, tokenizer = load_base_model(config).eval(), load_tokenizer(config)
    model.lm_head.weight.data[tokenizer.eos_token_id] = 0  # a random model should not end by itself
    return model, tokenizer


def ask(
    loaded: tuple[Any, Any],
    seed: int | None = 3,
    stops: tuple[str, ...] = (),
    alternatives: int | None = None,
    **settings: Any,
) -> Any:
    from toolkit.worker.serving.stream_answer import GenerationRequest
    from toolkit.worker.serving.stream_answer import stream_answer as answer

    model, tokenizer = loaded
    ids = tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    settings.setdefault("max_new_tokens", 20)
    pieces: list[Any] = []
    asked = GenerationRequest(
        "m", PROMPT, ids, InferenceConfig(**settings), time.perf_counter(), seed, stops, alternatives
    )
    found = answer(model, tokenizer, asked, pieces.append, threading.Event())
    assert "".join(piece.text for piece in pieces) == found.text
    assert tuple(token for piece in pieces for token in piece.tokens) == found.tokens
    return found


def bare(loaded: tuple[Any, Any], **arguments: Any) -> str:
    import torch

    model, tokenizer = loaded
    ids = tokenizer(PROMPT, add_special_tokens=False, return_tensors="pt")["input_ids"]
    torch.manual_seed(3)
    made = model.generate(ids, attention_mask=torch.ones_like(ids), **{"max_new_tokens": 20, **arguments})
    return str(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))


SAMPLED: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "top_k": 0}


@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": False},
        SAMPLED,
        {**SAMPLED, "top_p": 0.7},
        {**SAMPLED, "top_k": 20, "temperature": 0.4},
        {**SAMPLED, "epsilon_cutoff": 0.003},
        {**SAMPLED, "eta_cutoff": 0.01},
        {"do_sample": False, "use_cache": False},
    ],
    ids=str,
)
def test_the_answer_equals_that_of_generate(loaded: tuple[Any, Any], settings: dict[str, Any]) -> None:
    assert ask(loaded, **settings).text == bare(loaded, **settings)


def test_a_seed_repeats_a_sampled_answer(loaded: tuple[Any, Any]) -> None:
    greedy = ask(loaded, do_sample=False)
    sampled = ask(loaded, **SAMPLED)
    assert greedy.text != sampled.text
    assert ask(loaded, **SAMPLED).text == sampled.text
    assert ask(loaded, seed=4, **SAMPLED).text != sampled.text
    drawn = ask(loaded, seed=None, **SAMPLED)
    assert ask(loaded, seed=drawn.seed, **SAMPLED).text == drawn.text


@pytest.mark.parametrize("narrow", [{"top_p": 1e-6}, {"temperature": 1e-4}, {"epsilon_cutoff": 0.99}, {"top_k": 1}])
def test_each_setting_narrows_sampling_to_the_greedy_answer(loaded: tuple[Any, Any], narrow: dict[str, Any]) -> None:
    assert ask(loaded, **{**SAMPLED, **narrow}).text == ask(loaded, do_sample=False).text


def test_eta_cutoff_has_an_effect_and_zero_turns_cutoffs_off(loaded: tuple[Any, Any]) -> None:
    plain = ask(loaded, **SAMPLED).text
    assert ask(loaded, **SAMPLED, eta_cutoff=0.99).text != plain
    assert ask(loaded, **SAMPLED, eta_cutoff=0.0, epsilon_cutoff=0.0).text == plain
    assert ask(loaded, **SAMPLED, eta_cutoff=None, epsilon_cutoff=None).text == plain


def test_use_cache_changes_the_computation_per_token(loaded: tuple[Any, Any]) -> None:
    widths: list[int] = []
    hook = loaded[0].model.layers[0].register_forward_pre_hook(lambda layer, given: widths.append(given[0].shape[1]))
    try:
        ask(loaded, max_new_tokens=4, use_cache=True)
        cached, widths = widths, []
        ask(loaded, max_new_tokens=4, use_cache=False)
    finally:
        hook.remove()
    assert cached[1:] == [1, 1, 1]
    assert [width - cached[0] for width in widths] == [0, 1, 2, 3]


@pytest.mark.parametrize("settings", [{"do_sample": False}, {**SAMPLED, "temperature": 0.3, "top_k": 5}], ids=str)
def test_log_probabilities_equal_those_of_the_model(loaded: tuple[Any, Any], settings: dict[str, Any]) -> None:
    import torch

    model, tokenizer = loaded
    found = ask(loaded, alternatives=3, **settings)
    assert len(found.tokens) == found.completion_tokens and found.text == ask(loaded, **settings).text
    ids = tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    torch.manual_seed(3)
    given = torch.tensor([ids])
    made = model.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=20, **settings)[0]
    with torch.no_grad():
        scores = torch.log_softmax(model(made[None]).logits[0].float(), -1)
    for at, token in enumerate(found.tokens, len(ids)):
        assert token.logprob == pytest.approx(float(scores[at - 1, made[at]]), abs=1e-4)
        best = scores[at - 1].topk(3)
        assert [value for _, value in token.top] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert token.top[0][0] == tokenizer.decode([int(best.indices[0])])
    assert not ask(loaded, **settings).tokens and not model._forward_hooks


def test_taking_turns_does_not_change_the_answers(loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Four answers take turns at every token, each with its own random numbers."""
    from types import SimpleNamespace

    from toolkit.worker.serving import stream_answer
    from toolkit.worker.serving.engine import EngineYieldPoint
    from toolkit.worker.serving.turn_taking import FairLock

    monkeypatch.setattr(stream_answer, "SLICE_SECONDS", 0.0)
    model, tokenizer = loaded
    ids = tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    turn_lock, order, found = FairLock(), [], {}
    adapters = SimpleNamespace(select=order.append)

    def run(seed: int) -> None:
        asked = stream_answer.GenerationRequest(
            str(seed), PROMPT, ids, InferenceConfig(**SAMPLED, max_new_tokens=20), 0.0, seed
        )
        with turn_lock.held():
            pause = EngineYieldPoint(turn_lock, adapters, str(seed))
            found[seed] = stream_answer.stream_answer(
                model, tokenizer, asked, lambda piece: None, threading.Event(), pause
            ).text

    alone = {seed: ask(loaded, seed=seed, **SAMPLED).text for seed in range(4)}
    with turn_lock.held():
        threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        while len(turn_lock._waiting) < 4:
            time.sleep(0.01)
    for thread in threads:
        thread.join(60)
    assert found == alone
    assert len(order) > 40 and set(order) == {"0", "1", "2", "3"}


def test_the_finish_reason_and_notice_of_a_length_limit(loaded: tuple[Any, Any]) -> None:
    short = ask(loaded, max_new_tokens=3)
    assert (short.completion_tokens, short.finish_reason, short.notice) == (3, "length", "")
    for tokens in (None, 10_000):
        whole = ask(loaded, max_new_tokens=tokens)
        assert whole.prompt_tokens + whole.completion_tokens == 256
        assert whole.finish_reason == "length" and "256 tokens" in whole.notice
    assert whole.ttft_s > 0 and whole.tokens_per_second > 0 and whole.prompt == PROMPT


def test_a_prompt_that_fills_the_context_is_rejected(loaded: tuple[Any, Any]) -> None:
    from toolkit.worker.serving.request_models import RequestError
    from toolkit.worker.serving.stream_answer import GenerationRequest, generation_arguments

    with pytest.raises(RequestError, match="256 tokens, but the model's context length is 256 tokens") as caught:
        generation_arguments(loaded[0], GenerationRequest("m", "", [5] * 256, InferenceConfig(), 0.0))
    assert caught.value.code == "context_length_exceeded"


def test_eos_and_stop_texts_end_the_answer(loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.worker.serving import stream_answer

    text = ask(loaded, do_sample=False).text
    stop = text[4:6]
    stopped = ask(loaded, do_sample=False, stops=(stop,))
    assert stopped.text == text[: text.index(stop)] and stopped.finish_reason == "stop"
    model, tokenizer = loaded
    ids = tokenizer(PROMPT, add_special_tokens=False, return_tensors="pt")["input_ids"]
    fourth = int(model.generate(ids, max_new_tokens=4, do_sample=False)[0, -1])
    monkeypatch.setattr(stream_answer, "stop_token_ids", lambda *_: [fourth])
    ended = ask(loaded, do_sample=False)
    assert ended.finish_reason == "stop" and ended.completion_tokens <= 4


def test_cancelling_ends_the_answer_within_a_token(loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.worker.serving import stream_answer

    monkeypatch.setattr(stream_answer, "FLUSH_SECONDS", 0.0)
    model, tokenizer = loaded
    cancelled, pieces = threading.Event(), []

    def emit(piece: Any) -> None:
        pieces.append(piece)
        cancelled.set()

    ids = tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    asked = stream_answer.GenerationRequest("m", PROMPT, ids, InferenceConfig(max_new_tokens=200), time.perf_counter())
    found = stream_answer.stream_answer(model, tokenizer, asked, emit, cancelled)
    assert found.finish_reason == "cancelled" and found.completion_tokens <= 3 and pieces


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.")]
)
def test_a_failed_allocation_is_explained(
    loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from toolkit.worker.serving.request_models import RequestError

    def fail(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(loaded[0], "forward", fail)
        with pytest.raises(RequestError, match="not enough memory") as caught:
            ask(loaded)
    assert caught.value.status == 503
    assert ask(loaded, max_new_tokens=2).completion_tokens == 2
