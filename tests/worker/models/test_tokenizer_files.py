"""A tokenizer gives the ids of its tokenizer.json, and still does after it was saved with an adapter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.tiny_families import CHATML, TEXTS

pytestmark = pytest.mark.worker
DIGITS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"
ASKED = [{"role": "user", "content": "order 12345 lamps, please\n\n ok"}]
TEMPLATE = "{{ bos_token }}[INST] {{ messages[0].content }} [/INST]"


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer that splits texts by a rule of its own, as many families do."""
    from benchmarks.tiny_families import make_tiny_tokenizer

    folder = tmp_path_factory.mktemp("byte-level")
    make_tiny_tokenizer("chatml").save_pretrained(folder)
    state = json.loads((folder / "tokenizer.json").read_text())
    split = {"type": "Split", "pattern": {"Regex": DIGITS}, "behavior": "Isolated", "invert": False}
    bytes_of = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    state["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, bytes_of]}
    (folder / "tokenizer.json").write_text(json.dumps(state))
    return folder


@pytest.fixture(scope="module")
def sentence_piece(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer as Llama 2 has it: a space before each text, bytes for unknown letters."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    space = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    bpe.normalizer = normalizers.Sequence(space)
    strip = decoders.Strip(" ", 1, 0)
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    letters = [*map(chr, range(32, 127)), "▁"]
    bpe.train_from_iterator(
        TEXTS * 4, trainers.BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=letters)
    )
    state = json.loads(bpe.to_str())
    state["added_tokens"] = [one for one in state["added_tokens"] if not one["content"].startswith("<0x")]
    bpe = Tokenizer.from_str(json.dumps(state))
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, **named)
    tokenizer.chat_template = TEMPLATE
    folder = tmp_path_factory.mktemp("sentence-piece")
    tokenizer.save_pretrained(folder)
    return folder


def with_settings(source: Path, folder: Path, **changes: Any) -> Path:
    shutil.copytree(source, folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def ids_of(tokenizer: Any) -> list[Any]:
    texts = ["order 12345 lamps", "it's <|im_end|> 1\n\n  2", "a</s> b", " c"]
    return [*tokenizer(texts)["input_ids"], tokenizer.apply_chat_template(ASKED)["input_ids"]]


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "Qwen2Tokenizer", "GPTNeoXTokenizerFast", "CohereTokenizerFast"])
def test_another_way_to_split_a_text_is_that_of_the_file(byte_level: Path, tmp_path: Path, name: str) -> None:
    from transformers import PreTrainedTokenizerFast

    from toolkit.worker.models.tokenizer_files import read_tokenizer, save_tokenizer

    folder = with_settings(byte_level, tmp_path / "model", tokenizer_class=name)
    expected = ids_of(PreTrainedTokenizerFast.from_pretrained(byte_level))
    found = read_tokenizer(folder, "it")
    assert ids_of(found) == expected
    save_tokenizer(found, tmp_path / "saved")
    assert ids_of(read_tokenizer(tmp_path / "saved", "it")) == expected


@pytest.mark.parametrize(
    "settings",
    [{"legacy": True}, {"legacy": False}, {"legacy": True, "add_prefix_space": False}, {"add_eos_token": True}],
)
@pytest.mark.parametrize("files", ["with tokenizer.json", "without"])
def test_llamas_settings_are_kept(sentence_piece: Path, tmp_path: Path, settings: dict[str, Any], files: str) -> None:
    from transformers import AutoTokenizer

    from toolkit.worker.models.tokenizer_files import read_tokenizer, save_tokenizer

    folder = with_settings(sentence_piece, tmp_path / "model", tokenizer_class="LlamaTokenizer", **settings)
    # of a tokenizer.model alone, transformers builds the same class as of a vocabulary
    found = read_tokenizer(folder, "it") if files != "without" else AutoTokenizer.from_pretrained(folder)
    save_tokenizer(found, tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert ids_of(again) == ids_of(found), settings


def test_an_unreadable_mixture_is_refused(byte_level: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.errors import ToolkitError
    from toolkit.worker.models import tokenizer_files

    folder = with_settings(byte_level, tmp_path / "model", tokenizer_class="GPT2Tokenizer")
    monkeypatch.setattr(tokenizer_files, "PreTrainedTokenizerFast", tokenizer_files.AutoTokenizer)
    with pytest.raises(ToolkitError, match=r"other token ids than tokenizer\.json of 'it'"):
        tokenizer_files.read_tokenizer(folder, "it")


def test_named_chat_templates_are_saved_and_exported(byte_level: Path, tmp_path: Path) -> None:
    from toolkit.export.adapter_archive import TOKENIZER_FILES
    from toolkit.worker.answering.golden_prompts import chat_template_hash
    from toolkit.worker.exporting.gguf_tokenizer import read_templates, write_templates
    from toolkit.worker.exporting.package import copy_files
    from toolkit.worker.models.tokenizer_files import read_tokenizer, save_tokenizer

    named = {"rag": "R" + CHATML, "default": CHATML, "tool_use": "T" + CHATML}
    listed = [{"name": name, "template": text} for name, text in named.items()]
    folder = with_settings(byte_level, tmp_path / "model", chat_template=listed)
    (folder / "chat_template.jinja").unlink()
    found = read_tokenizer(folder, "it")
    save_tokenizer(found, tmp_path / "adapter")
    (tmp_path / "export").mkdir()
    copy_files(tmp_path / "adapter", tmp_path / "export", TOKENIZER_FILES)
    again = read_tokenizer(tmp_path / "export", "it")
    assert again.chat_template == named
    assert chat_template_hash(again) == chat_template_hash(found)
    fields = read_templates(write_templates(found))
    assert fields == named, "a GGUF file has them under names of their own"
