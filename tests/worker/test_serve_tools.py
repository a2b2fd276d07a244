"""OpenAI's client gets tool calls and reasoning from an engine whose model was trained to write them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from toolkit.services import engine_client
from toolkit.services.engine_process import EngineInfo

pytestmark = pytest.mark.worker

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Any = [{"type": "function", "function": {"name": "warmth", "description": "d", "parameters": PARAMETERS}}]
CALL = {"type": "function", "function": {"name": "warmth", "arguments": {"city": "Bonn"}}}
WARM, SUM = {"role": "user", "content": "warm?"}, {"role": "user", "content": "2+2"}
RESULT = {"role": "tool", "content": "22"}
ASKED = [WARM, {"role": "assistant", "content": "", "tool_calls": [CALL]}]
CONVERSATIONS: list[tuple[list[Any], list[Any]]] = [
    (ASKED, TOOLS),
    ([*ASKED, RESULT, {"role": "assistant", "content": "yes"}], TOOLS),
    ([SUM, {"role": "assistant", "content": "4", "reasoning_content": "a pair\nof pairs"}], []),
]


def train_to_write(model_folder: Path) -> None:
    """Train a tiny model on CONVERSATIONS until it writes each of their answers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import chat_template_utils

    from toolkit.data.conversations import build_conversation
    from toolkit.data.examples.templates import Example
    from toolkit.worker.tokens.labels import prepare_examples

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.chat_template = chat_template_utils.qwen3_chat_template
    tokenizer.save_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    examples = [Example("", "", build_conversation(*one)) for one in CONVERSATIONS]
    rows = prepare_examples(examples, tokenizer, 2_000, chat=True).table.to_pylist()
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(400):
        loss = sum(
            model(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss for row in rows
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if float(loss.detach()) < 0.02:
            break
    assert float(loss.detach()) < 0.1, "the model has not learned its answers"
    model.save_pretrained(model_folder)


@pytest.fixture(scope="module")
def served(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EngineInfo, str]]:
    """(engine, run), whose model knows the answers of CONVERSATIONS."""
    from tests.fakes.engine_runs import make_config, write_adapter
    from toolkit.runs.run_dir import create_run

    place = tmp_path_factory.mktemp("tools")
    model = place / "model"
    shutil.copytree(tiny_model, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2_000}))
    train_to_write(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTK_STATE_DIR", str(place / "state"))
        settings = make_config(place / "save", model)
        run = create_run(settings, None)
        write_adapter(run, settings, 1, scale=0.0)
        info = engine_client.start_engine(place / "save", run.id)
        engine_client.wait_for_engine(info, 120)
        yield info, run.id
        engine_client.stop_engine(info)


@pytest.fixture
def api(served: tuple[EngineInfo, str]) -> Iterator[Any]:
    import openai

    info, _ = served
    with openai.OpenAI(base_url=f"{info.url}/v1", api_key=info.token, max_retries=0, timeout=120) as client:
        yield client


def test_a_tool_is_called_and_its_result_answered(api: Any, served: tuple[EngineInfo, str]) -> None:
    chat: dict[str, Any] = {"model": served[1], "tools": TOOLS, "max_tokens": 200, "temperature": 0}
    asked = api.chat.completions.create(messages=[WARM], **chat).choices[0]
    (call,) = asked.message.tool_calls
    assert (asked.finish_reason, asked.message.content, call.type) == ("tool_calls", None, "function")
    assert (call.function.name, json.loads(call.function.arguments)) == ("warmth", {"city": "Bonn"})
    result = {**RESULT, "tool_call_id": call.id}
    answered = api.chat.completions.create(messages=[WARM, asked.message, result], **chat).choices[0]
    assert (answered.finish_reason, answered.message.content, answered.message.tool_calls) == ("stop", "yes", None)


def test_tool_calls_and_reasoning_are_streamed(api: Any, served: tuple[EngineInfo, str]) -> None:
    chat: dict[str, Any] = {"model": served[1], "max_tokens": 200, "temperature": 0, "stream": True}
    events = list(api.chat.completions.create(messages=[WARM], tools=TOOLS, tool_choice="auto", **chat))
    (call,) = [call for event in events for call in event.choices[0].delta.tool_calls or ()]
    assert (call.index, call.type, call.function.name) == (0, "function", "warmth") and call.id
    assert json.loads(call.function.arguments) == {"city": "Bonn"}
    assert "".join(event.choices[0].delta.content or "" for event in events) == ""
    assert events[-1].choices[0].finish_reason == "tool_calls"
    deltas = [event.choices[0].delta for event in api.chat.completions.create(messages=[SUM], **chat)]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "a pair\nof pairs"
    assert "".join(delta.content or "" for delta in deltas) == "4"
    whole = api.chat.completions.create(messages=[SUM], **{**chat, "stream": False}).choices[0]
    assert (whole.message.reasoning_content, whole.message.content) == ("a pair\nof pairs", "4")
    assert (whole.finish_reason, whole.message.tool_calls) == ("stop", None)


def test_the_client_helper_assembles_a_streamed_call(api: Any, served: tuple[EngineInfo, str]) -> None:
    with api.chat.completions.stream(
        model=served[1], messages=[WARM], tools=TOOLS, max_tokens=200, temperature=0
    ) as stream:
        message = stream.get_final_completion().choices[0].message
    assert json.loads(message.tool_calls[0].function.arguments) == {"city": "Bonn"}


def test_what_can_not_be_kept_is_refused(api: Any, served: tuple[EngineInfo, str]) -> None:
    import openai

    chat: dict[str, Any] = {"model": served[1], "messages": [WARM], "max_tokens": 2}
    named = {"type": "function", "function": {"name": "warmth"}}
    for choice in ("required", named):
        with pytest.raises(openai.BadRequestError, match="tool_choice"):
            api.chat.completions.create(**chat, tools=TOOLS, tool_choice=choice)
    with pytest.raises(openai.BadRequestError, match="tool"):
        api.chat.completions.create(**chat, tools=[{"type": "function", "function": {}}])
    prompts = [
        api.chat.completions.create(**chat, **more, stream=True)
        for more in ({}, {"tools": TOOLS}, {"tools": TOOLS, "tool_choice": "none"})
    ]
    plain, offered, withheld = [list(stream)[-1].prompt for stream in prompts]
    assert plain == withheld and "warmth" not in plain and "warmth" in offered
