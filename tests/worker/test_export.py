"""Exports of small runs: each passes its certificate untouched, and every kind of tampering breaks it."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.engine_runs import write_adapter
from tests.fakes.training import draft, make_run, train_here
from toolkit.errors import ToolkitError
from toolkit.export.adapter_archive import zip_export
from toolkit.export.export_forms import EXPORT_FORMS
from toolkit.export.export_process import export_to_end, start_export
from toolkit.export.export_state import commit_hash, export_folder, export_job, read_export_state
from toolkit.export.parity_certificate import Certificate
from toolkit.export.prompt_contract import CONTRACT_FILE, read_contract, read_reference_contract
from toolkit.export.usage_recipes import list_usage_recipes
from toolkit.runs.run_dir import RunDir, read_run_config
from toolkit.system.background_job import StateFileReporter
from toolkit.system.durable import commit_dir

pytestmark = pytest.mark.worker
MERGED = "merged-bf16"


@pytest.fixture(scope="module", params=["chat", "plain"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def run(kind: str, tiny_model: Path, tiny_plain_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run with a strong random adapter, older than contracts; its model has a chat template, or a BOS of its own."""
    place = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTK_STATE_DIR", str(place / "state"))
        made = make_run(draft(place / "save", tiny_model if kind == "chat" else tiny_plain_model))
        write_adapter(made, read_run_config(made), 1)
        for form in ("adapter", MERGED, "merged-fp16"):
            build(made, form)
    return made


def build(run: RunDir, form: str) -> None:
    from toolkit.worker.export import make_export

    run.exports_dir.mkdir(exist_ok=True)
    make_export(run, form, StateFileReporter(export_job(run, form)))


def verdict(run: RunDir, form: str) -> Certificate:
    from toolkit.worker.replay import certify_export

    contract = read_reference_contract(run)
    assert contract is not None
    return certify_export(run, form, contract, commit_hash(export_folder(run, form)))


def failed(certificate: Certificate) -> set[str]:
    return {check.name for check in certificate.failures}


@pytest.fixture
def tampered(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Change the merged export by a function of its folder, with a commit that covers the change up; undone after."""
    monkeypatch.setenv("FTK_STATE_DIR", str(run.save_dir.parent / "state"))
    folder = export_folder(run, MERGED)
    kept = run.exports_dir / "kept"
    shutil.copytree(folder, kept)

    def tamper(change: Callable[[Path], None]) -> Certificate:
        staging = run.exports_dir / ".tampered"
        shutil.copytree(folder, staging)
        change(staging)
        (staging / "COMMIT.json").unlink()
        commit_dir(staging, folder, {})
        return verdict(run, MERGED)

    yield tamper
    shutil.rmtree(folder)
    kept.rename(folder)


@pytest.mark.parametrize("form", ["adapter", MERGED, "merged-fp16"])
def test_an_untouched_export_passes(run: RunDir, form: str) -> None:
    certificate = verdict(run, form)
    assert certificate.passed, certificate.failures
    assert len(certificate.rows) == 8 and all(row.ids_equal and row.answer_equal for row in certificate.rows)
    assert {"token ids identical", "log-probability drift", "greedy answers equal"} <= {
        check.name for check in certificate.checks
    }


def test_the_contract_describes_prompts_and_tokens(run: RunDir, kind: str) -> None:
    contract = read_reference_contract(run)
    assert contract is not None and contract.made == "export" and len(contract.golden) == 8
    assert contract.chat is (kind == "chat") and bool(contract.chat_template_sha256) is (kind == "chat")
    assert contract.special_tokens.bos_added is (kind == "plain") and not contract.special_tokens.eos_added
    assert {golden.split for golden in contract.golden} == {"test", "train"}  # the split holds five rows
    for golden in contract.golden:
        assert golden.prompt == golden.cells["question"] and golden.prompt in golden.text
        assert len(golden.logprobs) == len(golden.margins) == len(golden.answer_ids) > 0
        assert max(golden.logprobs) <= 0 <= min(golden.margins)


def test_another_template_breaks_it(tampered: Any) -> None:
    def change(folder: Path) -> None:
        body = json.loads((folder / CONTRACT_FILE).read_text())
        body["template"]["prompt"] = "Question: {question}"
        (folder / CONTRACT_FILE).write_text(json.dumps(body))

    certificate = tampered(change)
    assert {"prompt template", "token ids identical"} <= failed(certificate)
    assert "instead of" in next(c.detail for c in certificate.failures if c.name == "token ids identical")


@pytest.mark.parametrize("kind", ["chat"], indirect=True, scope="module")
def test_another_chat_template_breaks_it(tampered: Any) -> None:
    def change(folder: Path) -> None:
        path = folder / "chat_template.jinja"
        path.write_text(path.read_text().replace("<|im_end|>\n", "<|im_end|>"))

    assert {"chat template", "token ids identical"} <= failed(tampered(change))


@pytest.mark.parametrize("kind", ["plain"], indirect=True, scope="module")
def test_another_bos_policy_breaks_it(tampered: Any) -> None:
    def change(folder: Path) -> None:
        body = json.loads((folder / "tokenizer.json").read_text())
        body["post_processor"] = None
        (folder / "tokenizer.json").write_text(json.dumps(body))

    certificate = tampered(change)
    assert {"special tokens", "token ids identical"} <= failed(certificate)
    assert "bos_added True became False" in certificate.failures[0].detail


def test_another_end_token_breaks_it(tampered: Any) -> None:
    def change(folder: Path) -> None:
        body = json.loads((folder / "generation_config.json").read_text())
        (folder / "generation_config.json").write_text(json.dumps({**body, "eos_token_id": 7}))

    assert "special tokens" in failed(tampered(change))


def test_a_merged_model_stops_where_training_ended_answers(tiny_model: Path, save_dir: Path, tmp_path: Path) -> None:
    """A base model that is trained to end turns with <|im_end|>, while its own config names another end."""
    from transformers import AutoConfig, GenerationConfig

    model = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    for name in ("config.json", "generation_config.json"):
        body = json.loads((model / name).read_text())
        (model / name).write_text(json.dumps({**body, "eos_token_id": 0}))
    made = make_run(draft(save_dir, model))
    write_adapter(made, read_run_config(made), 1)
    build(made, MERGED)
    folder = export_folder(made, MERGED)
    assert GenerationConfig.from_pretrained(folder).eos_token_id == [2, 0]
    assert AutoConfig.from_pretrained(folder).eos_token_id == 2
    assert verdict(made, MERGED).passed
    (path,) = [recipe for recipe in _recipes(made, "adapter") if recipe.language == "python"]
    assert "eos_token_id=tokenizer.eos_token_id" in path.text


def _recipes(run: RunDir, form: str) -> list[Any]:
    from toolkit.export.usage_recipes import list_usage_recipes

    return list_usage_recipes(run, read_run_config(run), EXPORT_FORMS[form], "here", chat=True)


def test_an_unmerged_layer_breaks_it(tampered: Any, run: RunDir) -> None:
    import safetensors.torch

    def change(folder: Path) -> None:
        base = safetensors.torch.load_file(Path(str(read_run_config(run).model.hf_model_ckpt)) / "model.safetensors")
        weights = safetensors.torch.load_file(folder / "model.safetensors")
        name = "model.layers.1.mlp.down_proj.weight"
        assert not (weights[name] == base[name].to(weights[name].dtype)).all()
        weights[name] = base[name].to(weights[name].dtype)
        safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    assert "log-probability drift" in failed(tampered(change))


def test_coarser_weights_break_it(tampered: Any) -> None:
    import safetensors.torch
    import torch

    def change(folder: Path) -> None:
        weights = safetensors.torch.load_file(folder / "model.safetensors")
        rounded = {name: w.to(torch.float8_e5m2).to(torch.bfloat16) for name, w in weights.items()}
        safetensors.torch.save_file(rounded, folder / "model.safetensors", metadata={"format": "pt"})

    assert "log-probability drift" in failed(tampered(change))


def test_weights_of_another_precision_break_it(tampered: Any) -> None:
    import safetensors.torch
    import torch

    def change(folder: Path) -> None:
        weights = safetensors.torch.load_file(folder / "model.safetensors")
        whole = {name: w.to(torch.float16) for name, w in weights.items()}
        safetensors.torch.save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})

    certificate = tampered(change)
    assert "weights' precision" in failed(certificate) and "float16" in certificate.failures[0].detail


def test_changed_files_are_not_loaded(run: RunDir) -> None:
    path = export_folder(run, MERGED) / "chat_template.jinja"
    path = path if path.exists() else export_folder(run, MERGED) / "tokenizer.json"
    before = path.read_bytes()
    path.write_bytes(before + b" ")
    try:
        certificate = verdict(run, MERGED)
    finally:
        path.write_bytes(before)
    assert failed(certificate) == {"files as committed"} and path.name in certificate.failures[0].detail


def test_the_download_contains_what_is_needed_and_no_pickle(run: RunDir) -> None:
    (run.adapter_dir / "training_args.bin").write_bytes(b"a pickle with a token")
    with zipfile.ZipFile(io.BytesIO(zip_export(export_folder(run, "adapter")))) as archive:
        names = set(archive.namelist())
        card = archive.read("README.md").decode()
    (run.adapter_dir / "training_args.bin").unlink()
    assert {"adapter_model.safetensors", "adapter_config.json", CONTRACT_FILE, "tokenizer.json", "README.md"} <= names
    assert not [name for name in names if not name.endswith((".json", ".safetensors", ".jinja", ".md", ".png", ".yml"))]
    assert "library_name: peft" in card and "{question}" in card and "order lamp" not in card
    with zipfile.ZipFile(io.BytesIO(zip_export(export_folder(run, MERGED)))) as archive:
        assert {"model.safetensors", "config.json", "tokenizer.json", CONTRACT_FILE} <= set(archive.namelist())
        assert "COMMIT.json" not in archive.namelist()


def test_the_python_code_of_the_page_runs_as_it_stands(run: RunDir, tmp_path: Path) -> None:
    """In a fresh process that knows nothing of this project; both exports in one, because its imports take long."""
    contract = read_reference_contract(run)
    assert contract is not None
    snippets = []
    for form in ("adapter", MERGED):
        place = str(export_folder(run, form))
        recipes = list_usage_recipes(run, read_run_config(run), EXPORT_FORMS[form], place, chat=contract.chat)
        (snippet,) = [recipe.text for recipe in recipes if recipe.language == "python"]
        (tmp_path / f"{form}.py").write_text(snippet)
        snippets.append(f"runpy.run_path({f'{form}.py'!r}); print('done')")
    script = f"import runpy; {'; '.join(snippets)}"
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.count("done") == 2


def test_the_files_can_be_read_by_transformers_4(run: RunDir) -> None:
    merged = export_folder(run, MERGED)
    settings = json.loads((merged / "config.json").read_text())
    assert settings["rope_theta"] == settings["rope_parameters"]["rope_theta"]
    folders = (export_folder(run, "adapter"), merged)
    for content in [(folder / "tokenizer_config.json").read_bytes() for folder in folders]:
        assert json.loads(content)["tokenizer_class"] == "PreTrainedTokenizerFast"
        assert not isinstance(json.loads(content).get("extra_special_tokens"), list)


def test_merging_into_a_quantized_base_uses_the_weights_of_training(tiny_model: Path, save_dir: Path) -> None:
    settings = draft(save_dir, tiny_model)
    settings["model"].update(quantize=True, bitsandbytes={"load_in_4bit": True}, device_map="cpu")
    run = make_run(settings)
    write_adapter(run, read_run_config(run), 3)
    for form in ("adapter", MERGED):
        build(run, form)
        certificate = verdict(run, form)
        assert certificate.passed, certificate.failures
    assert "quantization_config" not in json.loads((export_folder(run, MERGED) / "config.json").read_text())


@pytest.mark.parametrize("bits", [4, 8])
def test_the_adapter_of_a_quantized_run_answers_exactly_as_in_training(
    tiny_model: Path, save_dir: Path, bits: int
) -> None:
    """TRL trains it in bfloat16, and PEFT would load it in float32."""
    settings = draft(save_dir, tiny_model)
    how = {"load_in_4bit": bits == 4, "load_in_8bit": bits == 8}
    settings["model"].update(quantize=True, bitsandbytes=how, device_map="cpu")
    run = make_run(settings)
    code, events = train_here(run)
    assert code == 0, events[-1]
    contract = read_contract(run.adapter_dir)
    assert contract.adapter_precision == "bfloat16" and contract.precision == "float32" and contract.quantized
    build(run, "adapter")
    certificate = verdict(run, "adapter")
    assert certificate.passed and certificate.drift == 0.0, certificate.failures
    assert "adapter's precision" in {check.name for check in certificate.checks}


def test_the_demo_is_trained_exported_and_checked_in_separate_processes(save_dir: Path) -> None:
    from toolkit.config import Config
    from toolkit.data.storage.open_table import open_table
    from toolkit.runs.run_dir import create_run

    config = Config.model_validate({"save_dir": str(save_dir), "data": {"train_size": 64, "test_size": 16}})
    run = create_run(config, open_table(config.data, save_dir))
    code, events = train_here(run)
    assert code == 0, events[-1]
    contract = read_contract(run.adapter_dir)
    assert contract.made == "training" and [golden.split for golden in contract.golden] == ["test"] * 8
    phases: list[str] = []
    quantized = {key for key, form in EXPORT_FORMS.items() if form.quantized}
    with pytest.raises(ToolkitError, match="in a way that llama"):
        build(run, "gguf-q8")
    for form in sorted(set(EXPORT_FORMS) - {MERGED} - quantized):
        build(run, form)
        assert verdict(run, form).passed, form
    end = export_to_end(run, MERGED, lambda state: phases.append(state.phase))
    assert end.state == "passed", (end.message, end.certificate and end.certificate.failures)
    assert end.bytes > 0
    assert "checking it against the golden prompts" in phases
    card = (export_folder(run, MERGED) / "README.md").read_text()
    assert "exact match, 16 rows (95 % interval)" in card and "![Loss by step](curves.png)" in card
    assert (export_folder(run, MERGED) / "curves.png").read_bytes().startswith(b"\x89PNG")
    (export_folder(run, MERGED) / "config.json").write_text("{}")
    assert read_export_state(run, MERGED).state == "passed"  # until somebody looks
    start_export(run, MERGED, check_only=True).wait()
    assert read_export_state(run, MERGED).state == "broken"


def test_the_modelfile_has_the_prompt_format_of_training(run: RunDir, kind: str) -> None:
    from toolkit.worker.exporting.modelfile import make_modelfile
    from toolkit.worker.models.load import load_tokenizer

    contract = read_reference_contract(run)
    assert contract is not None
    config = read_run_config(run)
    text = make_modelfile(config, contract, load_tokenizer(config, export_folder(run, MERGED)))
    template = text.split('"""')[1]
    plain = template.split("{{ else }}")[1].replace("{{ end }}", "") if "{{ else }}" in template else template
    golden = contract.golden[0]
    assert plain.replace("{{ .Prompt }}", golden.prompt) == golden.text
    if kind == "chat":
        with_system = template.split("{{ else }}")[0].removeprefix("{{ if .System }}")
        assert "<|im_start|>system\n{{ .System }}<|im_end|>\n<|im_start|>user\n" in with_system
    assert f'PARAMETER stop "{"<|im_end|>" if kind == "chat" else "</s>"}"' in text
    assert "FROM ./model.gguf" in text and "PARAMETER temperature 0" in text


def test_an_installed_converter_is_used_and_its_error_is_reported(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.worker.exporting import gguf

    folder = tmp_path / "out"
    shutil.copytree(export_folder(run, MERGED), folder)
    config, contract = read_run_config(run), read_reference_contract(run)
    assert contract is not None
    special = contract.special_tokens
    monkeypatch.setattr(gguf, "find_unwritable", lambda settings: "it is of another family")
    assert "another family" in gguf.convert_to_gguf(config, folder, special, "float16")
    assert (folder / "model.safetensors").exists(), "without a converter nothing changes"
    (tmp_path / "convert_hf_to_gguf.py").write_text("raise NotImplementedError('tokenizer of another planet')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ToolkitError, match="tokenizer of another planet"):
        gguf.convert_to_gguf(config, folder, special, "float16")
    code = "import sys, pathlib\npathlib.Path(sys.argv[sys.argv.index('--outfile') + 1]).write_bytes(b'GGUF')"
    (tmp_path / "convert_hf_to_gguf.py").write_text(code)
    gguf.convert_to_gguf(config, folder, special, "float16")
    assert (folder / "model.gguf").read_bytes() == b"GGUF" and not list(folder.glob("*.safetensors"))
