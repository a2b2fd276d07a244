"""Ids and labels of conversations equal those that TRL makes with its own packaged chat templates."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from toolkit.data.chat_messages import Message
from toolkit.data.conversations import build_conversation
from toolkit.data.examples.templates import Example
from toolkit.system.paths import ASSETS

pytestmark = pytest.mark.worker

PARAMETERS = {"type": "object", "properties": {"a": {"type": "string", "description": "x"}}, "required": ["a"]}
TOOLS = [{"type": "function", "function": {"name": "find", "description": "d", "parameters": PARAMETERS}}]
CALL = {"type": "function", "function": {"name": "find", "arguments": {"a": "b"}}}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answer(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


SHAPES: dict[str, list[dict[str, Any]]] = {
    "single": [user("the quick fox"), answer("jumps over")],
    "multi-turn": [user("a"), answer("b c"), user("d"), answer("e f")],
    "system": [{"role": "system", "content": "be brief"}, user("12 lamps"), answer("to Anna")],
    "tools": [
        user("find"),
        answer("", tool_calls=[CALL]),
        {"role": "tool", "name": "find", "content": "22"},
        answer("i"),
    ],
    "reasoning": [user("2+2"), answer("4", reasoning_content="two and two")],
    "two reasonings": [user("2"), answer("4", reasoning_content="why"), user("3"), answer("6", reasoning_content="so")],
    "consecutive roles": [user("a"), user("b"), answer("c"), answer("d")],
}
VISION = ("idefics3", "smolvlm", "llava_next")
"""Templates that read parts of images and texts; they write nothing of a text."""
REWRITTEN = {
    "diffusion_gemma": {"two reasonings", "consecutive roles"},
    "glm4moe": {"two reasonings"},
    "gptoss": {"multi-turn", "two reasonings", "consecutive roles"},
    "nemotron_3_5_lightning": {"two reasonings"},
    "nemotron_3_nano": {"two reasonings"},
    "nemotron_3_super": {"two reasonings"},
    "nemotron_3_ultra": {"two reasonings"},
    "phi3": {"tools"},
    "phi3_5": {"tools"},
}
"""Shapes of which the template writes an earlier answer otherwise once more messages follow. TRL trains the model to
write the shortened answer, which it never writes in a chat; here the answer has a sequence of its own."""
MERGED = {("diffusion_gemma", "tools")}
"""One block marks the call and the answer after it."""


def templates() -> dict[str, Path]:
    import importlib.util

    spec = importlib.util.find_spec("trl")
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent / "chat_templates"
    found = {path.stem.removesuffix("_training"): path for path in folder.glob("*_training.jinja")}
    return {name: path for name, path in sorted(found.items()) if name not in VISION}


def tokenizer_with(template: str) -> Any:
    """A tokenizer with the template, whose EOS is what the template writes after an answer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "demo-model")
    tokenizer.chat_template = template
    text = str(tokenizer.apply_chat_template(SHAPES["single"], tokenize=False))
    marks = re.findall(r"<[|｜]?[^<>\s]+>", text.split("jumps over")[-1])
    tokenizer.add_special_tokens({"eos_token": marks[0]})
    return tokenizer


def conversation(shape: str) -> tuple[Message, ...]:
    return build_conversation(SHAPES[shape], TOOLS if shape == "tools" else None)


def prepared(tokenizer: Any, shape: str) -> list[dict[str, Any]]:
    from toolkit.worker.tokens.labels import prepare_examples

    turns = conversation(shape)
    rows: list[dict[str, Any]] = prepare_examples(
        [Example("", "", turns)], tokenizer, 4_000, chat=True
    ).table.to_pylist()
    return rows


def test_ids_and_labels_equal_those_of_trl() -> None:
    from toolkit.worker.tokens.encode import TEMPLATE_ERRORS, RejectedConversationsError

    equal, rejected = 0, 0
    for name, path in templates().items():
        tokenizer = tokenizer_with(path.read_text(encoding="utf-8"))
        for shape, messages in SHAPES.items():
            tools = TOOLS if shape == "tools" else None
            try:
                theirs = tokenizer.apply_chat_template(
                    copy.deepcopy(messages),
                    tools=tools,
                    tokenize=True,
                    return_dict=True,
                    return_assistant_tokens_mask=True,
                )
            except TEMPLATE_ERRORS:
                rejected += 1
                with pytest.raises(RejectedConversationsError):
                    prepared(tokenizer, shape)
                continue
            ids, masks = theirs["input_ids"], theirs["assistant_masks"]
            labels = [token if mask else -100 for token, mask in zip(ids, masks, strict=True)]
            *earlier, last = prepared(tokenizer, shape)
            assert last["input_ids"] == ids, (name, shape)
            assert bool(earlier) == (shape in REWRITTEN.get(name, set())), (name, shape)
            if earlier:
                extra = [at for at, label in enumerate(last["labels"]) if label != labels[at]]
                assert all(last["labels"][at] == -100 for at in extra), "only the rewritten answer is masked"
            elif (name, shape) not in MERGED:
                assert last["labels"] == labels, (name, shape)
                equal += 1
    assert equal > 120, "hardly any template was compared"
    assert rejected < 20


def test_a_rewritten_answer_is_trained_with_its_reasoning() -> None:
    from trl import chat_template_utils

    path = Path(chat_template_utils.__file__).parent / "chat_templates" / "qwen3.jinja"
    tokenizer = tokenizer_with(path.read_text(encoding="utf-8"))
    first, second = prepared(tokenizer, "two reasonings")
    trained = [tokenizer.decode([one for one in row["labels"] if one != -100]) for row in (first, second)]
    assert trained == ["<think>\nwhy\n</think>\n\n4<|im_end|>\n", "<think>\nso\n</think>\n\n6<|im_end|>\n"]
    assert "why" not in tokenizer.decode(second["input_ids"]), "a chat does not show old reasoning either"


def test_parts_that_a_template_does_not_write_are_found() -> None:
    from toolkit.worker.tokens.chat_outline import outline_conversation, read_outline

    expected: dict[str, dict[str, tuple[str, ...]]] = {
        "phi3": {
            "tools": ("tools_unwritten", "calls_unwritten", "results_unwritten"),
            "reasoning": ("reasoning_unwritten",),
            "single": (),
        },
        "lfm2": {"tools": ("calls_unwritten",), "system": ()},
    }
    for name, shapes in expected.items():
        tokenizer = tokenizer_with(templates()[name].with_stem(name).read_text(encoding="utf-8"))
        for shape, kinds in shapes.items():
            facts = read_outline(tokenizer, outline_conversation(conversation(shape)))
            assert facts is not None
            assert facts.unwritten == kinds, (name, shape)
    qwen = tokenizer_with(templates()["qwen3"].read_text(encoding="utf-8"))
    for shape in SHAPES:
        facts = read_outline(qwen, outline_conversation(conversation(shape)))
        assert facts is not None
        assert facts.unwritten == (), shape


def test_arguments_become_text_where_a_template_wants_text() -> None:
    from trl import chat_template_utils

    path = Path(chat_template_utils.__file__).parent / "chat_templates" / "deepseekv3.jinja"
    tokenizer = tokenizer_with(path.read_text(encoding="utf-8"))
    (row,) = prepared(tokenizer, "tools")
    assert json.dumps({"a": "b"}) in tokenizer.decode(row["input_ids"])


def test_a_tools_entry_is_no_message() -> None:
    from toolkit.worker.tokens.conversation import read_listed_tools, to_message_dicts

    turns = (Message("tools", json.dumps(TOOLS)), Message("user", "hi"))
    assert to_message_dicts(turns) == [{"role": "user", "content": "hi"}]
    assert json.loads(read_listed_tools(turns)) == TOOLS
