"""Tokens of conversations, compared with the loss mask of TRL, and unusual chat templates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.training import draft, make_run, rows, train_here
from toolkit.data.chat_messages import Message
from toolkit.data.conversations import parse_conversation
from toolkit.data.examples.templates import Example
from toolkit.errors import ConfigError, ToolkitError
from toolkit.export.export_state import commit_hash, export_folder, export_job
from toolkit.export.prompt_contract import read_contract
from toolkit.runs.run_dir import RunDir, read_run_config
from toolkit.system.background_job import StateFileReporter
from toolkit.system.paths import ASSETS

pytestmark = pytest.mark.worker

CHATS = [
    [("user", "the quick fox"), ("assistant", "jumps over")],
    [("system", "be brief"), ("user", "12 lamps"), ("assistant", "to Anna"), ("user", "more 🦊"), ("assistant", "no")],
    [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", " spaced  answer ")],
    [("assistant", "who asks?"), ("user", "me"), ("assistant", "fine " * 40)],
]
FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if loop.last and m['role'] == 'assistant' %}think {% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chat(turns: Sequence[tuple[str, str]], silent: int | None = None) -> Example:
    messages = [{"role": role, "content": text} for role, text in turns]
    if silent is not None:
        messages[silent]["weight"] = 0  # type: ignore[assignment]
    found = parse_conversation(json.dumps(messages))
    return Example("", found[-1].content, found)


def tokenizer_of(folder: Path, **more: Any) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    for name, value in more.items():
        setattr(tokenizer, name, value)
    return tokenizer


def learned(tokenizer: Any, example: Example, length: int = 500) -> list[str]:
    """Return the texts of the trained spans."""
    from toolkit.worker.tokens.labels import prepare_examples

    (row,) = prepare_examples([example], tokenizer, length, chat=True).table.to_pylist()
    return trained_texts(tokenizer, row)


def trained_texts(tokenizer: Any, row: dict[str, Any]) -> list[str]:
    assert len(row["labels"]) == len(row["input_ids"])
    found: list[list[int]] = [[]]
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        assert label in (-100, token)
        if label == -100:
            found.append([])
        else:
            found[-1].append(token)
    return [tokenizer.decode(ids) for ids in found if ids]


def test_the_loss_mask_equals_that_of_trl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    from toolkit.worker.tokens.labels import prepare_examples

    monkeypatch.chdir(tmp_path)
    folder = ASSETS / "demo-model"  # its template marks the answers
    tokenizer = tokenizer_of(folder)
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder),
        args=SFTConfig(
            use_cpu=True, bf16=False, report_to="none", output_dir="out", max_length=64, assistant_only_loss=True
        ),
        train_dataset=Dataset.from_list(
            [{"messages": [{"role": role, "content": text} for role, text in turns]} for turns in CHATS]
        ),
        processing_class=tokenizer,
    )
    ours = prepare_examples([chat(turns) for turns in CHATS], tokenizer, 64, chat=True).table.to_pylist()
    for row, theirs in zip(ours, trainer.train_dataset, strict=True):
        masked = theirs.get("assistant_masks")
        labels = (
            theirs["labels"]
            if masked is None
            else [token if keep else -100 for token, keep in zip(theirs["input_ids"], masked, strict=True)]
        )
        assert row["input_ids"] == theirs["input_ids"][:64]
        assert row["labels"] == labels[:64]


def test_every_answer_is_trained_with_its_end_token(tiny_model: Path) -> None:
    tokenizer = tokenizer_of(tiny_model)
    assert learned(tokenizer, chat(CHATS[1])) == ["to Anna<|im_end|>\n", "no<|im_end|>\n"]
    assert learned(tokenizer, chat(CHATS[3])) == ["who asks?<|im_end|>\n", "fine " * 40 + "<|im_end|>\n"]
    assert learned(tokenizer, chat(CHATS[1], silent=2)) == ["no<|im_end|>\n"]
    assert learned(tokenizer, chat(CHATS[1], silent=4)) == ["to Anna<|im_end|>\n"], (
        "messages after the last trained one are not used"
    )


def test_a_single_question_equals_prompt_and_completion(tiny_model: Path) -> None:
    from toolkit.worker.tokens.labels import prepare_examples

    tokenizer = tokenizer_of(tiny_model)
    pairs = [Example("the quick fox", "jumps over"), Example("emoji 🦊", " spaced\n"), Example("x", "y" * 300)]
    chats = [chat([("user", e.prompt), ("assistant", e.completion)]) for e in pairs]
    for length in (16, 40, 400):
        ours, theirs = (prepare_examples(examples, tokenizer, length, chat=True) for examples in (chats, pairs))
        assert ours.table.to_pylist() == theirs.table.to_pylist()
        assert ours.lost == theirs.lost


def test_rewritten_answers_are_trained_as_the_model_writes_them_in_a_chat(tiny_model: Path) -> None:
    from toolkit.worker.tokens.labels import prepare_examples

    tokenizer = tokenizer_of(tiny_model, chat_template=FORGETFUL)
    turns = [*CHATS[1], ("user", "and"), ("assistant", "yes")]
    table = prepare_examples([chat(CHATS[0]), chat(turns)], tokenizer, 500, chat=True).table.to_pylist()
    assert [row["row"] for row in table] == [0, 1, 1, 1], "each rewritten answer has a sequence that ends after it"
    found = [trained_texts(tokenizer, row) for row in table[1:]]
    assert found == [["think to Anna<|im_end|>\n"], ["think no<|im_end|>\n"], ["think yes<|im_end|>\n"]]
    second = tokenizer.decode(table[2]["input_ids"])
    assert "assistant\nto Anna" in second and "think to Anna" not in second, "earlier answers as a chat shows them"
    assert learned(tokenizer, chat(CHATS[1], silent=2)) == ["think no<|im_end|>\n"]


def test_truncation_keeps_the_beginning_and_counts_lost_rows(tiny_model: Path) -> None:
    from toolkit.worker.tokens.labels import prepare_examples

    tokenizer = tokenizer_of(tiny_model)
    whole = prepare_examples([chat(turns) for turns in CHATS], tokenizer, 500, chat=True).table.to_pylist()
    cut = prepare_examples([chat(turns) for turns in CHATS], tokenizer, 20, chat=True)
    for row in cut.table.to_pylist():
        assert row["labels"] == whole[row["row"]]["labels"][:20]
        assert row["truncated"] == (len(whole[row["row"]]["labels"]) > 20)
    assert cut.rows + len(cut.lost) == len(CHATS)
    assert cut.lost


def test_conversations_need_a_chat_template(tiny_plain_model: Path) -> None:
    from toolkit.config import Config
    from toolkit.worker.tokens.examples import chat_enabled

    config = Config.model_validate({"data": {"messages": "messages"}})
    with pytest.raises(ConfigError, match="Training on conversations needs one"):
        chat_enabled(config, tokenizer_of(tiny_plain_model))


def test_a_rejected_conversation_is_named(tiny_model: Path) -> None:
    strict = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('users come first') }}{% endif %}" + FORGETFUL
    with pytest.raises(ToolkitError, match="users come first") as caught:
        learned(tokenizer_of(tiny_model, chat_template=strict), chat(CHATS[3]))
    assert "assistant, user, assistant" in caught.value.message


def test_a_run_trains_on_conversations(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    cells: list[dict[str, str | None]] = [
        {
            "messages": json.dumps(
                [
                    {"role": "user", "content": "hello"},
                    {"role": "assistant", "content": "what?", "weight": 0},
                    {"role": "user", "content": str(row["question"])},
                    {"role": "assistant", "content": str(row["answer"])},
                ]
            )
        }
        for row in rows(24)
    ]
    settings = draft(tmp_path / "save", tiny_model)
    settings["data"]["messages"] = "messages"
    settings["training"]["sft_args"]["max_seq_length"] = 200
    run = make_run(settings, cells)
    code, events = train_here(run)
    assert code == 0, events[-1]
    lines = [json.loads(line) for line in (run.evaluation_dir / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 5
    assert {line["expected"] for line in lines} <= {str(row["answer"]) for row in rows(24)}
    assert lines[0]["prompt"].startswith("user: hello\n\nassistant: what?\n\nuser: order")
    _an_export_holds_to_its_conversations(run, tiny_model)


def _an_export_holds_to_its_conversations(run: RunDir, model: Path) -> None:
    from toolkit.worker.export import make_export
    from toolkit.worker.exporting.modelfile import make_modelfile
    from toolkit.worker.replay import certify_export

    contract = read_contract(run.adapter_dir)
    said = contract.template
    assert (said.prompt, said.completion, said.messages) == ("", "", "messages"), "unused templates are not named"
    assert all(golden.text.endswith("<|im_start|>assistant\n") for golden in contract.golden)
    run.exports_dir.mkdir(exist_ok=True)
    make_export(run, "adapter", StateFileReporter(export_job(run, "adapter")))
    certificate = certify_export(run, "adapter", contract, commit_hash(export_folder(run, "adapter")))
    assert certificate.passed, [one.detail for one in certificate.failures]
    text = make_modelfile(read_run_config(run), contract, tokenizer_of(model))
    assert '<|im_start|>assistant\n{{ .Response }}<|im_end|>\n"""' in text
    card = (export_folder(run, "adapter") / "README.md").read_text()
    assert "conversations: column `messages`" in card
    assert "{question}" not in card, "a template that was not used is not in it"


def test_the_prompt_of_the_last_message_has_all_earlier_messages(tiny_model: Path) -> None:
    from toolkit.config import Config
    from toolkit.worker.tokens.examples import encode_example_prompt

    tokenizer = tokenizer_of(tiny_model)
    asked = tokenizer.decode(encode_example_prompt(Config(), tokenizer, "", chat(CHATS[1]).turns)[1])
    assert asked.endswith("more 🦊<|im_end|>\n<|im_start|>assistant\n")
    assert "to Anna" in asked
    turns = (Message("user", "hi"), Message("assistant", "ho", learned=True))
    plain = encode_example_prompt(Config(), tokenizer, "hi")[1]
    assert encode_example_prompt(Config(), tokenizer, "", turns)[1] == plain


def test_an_evaluation_asks_for_the_last_message(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.evaluation import evaluation_dir
    from toolkit.evaluation.questions import _test_row_questions

    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    turns = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    cells: list[dict[str, str | None]] = [{"messages": json.dumps(turns * (1 + i % 2))} for i in range(24)]
    settings = draft(tmp_path / "save", tiny_model)
    settings["data"]["messages"] = "messages"
    run = make_run(settings, cells)
    found = _test_row_questions(run, read_run_config(run), evaluation_dir.EvaluationSpec(source="test", rows=3))
    assert [question.expected for question in found] == ["two"] * 3
    assert {len(question.turns) for question in found} <= {2, 4}
    assert not any(question.error for question in found)
