"""What a template writes before an answer is not the answer: in scores, in the stream, and in no raw completion."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.training import draft, make_run, train_here
from toolkit.worker.serving.text_stream import TextStream

pytestmark = pytest.mark.worker
OPEN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
CLOSE = "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
HEADERS = {
    "an empty block of reasoning, like Qwen3": "<think>\n\n</think>\n\n",
    "a channel, like gpt-oss": "to=user final:",
    "none": "",
}


def with_header(model: Path, target: Path, header: str) -> Path:
    shutil.copytree(model, target)
    (target / "chat_template.jinja").write_text(OPEN + "{{ " + json.dumps(header) + " }}" + CLOSE + "{% endif %}")
    return target


def tokenizer_of(model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
def test_the_header_is_read_from_the_template(tiny_model: Path, tmp_path: Path, header: str) -> None:
    from toolkit.worker.tokens.answer_header import find_answer_header, without_answer_header

    tokenizer = tokenizer_of(with_header(tiny_model, tmp_path / "model", header))
    found = find_answer_header(tokenizer)
    assert tokenizer.decode(found) == header
    answer = tokenizer("4 lamps", add_special_tokens=False)["input_ids"]
    assert without_answer_header(tokenizer, [*found, *answer]) == without_answer_header(tokenizer, answer) == answer


def test_a_template_with_another_form_of_the_prompt_has_no_header(tiny_model: Path) -> None:
    """DeepSeek-R1 opens the reasoning when an answer is generated, and drops it from the messages."""
    from toolkit.worker.tokens.answer_header import find_answer_header

    tokenizer = tokenizer_of(tiny_model)
    tokenizer.chat_template = OPEN + CLOSE + "<think>\n{% endif %}"
    assert find_answer_header(tokenizer) == ()


@pytest.mark.parametrize("chunk", [1, 2, 3, 9])
def test_a_stream_leaves_out_a_whole_header_only(chunk: int) -> None:
    def streamed(ids: list[int]) -> str:
        stream = TextStream(lambda some: "".join(chr(one) for one in some), header=[60, 62])
        pieces = [stream.push(ids[at : at + chunk]) for at in range(0, len(ids), chunk)]
        return "".join(pieces) + stream.finish()

    assert streamed([60, 62, 65, 66]) == "AB"
    assert streamed([60, 65, 66]) == "<AB"
    assert streamed([65, 60, 62]) == "A<>"
    assert streamed([60]) == "<", "it ended before it was a header"
    assert streamed([60, 62]) == "" and streamed([60, 62, 60, 62]) == "<>"


def test_right_answers_behind_a_header_are_right(tiny_model: Path, tmp_path: Path, save_dir: Path) -> None:
    model = with_header(tiny_model, tmp_path / "model", HEADERS["an empty block of reasoning, like Qwen3"])
    settings = draft(save_dir, model, num_train_epochs=60, learning_rate=1e-2)
    settings["data"] |= {"prompt": "{question}", "prompt_stub": "{answer}"}
    settings["lora"] |= {"r": 16, "lora_alpha": 32}
    run = make_run(settings, [{"question": "order lamp", "answer": "4 lamps"}] * 24)
    code, events = train_here(run)
    assert code == 0, events[-1]
    (scores,) = [event for event in events if event["kind"] == "scores"]
    lines = [json.loads(line) for line in (run.evaluation_dir / "predictions.jsonl").read_text().splitlines()]
    assert scores["exact_match"] == 1.0, lines[0]
    assert {line["adapter"] for line in lines} == {"4 lamps"}
