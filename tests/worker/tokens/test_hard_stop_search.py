"""Each blocking problem is found in data that was made for it, and none in clean data."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.training import ROOT, draft, events_of, make_run, make_table, rows, train_here
from toolkit.config import Config
from toolkit.data.examples.hard_stops import HARD_STOPS, Fault, hard_stop_problem, select_blocking
from toolkit.data.storage.open_table import open_table
from toolkit.runs.run_dir import list_runs, read_run_config
from toolkit.runs.status import read_run_status
from toolkit.settings.import_export import load_presets

pytestmark = pytest.mark.worker


class Quiet:
    def report_progress(self, phase: str, done: int = 0, total: int = 0) -> None:
        return


def found(
    folder: Path,
    model: Path,
    cells: list[dict[str, str | None]],
    prompt: str = "{question}\n",
    stub: str = "{answer}",
    data: Mapping[str, Any] | None = None,
    **sft: Any,
) -> dict[str, Fault]:
    """Return the answer of the background worker by kind."""
    from toolkit.worker.questions import hard_stops

    table = make_table(folder / "t.parquet", cells)
    config = {
        "data": {"prompt": prompt, "prompt_stub": stub, **(data or {})},
        "model": {"hf_model_ckpt": str(model)},
        "training": {"sft_args": {"max_seq_length": 200, **sft}},
    }
    hard_stops._CACHED_HARD_STOPS.clear()
    value = hard_stops.answer_hard_stops({"config": config, "table": str(table.path)}, Quiet())  # type: ignore[arg-type]
    return {fault.kind: fault for fault in (Fault.from_dict(body) for body in value["faults"])}


def tokens(model: Path, text: str) -> int:
    from toolkit.worker.models.load import load_tokenizer

    return len(load_tokenizer(Config.model_validate({"model": {"hf_model_ckpt": str(model)}}))(text)["input_ids"])


def test_settings_accept_the_names_of_all_acceptable_problems() -> None:
    from toolkit.field_types import ACCEPTABLE_HARD_STOPS
    from toolkit.worker.tokens.hard_stop_rules import HARD_STOP_RULES

    assert set(ACCEPTABLE_HARD_STOPS) == {name for name, kind in HARD_STOPS.items() if kind.can_be_accepted}
    assert set(HARD_STOPS) == {*HARD_STOP_RULES, "pad_hides_end", "template_rejects"}


def test_clean_rows_have_no_problems(tiny_model: Path, tiny_plain_model: Path, tmp_path: Path) -> None:
    assert found(tmp_path, tiny_model, rows(12)) == {}
    assert found(tmp_path, tiny_plain_model, rows(12)) == {}


@pytest.mark.parametrize("preset", load_presets(), ids=lambda preset: preset.title)
def test_bundled_presets_have_no_problems(preset: Any, tmp_path: Path) -> None:
    from toolkit.settings import import_export
    from toolkit.settings.ablation import expand_trials
    from toolkit.settings.yaml_file import read_config_text
    from toolkit.worker.questions import hard_stops

    imported = import_export.import_settings(read_config_text(preset.path))
    config = expand_trials(imported.draft, imported.grid)[0].config
    if not str(config.model.hf_model_ckpt).startswith("bundled:"):
        pytest.skip("its model is on the hub")
    table = open_table(config.data, tmp_path)
    body = {"config": config.model_dump(mode="json"), "table": str(table.path)}
    assert hard_stops.answer_hard_stops(body, Quiet())["faults"] == []  # type: ignore[arg-type]


def test_a_prompt_longer_than_the_limit_is_found(tiny_plain_model: Path, tmp_path: Path) -> None:
    cells = [*rows(3), {"question": "word " * 80, "answer": "yes"}]
    fault = found(tmp_path, tiny_plain_model, cells, max_seq_length=64)["prompt_too_long"]
    assert (fault.count, fault.rows, fault.can_be_accepted) == (1, (3,), True)
    assert "64 tokens" in fault.message
    assert "1 of 4 rows" in fault.message
    assert "max_seq_length" in fault.hint


def test_rows_without_a_trained_token_are_found(tiny_plain_model: Path, tmp_path: Path) -> None:
    question = "the quick brown fox jumps over"
    exact = tokens(tiny_plain_model, question + "\n")
    cells = [{"question": question, "answer": "dog"}, {"question": "a", "answer": "b"}]
    faults = found(tmp_path, tiny_plain_model, cells, max_seq_length=exact)
    assert set(faults) == {"nothing_trained"}
    assert faults["nothing_trained"].rows == (0,)


def test_a_second_bos_is_found(tiny_plain_model: Path, tmp_path: Path) -> None:
    faults = found(tmp_path, tiny_plain_model, rows(4), prompt="Say: <s>{question}\n")
    assert set(faults) == {"double_bos"}
    assert faults["double_bos"].count == 4
    assert "<s>" in faults["double_bos"].message
    # at the very beginning the preparation itself keeps one of the two
    assert found(tmp_path, tiny_plain_model, rows(4), prompt="<s>{question}\n") == {}


def marked_turns(folder: Path, model: Path, template: str) -> Path:
    """Copy a chat model whose BOS is the marker that opens a turn, as in SmolLM2-Instruct."""
    shutil.copytree(model, folder, dirs_exist_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["bos_token"] = "<|im_start|>"
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(template)
    return folder


EVERY_TURN = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
EVERY_QUESTION = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token }}[Q] {{ m['content'] }} [A]"
    "{% else %} {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)
ONCE = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{{ eos_token }}{% endfor %}"


@pytest.mark.parametrize("template", [EVERY_TURN, EVERY_QUESTION, ONCE], ids=["turn", "question", "once"])
def test_bos_tokens_of_the_chat_template_are_not_doubled(tiny_model: Path, tmp_path: Path, template: str) -> None:
    model = marked_turns(tmp_path / "model", tiny_model, template)
    turns = [[("user", f"question {i}"), ("assistant", f"answer {i}")] for i in range(4)]
    chats = [[turn for pair in turns[:size] for turn in pair] for size in (1, 2, 4)]
    if template == EVERY_TURN:
        chats.append([("system", "be brief"), *chats[1]])
        chats.append([("system", ""), *chats[0]])

    def asked(conversations: Sequence[Sequence[tuple[str, str]]]) -> dict[str, Fault]:
        cells: list[dict[str, str | None]] = [
            {"messages": json.dumps([{"role": role, "content": text} for role, text in each])} for each in conversations
        ]
        data = {"messages": "messages", "prompt": "", "prompt_stub": ""}
        return found(tmp_path, model, cells, data=data)

    assert asked(chats) == {}
    doubled = [*chats, [("user", "see <|im_start|>here"), ("assistant", "fine")]]
    fault = asked(doubled)["double_bos"]
    assert fault.rows == (len(chats),), "a BOS in the text of a message is one too many"
    assert found(tmp_path, model, rows(4)) == {}
    assert "double_bos" in found(tmp_path, model, rows(4), prompt="Say: <|im_start|>{question}\n")


def test_a_chat_template_that_begins_with_two_bos_tokens_is_found(tiny_model: Path, tmp_path: Path) -> None:
    model = marked_turns(tmp_path / "model", tiny_model, "{{ bos_token * 2 }}" + ONCE)
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    data = {"messages": "messages", "prompt": "", "prompt_stub": ""}
    assert "double_bos" in found(tmp_path, model, [{"messages": json.dumps(chat)}], data=data)
    assert "double_bos" in found(tmp_path, model, rows(2))


def test_a_truncated_end_is_found(tiny_plain_model: Path, tmp_path: Path) -> None:
    long = [{"question": f"tell {i}", "answer": "and so on " * 40} for i in range(4)]
    faults = found(tmp_path, tiny_plain_model, [*long, *rows(2)], max_seq_length=64)
    assert set(faults) == {"end_untrained"}
    assert faults["end_untrained"].rows == (0, 1, 2, 3)
    assert "</s>" in faults["end_untrained"].message
    # one answer that is cut off now and then is not what keeps a model from learning to stop
    assert found(tmp_path, tiny_plain_model, [*long[:1], *rows(6)], max_seq_length=64) == {}


def test_an_unfilled_placeholder_is_found(tiny_plain_model: Path, tmp_path: Path) -> None:
    faults = found(tmp_path, tiny_plain_model, rows(4), prompt="{question} about {{ Answer }}\n")
    assert set(faults) == {"placeholder"}
    assert "{ Answer }" in faults["placeholder"].message
    cells = [*rows(3), {"question": "Dear {question},", "answer": '{"name": "json is none"}'}]
    assert found(tmp_path, tiny_plain_model, cells)["placeholder"].rows == (3,)


def test_a_token_across_the_prompt_boundary_is_found(tiny_plain_model: Path, tmp_path: Path) -> None:
    cells = [{"question": "th", "answer": "e quick"}, {"question": "a!", "answer": "(b"}]
    faults = found(tmp_path, tiny_plain_model, cells, prompt="{question}")
    assert set(faults) == {"boundary_merged"}
    assert faults["boundary_merged"].rows == (0,)
    assert "line break" in faults["boundary_merged"].hint
    assert found(tmp_path, tiny_plain_model, cells) == {}, "the fix that is proposed works"


def test_a_chat_template_applied_twice_is_found(tiny_model: Path, tmp_path: Path) -> None:
    by_hand = "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    faults = found(tmp_path, tiny_model, rows(4), prompt=by_hand)
    assert set(faults) == {"template_twice"}
    assert faults["template_twice"].count == 4
    assert "<|im_start|>" in faults["template_twice"].message
    off = found(tmp_path, tiny_model, rows(4), prompt=by_hand, data={"use_chat_template": False})
    assert off == {}, "the fix that is proposed works"


def inspected(model: Path, completion_only: bool = True, collate: Any = None) -> dict[str, Fault]:
    """Run the inspector on rows whose labels train the completion only."""
    from toolkit.data.examples.templates import Example
    from toolkit.worker.models.load import load_tokenizer
    from toolkit.worker.tokens.hard_stop_rules import PromptFrame
    from toolkit.worker.tokens.hard_stop_search import HardStopInspector
    from toolkit.worker.tokens.labels import prepare_batches

    tokenizer = load_tokenizer(Config.model_validate({"model": {"hf_model_ckpt": str(model)}}))
    inspector = HardStopInspector(PromptFrame.of(tokenizer, False, 200, completion_only, ["question"]), collate)
    examples = [Example("short\n", "a"), Example("a longer one\n", "with an answer that pads the other")]
    list(prepare_batches(examples, tokenizer, 200, False, [], inspect=inspector))
    return {fault.kind: fault for fault in inspector.faults([10, 20])}


def test_a_mask_that_contradicts_its_setting_is_found(tiny_plain_model: Path) -> None:
    assert inspected(tiny_plain_model) == {}
    (fault,) = inspected(tiny_plain_model, completion_only=False).values()
    assert (fault.kind, fault.rows, fault.can_be_accepted) == ("mask_wrong", (10, 20), False)
    assert select_blocking([fault], ["mask_wrong"]) == [fault], "no one may accept that"


def test_padding_that_masks_the_end_is_found(tiny_plain_model: Path) -> None:
    """Use the collator of transformers for language modeling, with EOS as the padding token."""
    from transformers import DataCollatorForLanguageModeling

    from toolkit.worker.models.load import load_tokenizer

    tokenizer = load_tokenizer(Config.model_validate({"model": {"hf_model_ckpt": str(tiny_plain_model)}}))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    naive = DataCollatorForLanguageModeling(tokenizer, mlm=False)

    def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
        made = naive([{"input_ids": row["input_ids"]} for row in batch])
        for at, row in enumerate(batch):
            masked = sum(label == -100 for label in row["labels"])
            made["labels"][at, :masked] = -100
        return made  # type: ignore[no-any-return]

    (fault,) = inspected(tiny_plain_model, collate=collate).values()
    assert (fault.kind, fault.can_be_accepted) == ("pad_hides_end", False)
    assert "</s>" in fault.message

    def loses_the_mask(batch: list[dict[str, Any]]) -> dict[str, Any]:
        return dict(naive([{"input_ids": row["input_ids"]} for row in batch]))

    assert "mask_wrong" in inspected(tiny_plain_model, collate=loses_the_mask) or "pad_hides_end" in inspected(
        tiny_plain_model, collate=loses_the_mask
    )


def test_large_tables_are_sampled_and_report_the_number(
    tiny_plain_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.worker.questions import hard_stops

    monkeypatch.setattr(hard_stops, "HARD_STOP_SAMPLE_ROWS", 10)
    table = make_table(tmp_path / "t.parquet", rows(24))
    config = {
        "data": {"prompt": "{question}<s>\n", "prompt_stub": "{answer}"},
        "model": {"hf_model_ckpt": str(tiny_plain_model)},
    }
    hard_stops._CACHED_HARD_STOPS.clear()
    value = hard_stops.answer_hard_stops({"config": config, "table": str(table.path)}, Quiet())  # type: ignore[arg-type]
    assert (value["checked"], value["usable"]) == (10, 24)
    fault = Fault.from_dict(value["faults"][0])
    assert fault.count == 10
    assert list(fault.rows) == sorted(fault.rows)
    assert max(fault.rows) > 9, "rows of the table, not of the sample"


def test_a_run_fails_on_blocking_problems_unless_they_are_accepted(tiny_plain_model: Path, save_dir: Path) -> None:
    settings = draft(save_dir, tiny_plain_model, num_train_epochs=1)
    settings["data"]["prompt"] = "Say <s>{question}\n"
    refused = make_run(settings, rows(24))
    code, _ = train_here(refused)[:2]
    assert code == 1
    last = events_of(refused)[-1]
    assert (last["kind"], last["reason"]) == ("failed", "refused")
    assert "<s>" in last["message"]
    assert "--accept double_bos" in last["hint"]
    settings["data"]["accepted"] = ["double_bos"]
    meant = make_run(settings, rows(24))
    assert train_here(meant)[0] == 0
    assert any("This was accepted." in event["message"] for event in events_of(meant, "warning"))
    settings["data"]["accepted"] = None
    again = make_run(settings, rows(24))
    assert train_here(again)[0] == 1, "tokens that were kept under an acceptance are not another run's"


def test_the_command_line_stops_at_a_blocking_problem_unless_it_is_accepted(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.csv").write_text("question,answer\n" + "".join(f"q{i},a{i}\n" for i in range(8)))
    settings = draft(tmp_path / "experiments", tiny_model, num_train_epochs=1)
    templates = {"prompt": "{question} {{answer}}", "prompt_stub": "{answer}"}
    settings["data"] = {"path": str(tmp_path / "rows.csv"), **templates, "train_size": 6, "test_size": 2}
    (tmp_path / "config.yml").write_text(json.dumps(settings))
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))

    def toolkit_run(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "toolkit", "run", str(tmp_path / "config.yml"), *words]
        return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)

    refused = toolkit_run()
    assert refused.returncode == 1
    said = " ".join(refused.stderr.split())
    assert "In 8 of 8 rows the text contains {answer}, a placeholder that was not filled." in said
    assert "run with --accept placeholder" in said
    assert "Traceback" not in refused.stderr
    meant = toolkit_run("--accept", "placeholder")
    assert meant.returncode == 0, meant.stderr
    first, second = list_runs(tmp_path / "experiments")[::-1]
    assert [read_run_status(run).state for run in (first, second)] == ["failed", "finished"]
    assert (read_run_config(first).data.accepted, read_run_config(second).data.accepted) == (None, ["placeholder"])


def test_an_accepted_problem_is_a_warning_and_an_unknown_name_an_error() -> None:
    fault = Fault("placeholder", "It holds {x}.", "Fill it.", 1, (0,))
    assert hard_stop_problem(fault, []).severity == "error"
    assert "accept it" in hard_stop_problem(fault, []).hint
    assert hard_stop_problem(fault, ["placeholder"]).severity == "warning"
    with pytest.raises(ValueError, match="not a known value"):
        Config.model_validate({"data": {"accepted": ["whatever"]}})


ALTERNATING = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def with_template(model: Path, folder: Path, template: str) -> Path:
    """A copy of the model whose tokenizer has this chat template."""
    shutil.copytree(model, folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": template}))
    return folder


def talks(*rows_of: str) -> list[dict[str, str | None]]:
    """One row for each word such as "sua": system, user, assistant."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [
        {"messages": json.dumps([{"role": roles[letter], "content": f"{letter} {at}"} for letter in row])}
        for at, row in enumerate(rows_of)
    ]


def test_conversations_that_the_template_rejects_are_found_and_can_be_repaired(
    tiny_model: Path, tmp_path: Path
) -> None:
    from toolkit.data.chat_repairs import repair_cell

    model = with_template(tiny_model, tmp_path / "strict", ALTERNATING)
    cells = talks("ua", "uaua", "uua", "sua", "suua", "aua", "ua")
    data = {"messages": "messages"}
    fault = found(tmp_path, model, cells, data=data)["template_rejects"]
    assert (fault.rows, fault.count, fault.can_be_accepted) == ((2, 3, 4, 5), 4, False)
    assert fault.message.startswith(
        "4 of 7 rows are rejected by the model's chat template. Row 3: Roles must alternate"
    )
    assert fault.repairs == (("merge_turns", 1), ("move_system", 1), ("move_system_merge", 3))
    assert select_blocking([fault], ["template_rejects"]) == [fault]
    repaired = [{"messages": repair_cell(str(row["messages"]), "move_system_merge")} for row in cells]
    assert found(tmp_path, model, repaired, data=data)["template_rejects"].rows == (5,), "no repair for answers first"
    assert "template_rejects" not in found(tmp_path, model, [*repaired[:5], *repaired[6:]], data=data)


def test_what_the_template_does_not_write_is_found(tiny_model: Path, tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "find", "arguments": {"a": 1}}}
    tools = [{"type": "function", "function": {"name": "find", "parameters": {}}}]
    user, answer = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}
    rows_of: list[Any] = [
        [user, answer],
        [user, {**answer, "reasoning_content": "because"}],
        {"messages": [user, {"role": "assistant", "content": "", "tool_calls": [call]}], "tools": tools},
        [user, {**answer, "tool_calls": [call]}],
    ]
    cells: list[dict[str, str | None]] = [{"messages": json.dumps(row)} for row in rows_of]
    faults = found(tmp_path, tiny_model, cells, data={"messages": "messages"})
    assert {kind: fault.rows for kind, fault in faults.items() if kind.endswith("unwritten")} == {
        "tools_unwritten": (2,),
        "calls_unwritten": (2, 3),
        "reasoning_unwritten": (1,),
    }
    assert faults["calls_unwritten"].message == (
        "This model's chat template writes no tool calls, which 2 of 4 rows have."
    )


def test_rejected_conversations_outside_the_sample_are_found(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.worker.questions import hard_stops

    monkeypatch.setattr(hard_stops, "HARD_STOP_SAMPLE_ROWS", 10)
    monkeypatch.setattr(hard_stops, "OUTLINES_PER_STEP", 7)
    model = with_template(tiny_model, tmp_path / "strict", ALTERNATING)
    shapes = ["uua" if at in (3, 17, 39) else "ua" for at in range(40)]
    fault = found(tmp_path, model, talks(*shapes), data={"messages": "messages"})["template_rejects"]
    assert (fault.rows, fault.count) == ((3, 17, 39), 3)
    assert fault.message.startswith("3 of 40 rows are rejected")
    assert fault.repairs == (("merge_turns", 3),)


def test_the_token_view_of_a_rewritten_conversation(tiny_model: Path, tmp_path: Path) -> None:
    from toolkit.worker.questions.xray import answer_token_view

    forgetful = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% if loop.last and m['role'] == 'assistant' %}think {% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    model = with_template(tiny_model, tmp_path / "forgetful", forgetful)
    table = make_table(tmp_path / "t.parquet", talks("uauaua", "ua"))
    config = {"data": {"messages": "messages"}, "model": {"hf_model_ckpt": str(model)}}
    body = {"config": config, "table": str(table.path), "row": 0}
    value = answer_token_view(body, Quiet())  # type: ignore[arg-type]
    assert (value["rewritten"], value["left_out"], value["answers"]) == (2, False, [])
    assert value["trained"] > 0
    assert answer_token_view({**body, "row": 1}, Quiet())["rewritten"] == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("added", ["pad", "text"])
def test_an_id_beyond_the_embedding_matrix_is_found(tiny_model: Path, tmp_path: Path, added: str) -> None:
    """On a CPU such a run trained, and its test rows failed with an IndexError; unused tokens do no harm."""
    from transformers import AutoTokenizer

    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    known = len(tokenizer)
    tokenizer.add_tokens(["<order>", "<unused>"])
    if added == "pad":
        tokenizer.add_special_tokens({"pad_token": "<padding>"})
    tokenizer.save_pretrained(folder)
    cells = rows(6)
    assert ("unknown_id" in found(tmp_path, folder, cells)) is (added == "pad")
    cells[3]["answer"] = "an <order>"
    fault = found(tmp_path, folder, cells)["unknown_id"]
    number = len(tokenizer) - 1 if added == "pad" else len(tokenizer) - 2
    assert fault.count == (6 if added == "pad" else 1) and not fault.can_be_accepted
    assert f"(id {number:,})" in fault.message and f"embeddings for {known} ids only" in fault.message


PARTS, TEXT = "{% for part in m.content %}{{ part.text }}{% endfor %}", "{{ m.content }}"


@pytest.mark.parametrize(
    ("user", "assistant", "dropped"),
    [(PARTS, PARTS, "question"), (TEXT, PARTS, "answer"), ("{{ m.content | trim }}", TEXT, "")],
    ids=["content as a list of parts, like SmolVLM", "answers as parts", "trimmed"],
)  # fmt: skip
def test_a_template_that_drops_the_text_is_found(
    tiny_model: Path, tmp_path: Path, user: str, assistant: str, dropped: str
) -> None:
    """Every prompt was the same 13 tokens, and the run ended as Finished."""
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'user' %}" + user + "{% else %}" + assistant
        + "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )  # fmt: skip
    faults = found(tmp_path, folder, rows(6))
    assert ("text_dropped" in faults) is bool(dropped)
    if dropped:
        fault = faults["text_dropped"]
        assert f"leaves out the {dropped} of 6 of 6 rows" in fault.message and not fault.can_be_accepted
        assert found(tmp_path, folder, rows(6), data={"use_chat_template": False}) == {}, (
            "the fix that is proposed works"
        )
