"""GGUF files of the families that people play: certified, and played by llama.cpp where it is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.tiny_families import TEXTS, save_tiny_model
from tests.fakes.engine_runs import write_adapter
from tests.fakes.training import ROOT, draft, make_run, rows
from tests.worker.test_export import build, failed, verdict
from toolkit.errors import ToolkitError
from toolkit.export import gguf_ladder
from toolkit.export.export_forms import GGUF_PROBLEM_FILE
from toolkit.export.export_state import export_folder
from toolkit.export.gguf_ladder import read_played
from toolkit.export.prompt_contract import PromptContract, read_reference_contract
from toolkit.runs.run_dir import RunDir, read_run_config
from toolkit.worker.exporting.gguf_play import SPEED_TOKENS, play_export

pytestmark = pytest.mark.worker
pytest.importorskip("gguf")
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0,
                                  "high_freq_factor": 4.0, "original_max_position_embeddings": 64}},
    "mistral": {"sliding_window": None, "attention_bias": False},
    "qwen2": {},  # biases, tied embeddings, YaRN
    "qwen3": {},  # norms of query and key
    "gemma2": {},  # capped logits, layers with a sliding window, norms stored as a difference from 1
    "gemma3_text": {},  # two base frequencies
}  # fmt: skip
FEWER_BITS = ("gguf-q6", "gguf-q5", "gguf-q4")
TIES = {"gguf": 0.05, "gguf-q8": 0.3}
"""Lead of a token (nats) below which llama.cpp, which rounds in its own way, may choose the second one."""
needs_llama_cpp = pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is not installed")
SECONDS = 280  # far above what playing takes: a busy machine must not fail a test


def make_exports(model: Path, place: Path, forms: tuple[str, ...]) -> RunDir:
    settings = draft(place / "save", model)
    settings["model"]["device_map"] = "cpu"
    cells = [{**row, "question": f"{row['question']} Größe 1234  x\n"} for row in rows(24)]
    run = make_run(settings, cells)
    write_adapter(run, read_run_config(run), 1)
    for form in forms:
        build(run, form)
    return run


def contract_of(run: RunDir) -> PromptContract:
    contract = read_reference_contract(run)
    assert contract is not None
    return contract


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDir]:
    place = tmp_path_factory.mktemp("gguf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTK_STATE_DIR", str(place / "state"))
        return {
            family: make_exports(
                save_tiny_model(family, place / family / "model", **changes), place / family, ("gguf", "gguf-q8")
            )
            for family, changes in FAMILIES.items()
        }


@pytest.mark.parametrize("form", ["gguf", "gguf-q8"])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_file_is_certified(runs: dict[str, RunDir], family: str, form: str) -> None:
    run = runs[family]
    folder = export_folder(run, form)
    assert (folder / "model.gguf").exists() and not list(folder.glob("*.safetensors"))
    certificate = verdict(run, form)
    assert certificate.passed, certificate.failures
    assert certificate.verdict in ("same", "close") and all(row.ids_equal for row in certificate.rows)
    assert not (folder / GGUF_PROBLEM_FILE).exists()
    assert 'TEMPLATE """' in (folder / "Modelfile").read_text()


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
def test_a_file_with_another_weight_or_tokenizer_fails(
    runs: dict[str, RunDir], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.worker.exporting import gguf_file
    from toolkit.worker.models.load import load_tokenizer

    run = runs[family]
    monkeypatch.setenv("FTK_STATE_DIR", str(run.save_dir.parent.parent / "state"))
    original = gguf_file.arrange_weights

    def exchange_rows(config: Any, name: str, weights: Any) -> Any:
        arranged = original(config, name, weights)
        return arranged[::-1] if name.endswith("1.mlp.down_proj.weight") else arranged

    monkeypatch.setattr(gguf_file, "arrange_weights", exchange_rows)
    kept = run.exports_dir / "kept"
    export_folder(run, "gguf").rename(kept)
    try:
        build(run, "gguf")
        assert "log-probability drift" in failed(verdict(run, "gguf"))
    finally:
        shutil.rmtree(export_folder(run, "gguf"))
        kept.rename(export_folder(run, "gguf"))
    read = gguf_file.read_gguf_tokenizer(export_folder(run, "gguf") / "model.gguf")
    plain = load_tokenizer(read_run_config(run), export_folder(run, "gguf"))
    for text in ("Größe 1234  x\n", "日本 <|im_end|> it's", *TEXTS):
        assert read(text)["input_ids"] == plain(text)["input_ids"]
        assert read.decode(read(text)["input_ids"]) == plain.decode(plain(text)["input_ids"])


def save_with_fallback(folder: Path, *, prefix: bool) -> None:
    """Give a model a tokenizer like SentencePiece's: spaces are letters, and unknown ones become bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    spaces = normalizers.Replace(" ", "\u2581")
    steps = normalizers.Sequence([normalizers.Prepend("\u2581"), spaces]) if prefix else spaces
    trained = Tokenizer(models.BPE())
    trained.normalizer = steps
    trained.train_from_iterator(TEXTS * 4, trainers.BpeTrainer(vocab_size=130))
    state = json.loads(trained.to_str())["model"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *state["vocab"]]
    model = models.BPE(
        vocab={name: index for index, name in enumerate(names)},
        merges=[tuple(merge) for merge in state["merges"]],
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    made = Tokenizer(model)
    made.normalizer = steps
    made.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    for path in folder.glob("*token*"):
        path.unlink()
    PreTrainedTokenizerFast(tokenizer_object=made, **named).save_pretrained(folder)


@pytest.fixture(scope="module", params=["prefix", "no prefix"])
def fallback_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    place = tmp_path_factory.mktemp("fallback")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTK_STATE_DIR", str(place / "state"))
        model = save_tiny_model("llama", place / "model", template="")
        save_with_fallback(model, prefix=request.param == "prefix")
        (model / "chat_template.jinja").unlink(missing_ok=True)
        return make_exports(model, place, ("gguf",))


def test_a_tokenizer_with_byte_fallback_is_written(fallback_run: RunDir) -> None:
    certificate = verdict(fallback_run, "gguf")
    assert certificate.passed, certificate.failures
    assert contract_of(fallback_run).special_tokens.bos_added


def hide_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no package bring llama.cpp's library."""
    monkeypatch.setattr(gguf_ladder, "LIBRARY_NAMES", {})
    monkeypatch.setattr(gguf_ladder.ctypes.util, "find_library", lambda name: None)


def test_what_can_not_be_written_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    run = make_exports(save_tiny_model("gpt2", tmp_path / "model"), tmp_path, ("gguf",))
    assert "this is a 'gpt2' model" in (export_folder(run, "gguf") / GGUF_PROBLEM_FILE).read_text()
    assert verdict(run, "gguf").passed, "the merged model is there"
    with pytest.raises(ToolkitError, match="written for Llama, Mistral, Qwen2"):
        build(run, "gguf-q8")
    hide_llama_cpp(monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolkitError, match=r"rounded by llama\.cpp, which is not installed") as caught:
        build(run, "gguf-q4")
    assert "pip install xllamacpp" in caught.value.hint


def test_without_its_library_four_bits_are_made_by_the_program_of_llama_cpp(
    runs: dict[str, RunDir], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs["qwen2"]
    hide_llama_cpp(monkeypatch)
    monkeypatch.setenv("FTK_STATE_DIR", str(run.save_dir.parent.parent / "state"))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    program = tmp_path / "llama-quantize"
    program.write_text("#!/bin/sh\necho unknown type >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(ToolkitError, match="quantizer failed: unknown type"):
        build(run, "gguf-q4")
    program.write_text('#!/bin/sh\n[ "$3" = Q4_K_M ] && cp "$1" "$2"\n')  # not what was asked for
    build(run, "gguf-q4")
    assert [path.name for path in export_folder(run, "gguf-q4").glob("*.gguf")] == ["model.gguf"]
    certificate = verdict(run, "gguf-q4")
    assert failed(certificate) == {"weights' precision"}
    assert certificate.noise is not None and certificate.noise.mean > 0.001


@pytest.fixture(scope="module", params=["llama", "gemma2"])
def rounded_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run whose rows are wide enough for blocks of 256, with its files of fewer than 16 bits."""
    place = tmp_path_factory.mktemp("rounded")
    wide = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "query_pre_attn_scalar": 64}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTK_STATE_DIR", str(place / "state"))
        model = save_tiny_model(request.param, place / "model", **{**FAMILIES[request.param], **wide})
        return make_exports(model, place, ("gguf-q8", *FEWER_BITS))


@needs_llama_cpp
def test_files_of_fewer_bits_are_certified_smaller_and_played(
    rounded_run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, forms = rounded_run, ("gguf-q8", *FEWER_BITS)
    monkeypatch.setenv("FTK_STATE_DIR", str(run.save_dir.parent / "state"))
    found = {form: verdict(run, form) for form in forms}
    assert {form: one.failures for form, one in found.items()} == dict.fromkeys(forms, ())
    noises = [one.noise.mean for one in found.values() if one.noise]
    assert len(noises) == 4 and noises == sorted(noises) and noises[0] > 0
    assert all(one.mean_drift <= one.noise.mean * 1.2 for one in found.values() if one.noise)
    sizes = [(export_folder(run, form) / "model.gguf").stat().st_size for form in forms]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 4
    played = play_export(run, "gguf-q4", contract_of(run))
    assert not played.problem and played.ids_equal == played.asked == len(contract_of(run).golden)
    assert played.tokens == SPEED_TOKENS and played.speed > 0
    assert read_played(run, "gguf-q4", played.commit) == played


@needs_llama_cpp
def test_a_wrong_weight_in_four_bits_is_noticed(rounded_run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.worker.exporting import gguf_file

    monkeypatch.setenv("FTK_STATE_DIR", str(rounded_run.save_dir.parent / "state"))
    original = gguf_file.arrange_weights

    def exchange_rows(config: Any, name: str, weights: Any) -> Any:
        arranged = original(config, name, weights)
        return arranged[::-1] if name.endswith("1.mlp.down_proj.weight") else arranged

    monkeypatch.setattr(gguf_file, "arrange_weights", exchange_rows)
    build(rounded_run, "gguf-q4")
    assert "log-probability drift" in failed(verdict(rounded_run, "gguf-q4"))


@needs_llama_cpp
def test_a_file_that_llama_cpp_can_not_play_is_told(rounded_run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTK_STATE_DIR", str(rounded_run.save_dir.parent / "state"))
    (export_folder(rounded_run, "gguf-q5") / "model.gguf").write_bytes(b"GGUF" * 100)
    played = play_export(rounded_run, "gguf-q5", contract_of(rounded_run))
    assert played.problem.startswith("llama.cpp could not play the file") and played.speed == 0


def assert_llama_cpp_agrees(played: list[tuple[RunDir, str]], ties: dict[str, float]) -> None:
    """Check that llama.cpp makes the golden ids of each exported file, and answers greedily as its run did.

    ties: by form, the lead of a token (nats) below which another one may follow.
    """
    asked = [
        {
            "path": str(export_folder(run, form) / "model.gguf"),
            "special": not contract_of(run).chat,
            "prompts": [
                {"text": golden.text, "ids": golden.ids, "tokens": len(golden.answer_ids)}
                for golden in contract_of(run).golden
            ],
        }
        for run, form in played
    ]
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "fakes" / "play_gguf.py")],
        input=json.dumps(asked), capture_output=True, text=True, timeout=SECONDS, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for (run, form), answers in zip(played, json.loads(done.stdout.splitlines()[-1]), strict=True):
        begins = 0
        for golden, answer in zip(contract_of(run).golden, answers, strict=True):
            assert tuple(answer["ids"]) == golden.ids, (run.path, form)
            pairs = zip(answer["answer"], golden.answer_ids, strict=False)
            at = next((index for index, (one, other) in enumerate(pairs) if one != other), None)
            assert at is None or golden.margins[at] < ties[form], (run.path, form, at, golden.margins[at])
            begins += at != 0
        assert begins >= len(answers) / 2, (run.path, form, begins)


@needs_llama_cpp
def test_llama_cpp_reads_the_same_ids_and_answers_the_same(runs: dict[str, RunDir], fallback_run: RunDir) -> None:
    played = [(run, form) for run in runs.values() for form in ("gguf", "gguf-q8")] + [(fallback_run, "gguf")]
    # the models are random: two of their tokens are often as likely as each other
    assert_llama_cpp_agrees(played, TIES)
