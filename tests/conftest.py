"""Fixtures for all packages: tiny random models, created once per session and only if a test needs one."""

from __future__ import annotations

import gc
import importlib.util
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.internal.conjecture import providers

from tests.fakes.forked_processes import fork_short_processes
from tests.fakes.real_model import INSTALL, convert_real_model, missing_packages

# How long an example takes is the machine's affair, not a test's. The same examples every time, so that a change is
# judged by what it changes; `pytest --hypothesis-profile=explore` draws new ones each time.
settings.register_profile("toolkit", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile("toolkit")
# Hypothesis also draws the literals of the modules that happen to be loaded, which differ from process to process
_read_literals = getattr(providers, "_get_local_constants", None)
providers._get_local_constants = lambda: (
    providers._local_constants if settings.default.derandomize or _read_literals is None else _read_literals()
)

os.environ["FTK_SPARE"] = "0"  # a test that wants a spare worker starts one
# two processes of tests share two cores: further threads of torch would wait for each other, and compute while they do
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True, scope="session")
def _own_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the installation's key, which signs runs and versions, out of the home of whoever runs the tests."""
    before = os.environ.get("FTK_STATE_DIR")
    os.environ["FTK_STATE_DIR"] = str(tmp_path_factory.mktemp("installation"))
    yield
    os.environ.pop("FTK_STATE_DIR")
    os.environ.update({} if before is None else {"FTK_STATE_DIR": before})


VISIBLE_GPUS = {name: os.environ[name] for name in ("CUDA_VISIBLE_DEVICES",) if name in os.environ}


@pytest.fixture(autouse=True)
def _visible_gpus() -> None:
    """Show the GPUs again that a training in this process has hidden for good (`worker.train`)."""
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    os.environ.update(VISIBLE_GPUS)


TEXT = [
    "the quick brown fox jumps over the lazy dog",
    "please send 12 blue lamps to Anna Berg in Oslo",
    '{"name": "Tom Reed", "quantity": 4, "city": "Rome"}',
    "how many parcels did we order last week? about 350 of them!",
    "billing shipping account returns damage question",
]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tiny_model(folder: Path, *, chat: bool, seed: int = 0) -> Path:
    """Save a random Llama (2 layers, 64 wide) with a byte-level BPE of some 300 tokens; <|im_end|> or </s> ends."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<pad>", "<|im_start|>", "<|im_end|>"] if chat else ["<s>", "</s>"]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        TEXT * 4, trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    )
    if chat:
        named = {"pad_token": "<pad>", "eos_token": "<|im_end|>", "chat_template": CHAT_TEMPLATE}
    else:
        # no pad token and a BOS of its own: the two habits that training most often gets wrong
        bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
        named = {"bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, **named)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


TESTS = Path(__file__).parent
PAGE_FOLDERS = (TESTS / "browser", TESTS / "pages")


@cache
def draws_pages(path: Path) -> bool:
    """Return whether a file of tests draws pages: all in those folders, and what uses Streamlit's AppTest."""
    return any(folder in path.parents for folder in PAGE_FOLDERS) or "import AppTest" in path.read_text("utf-8")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import files and folders whose tests `-m` leaves out: that takes half the time of the quick tests."""
    asked = config.option.markexpr
    if " or " in asked or "(" in asked:
        return None
    if "not browser" in asked:
        if collection_path in PAGE_FOLDERS:
            return True
        if collection_path.name.startswith("test_") and draws_pages(collection_path):
            return True
    if "not worker" in asked and collection_path.name.startswith("test_"):
        return bool(re.search(r"^pytestmark = .*mark\.worker", collection_path.read_text("utf-8"), re.M)) or None
    return None


def pytest_collection_finish() -> None:
    """Keep what was imported out of every later collection of garbage."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what draws pages, skip the tests on a real model that is not installed, and begin with the slow files."""
    missing = [] if os.environ.get("REQUIRE_REAL_MODEL") else missing_packages()
    has_ray = importlib.util.find_spec("ray") is not None or bool(os.environ.get("REQUIRE_CLUSTER"))
    skip = pytest.mark.skip(reason=f"{' and '.join(missing)} not installed: {INSTALL}")
    for item in items:
        if draws_pages(item.path):
            item.add_marker("browser")
        if missing and item.get_closest_marker("real"):
            item.add_marker(skip)
        if item.get_closest_marker("cluster") and not has_ray:
            item.add_marker(pytest.mark.skip(reason="Ray is not installed: pip install -r requirements-cluster.txt"))
    slow = {item.path for item in items if item.get_closest_marker("worker") or item.get_closest_marker("browser")}
    items.sort(key=lambda item: item.path not in slow)  # short files come last, so that all processes end together


@pytest.fixture(scope="session", autouse=True)
def short_processes() -> Iterator[None]:
    """Short processes of the toolkit are forked, which takes a tenth of the time of starting them."""
    with fork_short_processes():
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random model whose tokenizer has a chat template, a pad token, and <|im_end|> as EOS."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny", chat=True)


@pytest.fixture(scope="session")
def tiny_plain_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random model without chat template and without pad token; the tokenizer begins with <s>."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny-plain", chat=False)


@pytest.fixture(scope="session")
def real_model() -> Path:
    """Folder of SmolLM2-135M-Instruct in bfloat16, converted once per machine. Tests that use it are marked `real`."""
    return convert_real_model()
