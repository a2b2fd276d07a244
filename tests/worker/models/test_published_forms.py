"""Forms in which models are published that came out wrong: dates, dropped texts, weights and configs that don't fit."""

from __future__ import annotations

import datetime
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.engine_runs import finished_run, write_adapter
from tests.fakes.training import draft, make_run, make_table, rows
from tests.worker.test_export import build, verdict
from toolkit.config import Config
from toolkit.errors import ToolkitError
from toolkit.export.prompt_contract import read_reference_contract
from toolkit.runs.run_dir import read_run_config

pytestmark = pytest.mark.worker
DATED = "{{ '<|im_start|>' + strftime_now('%d %b %Y %H') + '\\n' }}"


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


class Tomorrow(datetime.datetime):
    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return super().now(tz) + datetime.timedelta(days=1)


def test_an_export_of_a_template_with_a_date_passes_on_another_day(
    save_dir: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.utils import chat_template_utils

    template = copy / "chat_template.jinja"
    template.write_text(DATED + template.read_text())
    run = make_run(draft(save_dir, copy))
    write_adapter(run, read_run_config(run), 1)
    build(run, "adapter")
    contract = read_reference_contract(run)
    assert contract is not None and contract.rendered is not None
    assert contract.golden[0].text.startswith(f"<|im_start|>{contract.rendered:%d %b %Y %H}\n")
    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    certificate = verdict(run, "adapter")
    assert certificate.passed, certificate.failures


def test_a_system_message_that_the_template_leaves_out_is_refused(save_dir: Path, copy: Path) -> None:
    from toolkit.worker.serving.engine import Engine
    from toolkit.worker.serving.request_models import RequestError, RequestMessage

    template = copy / "chat_template.jinja"
    whole = template.read_text()
    asked = [RequestMessage(role="system", content=" be brief "), RequestMessage(role="user", content="a")]
    run = finished_run(save_dir, copy)
    engine = Engine.load(save_dir, run.id, lambda phase: None)
    form = engine.config_for_model(run.id)
    engine.tokenizer.chat_template = (
        "{% for message in messages if message['role'] != 'system' %}" + whole.split("%}", 1)[1]
    )
    with pytest.raises(RequestError, match="leaves out the system message") as caught:
        engine.encode_messages(form, asked)
    assert "first user message" in caught.value.hint
    engine.encode_messages(form, asked[1:])
    quoted = [RequestMessage(role="system", content='say "yes"'), asked[1]]
    for written in ("message['content'] | tojson", "message['content'] | trim"):  # in another form, but written
        engine.tokenizer.chat_template = whole.replace("message['content']", written)
        text, _ = engine.encode_messages(form, quoted)
        assert "yes" in text


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"vocab_size": 777}, "have other sizes than its config.json says"),
        ({"intermediate_size": 64}, "have other sizes than its config.json says"),
        ({"max_position_embeddings": 1024.0}, "expected int, got float (value: 1024.0)"),
        ({"hidden_size": "64"}, "expected int, got str"),
    ],
)
def test_a_config_that_does_not_fit_is_explained(copy: Path, changes: dict[str, Any], says: str) -> None:
    from toolkit.worker.models.load import load_base_model

    change_json(copy / "config.json", **changes)
    with pytest.raises(ToolkitError) as caught:
        load_base_model(Config.model_validate({"model": {"hf_model_ckpt": str(copy), "device_map": "cpu"}}))
    assert says in caught.value.message and "bug" not in caught.value.hint


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("consolidated.safetensors", "but consolidated.safetensors"),
        ("model-00001-of-00001.safetensors", "no index of its parts, but model-00001"),
        ("model.fp16.safetensors", "but model.fp16.safetensors"),
        ("pytorch_model.bin", "has no safetensors weights"),
    ],
)
def test_weights_that_can_not_be_loaded_are_told_before_start(copy: Path, tmp_path: Path, name: str, says: str) -> None:
    from toolkit.worker.questions.dataset_subject import open_tokenized_dataset

    (copy / "model.safetensors").rename(copy / name)
    table = make_table(tmp_path / "t.parquet", rows(4))
    body = {
        "config": {"model": {"hf_model_ckpt": str(copy)}, "data": {"prompt": "{question}"}},
        "table": str(table.path),
    }
    with pytest.raises(ToolkitError) as caught:
        open_tokenized_dataset(body, lambda phase: None)
    assert says in caught.value.message


@pytest.mark.parametrize("family", ["llama4_text", "phimoe"])
def test_routers_that_return_several_tensors_get_no_adapter(family: str) -> None:
    import torch
    from peft import get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    from benchmarks.tiny_families import LOCAL, ROTARY, SHAPE
    from toolkit.worker.models.lora_setup import build_lora_config

    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    settings = {**SHAPE, **ROTARY, **LOCAL, **special, "vocab_size": 40}
    if family == "llama4_text":
        settings |= {"head_dim": 16, "intermediate_size_mlp": 64}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings))
    config = Config.model_validate({"lora": {"target_modules": ["all-linear"], "exclude_modules": ["o_proj"]}})
    peft = get_peft_model(model, build_lora_config(config, model))
    adapted = {name.split(".lora_")[0].split(".")[-1] for name, _ in peft.named_parameters() if ".lora_" in name}
    assert {"q_proj", "v_proj"} <= adapted and not {"router", "o_proj"} & adapted
    assert peft(torch.tensor([[3, 4, 5]])).logits.shape == (1, 3, 40)


@pytest.mark.parametrize(
    ("settings", "extra", "chat"),
    [
        ({"chat_template": None}, "", False),
        ({"chat_template": "{{ messages }}"}, "", True),
        ({"chat_template": [{"name": "default", "template": "x"}]}, "", True),
        ({}, "chat_template.jinja", True),
        ({}, "additional_chat_templates/tool_use.jinja", True),
        ({}, "", False),
    ],
)
def test_the_forecast_sees_a_chat_template_where_the_tokenizer_does(
    copy: Path, settings: dict[str, Any], extra: str, chat: bool
) -> None:
    from toolkit.forecast.base_model_files import find_chat_template
    from toolkit.worker.models.load import load_tokenizer

    (copy / "chat_template.jinja").unlink()
    change_json(copy / "tokenizer_config.json", **settings)
    if extra:
        (copy / extra).parent.mkdir(exist_ok=True)
        (copy / extra).write_text("{{ messages }}")
    config = Config.model_validate({"model": {"hf_model_ckpt": str(copy)}})
    assert find_chat_template(config) is chat
    assert bool(load_tokenizer(config).chat_template) is chat


@pytest.mark.parametrize(("ends", "special"), [(1, True), ([1, 5], True), (1, False), (None, True), ([], True)])
def test_a_tokenizer_without_an_end_takes_that_of_its_model(copy: Path, ends: Any, special: bool) -> None:
    """Folders with a tokenizer.json alone have it in config.json only; an id of a word is not taken for it."""
    from tokenizers import Tokenizer

    from toolkit.worker.models.load import load_tokenizer
    from toolkit.worker.models.tokenizer_files import save_tokenizer

    word = Tokenizer.from_file(str(copy / "tokenizer.json"))
    end = json.loads((copy / "config.json").read_text())["eos_token_id"]
    other = next(number for number in range(50, 99) if number not in word.get_added_tokens_decoder())
    first = end if special else other
    found = special and ends in (1, [1, 5])
    wanted = {1: first}.get(ends, ends) if not isinstance(ends, list) else [{1: first}.get(one, one) for one in ends]
    change_json(copy / "config.json", eos_token_id=wanted, bos_token_id=first if found else None)
    (copy / "tokenizer_config.json").unlink()
    tokenizer = load_tokenizer(Config.model_validate({"model": {"hf_model_ckpt": str(copy)}}))
    assert tokenizer.eos_token_id == (end if found else None)
    assert tokenizer.bos_token_id == tokenizer.eos_token_id, "templates begin with it"
    if found:
        save_tokenizer(tokenizer, copy / "saved")
        assert json.loads((copy / "saved" / "tokenizer_config.json").read_text())["eos_token"] == tokenizer.eos_token
