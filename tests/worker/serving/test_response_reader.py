"""Answers of all chat templates that TRL packages are divided into content, reasoning and tool calls."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from toolkit.system.paths import ASSETS

pytestmark = pytest.mark.worker

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string", "description": "c"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "d", "parameters": PARAMETERS}}]
CALL = {"id": "callmark1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Köln"}}}
ASKED = {"role": "user", "content": "how warm is it"}
ANSWERS: dict[str, dict[str, Any]] = {
    "text": {"role": "assistant", "content": "22 degrees\n\n- and dry"},
    "reasoning": {"role": "assistant", "content": "22 degrees", "reasoning_content": "two\nand two"},
    "call": {"role": "assistant", "content": "", "tool_calls": [CALL]},
}
READ = {
    "text": ("22 degrees\n\n- and dry", "", []),
    "reasoning": ("22 degrees", "two\nand two", []),
    "call": ("", "", [("get_weather", {"city": "Köln"})]),
}


def packaged() -> dict[str, str]:
    from trl import chat_template_utils

    folder = Path(chat_template_utils.__file__).parent / "chat_templates"
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))}


def tokenizer_with(template: str) -> Any:
    """A tokenizer whose special tokens are the marks that the template writes."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "demo-model")
    tokenizer.chat_template = template
    marks = set(re.findall(r"<\|[a-z_|]+?\|?>", template)) | {"<｜end▁of▁sentence｜>", "<｜Assistant｜>"}
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(marks)})
    return tokenizer


def written(tokenizer: Any, answer: dict[str, Any]) -> tuple[str, str]:
    """(prompt, what a model trained on this answer writes after it)"""
    from toolkit.worker.tokens.encode import common_prefix_length, render_chats

    tools = [json.dumps(TOOLS)]
    (prompt,) = render_chats(tokenizer, [[ASKED]], tools=tools, add_generation_prompt=True)
    (whole,) = render_chats(tokenizer, [[ASKED, answer]], tools=tools)
    start = common_prefix_length(prompt, whole)
    return whole[:start], whole[start:]


def read(tokenizer: Any, prompt: str, text: str, step: int) -> tuple[str, str, list[tuple[str, Any]]]:
    from toolkit.worker.serving.response_reader import create_response_reader

    reader = create_response_reader(tokenizer, prompt, TOOLS)
    assert reader is not None
    tokens = re.findall(r"<[^<>]*>|.", text, re.DOTALL)  # a mark is one token
    fed = ["".join(tokens[at : at + step]) for at in range(0, len(tokens), step)]
    pieces = [*map(reader.feed, fed), reader.finish()]
    calls = [(call.name, json.loads(call.arguments)) for piece in pieces for call in piece.calls]
    return "".join(piece.text for piece in pieces), "".join(piece.reasoning for piece in pieces), calls


PARTS = {"text": "degrees", "reasoning": "two", "call": "get_weather"}


def test_what_a_template_writes_is_read_back_whole_and_token_by_token() -> None:
    from toolkit.errors import ToolkitError
    from toolkit.worker.serving.response_reader import create_response_reader

    read_back: Counter[str] = Counter()
    for name, template in packaged().items():
        tokenizer = tokenizer_with(template)
        for kind, answer in ANSWERS.items():
            try:
                prompt, text = written(tokenizer, answer)
            except ToolkitError:  # the template knows no such part
                continue
            if create_response_reader(tokenizer, prompt, TOOLS) is None or PARTS[kind] not in text:
                continue
            for step in (len(text), 7, 1):
                content, *others = read(tokenizer, prompt, text, step)
                assert (content.strip(), *others) == READ[kind], (name, kind, step)
            read_back[kind] += 1
    assert min(read_back.values()) >= 25, read_back


def reader_of(name: str, prompt: str = "<|im_start|>assistant\n") -> Any:
    from toolkit.worker.serving.response_reader import create_response_reader

    return create_response_reader(tokenizer_with(packaged()[name]), prompt, TOOLS)


def read_all(reader: Any, text: str) -> tuple[str, str, list[str]]:
    pieces = [*map(reader.feed, re.findall(r"<[^<>]*>|.", text, re.DOTALL)), reader.finish()]
    calls = [call.arguments for piece in pieces for call in piece.calls]
    return "".join(piece.text for piece in pieces), "".join(piece.reasoning for piece in pieces), calls


def test_a_template_that_writes_text_only_needs_no_reader() -> None:
    assert reader_of("phi3") is None
    assert reader_of("gemma") is None


def test_malformed_calls_stay_in_the_content() -> None:
    good = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Bonn"}}\n</tool_call>'
    for bad in (
        '<tool_call>\n{"name": get}\n</tool_call>',
        '<tool_call>\n{"arguments": {}}\n</tool_call>',
        "<tool_call>",
    ):
        assert read_all(reader_of("qwen3"), f"so {bad} then<|im_end|>")[0].strip() == f"so {bad} then"
        content, _, calls = read_all(reader_of("qwen3"), f"so {good}\n{bad} then<|im_end|>")
        assert (content.split(), len(calls)) == (f"so {bad} then".split(), 1)
    unreadable = '{"name": "get_weather", "parameters": {"city": Bonn}}<|eot_id|>'
    header = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    assert read_all(reader_of("llama3_1", header), unreadable) == ("", "", ['{"city": Bonn}'])


ORDINARY = {
    "lfm2_2_5": "Use print(1), len(x) and so on.",
    "llama3_1": 'Write {"name": "Tom", "parameters": {}}, or get_weather(1), sum(2).',
}


@pytest.mark.parametrize("name", ORDINARY)
@pytest.mark.parametrize("tools", [TOOLS, []])
def test_ordinary_text_that_looks_like_a_call_is_content(name: str, tools: list[Any]) -> None:
    from toolkit.worker.serving.response_reader import create_response_reader

    tokenizer = tokenizer_with(packaged()[name])
    prompt, _ = written(tokenizer, ANSWERS["text"])
    reader = create_response_reader(tokenizer, prompt, tools)
    assert read_all(reader, ORDINARY[name]) == (ORDINARY[name], "", [])


def test_reasoning_that_the_prompt_opens_or_the_limit_ends_is_reasoning() -> None:
    opened = "<|im_start|>assistant\n<think>\n"
    assert read_all(reader_of("qwen3_5_think", opened), "so\n</think>\n\n4<|im_end|>") == ("4", "so", [])
    assert read_all(reader_of("qwen3"), "<think>\nso it is") == ("", "so it is", [])
    assert read_all(reader_of("qwen3"), " 4 < 5\n\n") == (" 4 < 5\n\n", "", [])
