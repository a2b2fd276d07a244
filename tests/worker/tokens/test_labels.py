"""The preparation equals that of TRL token by token; where TRL is wrong, the expected result is stated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.tokens import count_trained_tokens
from toolkit.config import Config
from toolkit.data.examples.templates import Example
from toolkit.errors import ConfigError, ToolkitError

pytestmark = pytest.mark.worker

EXAMPLES = [
    Example("the quick brown fox", " jumps over the lazy dog"),
    Example("please send 12 lamps", "to Anna Berg"),
    Example("", "an answer to nothing"),
    Example("multi\nline\n\nprompt ", "{\"name\": \"Tom\"}\n"),
    Example("emoji 🦊 and ünïcode ", "東京 🗼"),
    Example("spaces before ", " spaces  around "),
    Example("word", "piece that may merge with the word before"),
    Example("x" * 90, "cut away completely when short"),
    Example("about half of it ", "is cut away when the length is short " * 3),
]  # fmt: skip


def tokenizer_of(folder: Path) -> Any:
    from toolkit.worker.models.load import load_tokenizer

    return load_tokenizer(config_for(folder))


def config_for(folder: Path, **data: Any) -> Config:
    return Config.model_validate({"model": {"hf_model_ckpt": str(folder)}, "data": data})


def by_trl(folder: Path, tokenizer: Any, examples: Sequence[Example], length: int, chat: bool) -> list[dict[str, Any]]:
    """Return what SFTTrainer makes of the examples, collated one by one with its collator."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    def both(example: Example) -> dict[str, Any]:
        if not chat:
            return {"prompt": example.prompt, "completion": example.completion}
        asked = [{"role": "user", "content": example.prompt}]
        return {"prompt": asked, "completion": [{"role": "assistant", "content": example.completion}]}

    arguments = {"use_cpu": True, "bf16": False, "report_to": "none", "output_dir": "out", "max_length": length}
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder),
        args=SFTConfig(**arguments),
        train_dataset=Dataset.from_list([both(example) for example in examples]),
        processing_class=tokenizer,
    )
    return [collated(trainer, row) for row in trainer.train_dataset]


def collated(trainer: Any, row: dict[str, Any]) -> dict[str, Any]:
    batch = trainer.data_collator([{name: row[name] for name in ("input_ids", "labels")}])
    return {"input_ids": batch["input_ids"][0].tolist(), "labels": batch["labels"][0].tolist()}


@pytest.mark.parametrize("length", [16, 40, 200])
@pytest.mark.parametrize("chat", [True, False])
def test_tokens_and_labels_equal_trl(
    chat: bool, length: int, tiny_model: Path, tiny_plain_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.worker.tokens.labels import prepare_examples

    monkeypatch.chdir(tmp_path)
    folder = tiny_model if chat else tiny_plain_model
    tokenizer = tokenizer_of(folder)
    ours = prepare_examples(EXAMPLES, tokenizer, length, chat)
    theirs = by_trl(folder, tokenizer, EXAMPLES, length, chat)
    kept = [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in ours.table.to_pylist()]
    assert kept == theirs
    assert ours.rows + len(ours.lost) == len(EXAMPLES)
    assert (len(ours.lost) > 0) == (length < 200)


@pytest.mark.parametrize("chat", [True, False])
def test_only_the_completion_with_its_end_token_is_trained(
    chat: bool, tiny_model: Path, tiny_plain_model: Path
) -> None:
    from toolkit.worker.tokens.examples import encode_prompt
    from toolkit.worker.tokens.labels import prepare_examples

    folder = tiny_model if chat else tiny_plain_model
    tokenizer, config = tokenizer_of(folder), config_for(folder)
    prepared = prepare_examples(EXAMPLES[:2], tokenizer, 200, chat)
    for example, row in zip(EXAMPLES, prepared.table.to_pylist(), strict=False):
        learned = [label for label in row["labels"] if label != -100]
        assert tokenizer.eos_token_id in learned
        assert tokenizer.decode(learned, skip_special_tokens=True).strip() == example.completion.strip()
        asked = encode_prompt(config, tokenizer, example.prompt)[1]
        assert row["input_ids"][: len(asked)] == asked
        assert all(label == -100 for label in row["labels"][: len(asked)])
    assert count_trained_tokens(prepared) < prepared.tokens


def test_a_row_has_at_most_one_bos_and_exactly_one_eos(tiny_plain_model: Path) -> None:
    from toolkit.worker.tokens.examples import encode_prompt
    from toolkit.worker.tokens.labels import prepare_examples

    tokenizer = tokenizer_of(tiny_plain_model)
    examples = [Example("<s>begun by hand", "closed by hand</s>"), Example("plain", "plain")]
    for row in prepare_examples(examples, tokenizer, 100, chat=False).table.to_pylist():
        assert row["input_ids"].count(tokenizer.bos_token_id) == 1
        assert row["input_ids"].count(tokenizer.eos_token_id) == 1
        assert row["labels"][-1] == tokenizer.eos_token_id
    text, ids = encode_prompt(config_for(tiny_plain_model), tokenizer, "<s>hello")
    assert text == "<s>hello"
    assert ids.count(tokenizer.bos_token_id) == 1


def test_eos_is_trained_even_if_it_is_the_padding_token(tiny_plain_model: Path) -> None:
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from toolkit.worker.tokens.labels import prepare_examples

    tokenizer = tokenizer_of(tiny_plain_model)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    rows = prepare_examples([Example("a", "b"), Example("a longer one", "with a long end")], tokenizer, 100, chat=False)
    batch = DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id)(rows.table.to_pylist())
    first = rows.lengths[0]
    assert batch["labels"][0, first - 1] == tokenizer.eos_token_id
    assert (batch["labels"][0, first:] == -100).all()
    assert (batch["attention_mask"][0, first:] == 0).all()


def test_eos_is_added_where_the_template_does_not_write_it(tiny_model: Path) -> None:
    from toolkit.worker.tokens.labels import prepare_examples

    tokenizer = tokenizer_of(tiny_model)
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    (row,) = prepare_examples([Example("hi", "there")], tokenizer, 100, chat=True).table.to_pylist()
    assert row["labels"][-1] == tokenizer.eos_token_id
    assert row["labels"].count(tokenizer.eos_token_id) == 1


def test_truncated_and_lost_rows_are_counted(tiny_plain_model: Path) -> None:
    from toolkit.worker.tokens.labels import prepare_examples

    tokenizer = tokenizer_of(tiny_plain_model)
    prepared = prepare_examples(EXAMPLES, tokenizer, 16, chat=False)
    rows = prepared.table.to_pylist()
    assert prepared.lost == tuple(sorted(set(range(len(EXAMPLES))) - {row["row"] for row in rows}))
    whole = prepare_examples(EXAMPLES, tokenizer, 10_000, chat=False).table.to_pylist()
    too_long = {row["row"] for row in whole if len(row["input_ids"]) > 16}
    assert {row["row"] for row in rows if row["truncated"]} | set(prepared.lost) == too_long
    assert prepared.longest == max(len(row["input_ids"]) for row in rows) <= 16
    assert prepared.tokens == sum(len(row["input_ids"]) for row in rows)
    assert all(any(label != -100 for label in row["labels"]) for row in rows)


def test_the_batch_size_does_not_change_the_result(tiny_plain_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.worker.tokens import labels

    tokenizer = tokenizer_of(tiny_plain_model)
    whole = labels.prepare_examples(EXAMPLES * 3, tokenizer, 30, chat=False)
    monkeypatch.setattr(labels, "EXAMPLES_PER_BATCH", 4)
    parts = labels.prepare_examples(iter(EXAMPLES * 3), tokenizer, 30, chat=False)
    assert parts.table.to_pylist() == whole.table.to_pylist()
    assert (parts.lost, parts.longest) == (whole.lost, whole.longest)


def test_an_empty_list_of_examples_can_be_prepared(tiny_plain_model: Path) -> None:
    from toolkit.worker.tokens.labels import prepare_examples

    empty = prepare_examples([], tokenizer_of(tiny_plain_model), 10, chat=False)
    assert (empty.rows, empty.tokens, empty.longest) == (0, 0, 0)


def test_the_chat_template_is_used_if_there_is_one_unless_turned_off(tiny_model: Path, tiny_plain_model: Path) -> None:
    from toolkit.worker.tokens.examples import chat_enabled, encode_prompt

    chat, plain = tokenizer_of(tiny_model), tokenizer_of(tiny_plain_model)
    assert chat_enabled(config_for(tiny_model), chat)
    assert not chat_enabled(config_for(tiny_model, use_chat_template=False), chat)
    assert encode_prompt(config_for(tiny_model, use_chat_template=False), chat, "hi")[0] == "hi"
    assert not chat_enabled(config_for(tiny_plain_model), plain)
    with pytest.raises(ConfigError) as caught:
        chat_enabled(config_for(tiny_plain_model, use_chat_template=True), plain)
    assert caught.value.problems[0].path == "data.use_chat_template"


def test_a_prompt_is_rendered_with_its_history(tiny_model: Path, tiny_plain_model: Path) -> None:
    from toolkit.worker.tokens.examples import encode_prompt

    history = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    tokenizer = tokenizer_of(tiny_model)
    text, ids = encode_prompt(config_for(tiny_model), tokenizer, "three", system="be kind", history=history)
    assert text == (
        "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>\n"
        "<|im_start|>user\nthree<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.decode(ids) == text
    plain = encode_prompt(config_for(tiny_plain_model), tokenizer_of(tiny_plain_model), "three", history=history)
    assert plain[0] == "one\ntwo\nthree"


def test_a_tokenizer_without_eos_is_an_error(tiny_plain_model: Path) -> None:
    from toolkit.worker.tokens.labels import prepare_examples

    tokenizer = tokenizer_of(tiny_plain_model)
    tokenizer.eos_token = None
    with pytest.raises(ToolkitError, match="end-of-sequence"):
        prepare_examples(EXAMPLES, tokenizer, 10, chat=False)
