"""Folders of models whose files are hostile, asked as the pages ask them: in a process that ends by time and memory."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.probing.folders import CONTENTS, PLACES, place_damage
from benchmarks.probing.model_catalogs import (
    CLASSES,
    CONFIGS,
    FILES,
    GENERATION,
    INDEXES,
    NORMALIZERS,
    SPLITS,
    TEMPLATES,
)
from benchmarks.probing.probe import Probe
from toolkit.config import Config, DataConfig
from toolkit.data.storage.open_table import open_table
from toolkit.errors import ToolkitError
from toolkit.system.paths import ASSETS
from toolkit.worker.questions import answer_process
from toolkit.worker.questions.answer_process import AnswerForks, AnswerLane
from toolkit.worker.questions.question_job import QuestionJob

STALL_SECONDS = 8.0
TOKENS = "toolkit.worker.questions.xray.answer_token_view"
WEIGHTS = "benchmarks.probing.models.answer_with_weights"
_UNCAUGHT = re.compile(r"^[A-Za-z_.]*(Error|Exception|Warning|Exit|Interrupt): ")
Change = Callable[[Path], None]
Case = tuple[str, Change, str]


def model_probes(cases: Callable[[], Iterator[Case]], folder: Path) -> Iterator[Probe]:
    """Change one file of the demo model's folder, then ask for tokens, and where it matters for an answer."""
    answer_process.STALL_SECONDS = STALL_SECONDS
    forks = AnswerForks()
    problem = forks.wait_for_imports()
    assert problem is None, problem
    lane = AnswerLane(forks)
    source = folder / "given.csv"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text("q,a\naaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!,b\n" * 2)
    data = DataConfig(file_type="csv", path=str(source), prompt="{q}", prompt_stub="{a}")
    table = open_table(data, folder)
    for number, (name, change, question) in enumerate(cases()):
        config = Config(data=data, save_dir=str(folder)).model_dump(mode="json")
        config["model"]["hf_model_ckpt"] = str(folder / f"m{number}")
        body = {"config": config, "table": str(table.path), "row": 0}
        attempt = partial(_ask_changed, folder / f"m{number}", change, lane, question, body)
        yield Probe("models", name, attempt, 60, isolated=False)
    forks.close()


def damaged_files() -> Iterator[Case]:
    for file in FILES:
        for damage in (*CONTENTS, *PLACES):
            if damage not in ("one line of 20 MB", "socket"):
                question = WEIGHTS if file.startswith("model") else TOKENS
                yield f"{file}: {damage}", partial(_damage, file, damage), question


def hostile_settings() -> Iterator[Case]:
    for settings in CONFIGS:
        yield f"config {settings!r:.60}", partial(_update, "config.json", settings), WEIGHTS
    for settings in GENERATION:
        yield f"generation {settings!r:.60}", partial(_update, "generation_config.json", settings), WEIGHTS
    for name, index in INDEXES.items():
        yield f"index {name}", partial(_write_json, "model.safetensors.index.json", index), WEIGHTS


def hostile_tokenizers() -> Iterator[Case]:
    for name in CLASSES:
        yield f"tokenizer class {name!r}", partial(_update, "tokenizer_config.json", {"tokenizer_class": name}), TOKENS
        yield f"only class {name!r}", partial(_replace_tokenizer, name), TOKENS
    for name, normalizer in NORMALIZERS.items():
        yield f"normalizer {name}", partial(_update, "tokenizer.json", {"normalizer": normalizer}), TOKENS
    for pattern in SPLITS:
        splitter = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        yield f"split {pattern!r:.40}", partial(_update, "tokenizer.json", {"pre_tokenizer": splitter}), TOKENS
    decoder = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"Regex": "(.)"}, "content": "aa"}] * 40}
    for key, value in (
        ("decoder", decoder),
        ("added_tokens", [{"id": 2**40, "content": "x"}]),
        ("added_tokens", [{"id": 0, "content": ""}]),
        ("model", {"type": "BPE", "vocab": {}, "merges": []}),
        ("model", {"type": "x"}),
        ("model", {"type": "WordLevel", "vocab": {"a": 2**40}, "unk_token": "a"}),
        ("model", {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "[UNK]"}),
        ("post_processor", {"type": "x"}),
        ("truncation", {"max_length": 0}),
        ("padding", 7),
        ("version", "9"),
    ):
        yield f"tokenizer {key} = {value!r:.50}", partial(_update, "tokenizer.json", {key: value}), TOKENS
    for key in (
        "auto_map",
        "eos_token",
        "model_max_length",
        "pad_token",
        "extra_special_tokens",
        "chat_template",
        "backend",
        "vocab_file",
        "added_tokens_decoder",
    ):
        for value in (
            7,
            [],
            {},
            None,
            "x" * 10**6,
            -1,
            10**18,
            [[]],
            {"a": {"b": 1}},
            "../../etc/passwd",
            {"0": {"content": "x"}},
        ):
            yield (
                f"tokenizer_config {key} = {value!r:.30}",
                partial(_update, "tokenizer_config.json", {key: value}),
                TOKENS,
            )


def hostile_templates() -> Iterator[Case]:
    for template in TEMPLATES:
        yield f"template {template!r:.60}", partial(_write_text, "chat_template.jinja", template), TOKENS


def _ask_changed(folder: Path, change: Change, lane: AnswerLane, question: str, body: dict[str, Any]) -> str:
    folder.mkdir()
    for path in (ASSETS / "demo-model").iterdir():
        os.link(path, folder / path.name)
    try:
        change(folder)
        lane.answer(QuestionJob("xray", body), question)
    except ToolkitError as error:
        return (
            f"uncaught: {error.message}"
            if _UNCAUGHT.match(error.message)
            else ""
            if error.hint
            else f"no hint: {error.message}"
        )
    finally:
        shutil.rmtree(folder)
    return "it ran code" if Path("/tmp/probe-template").exists() else ""


def _damage(file: str, damage: str, folder: Path) -> None:
    (folder / file).unlink(missing_ok=True)
    place_damage(folder / file, damage)


def _update(file: str, settings: dict[str, Any], folder: Path) -> None:
    _write_json(file, {**json.loads((folder / file).read_text()), **settings}, folder)


def _write_json(file: str, content: Any, folder: Path) -> None:
    _write_text(file, json.dumps(content), folder)


def _write_text(file: str, text: str, folder: Path) -> None:
    (folder / file).unlink(missing_ok=True)
    (folder / file).write_text(text)


def _replace_tokenizer(name: str, folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    _write_json("tokenizer_config.json", {"tokenizer_class": name}, folder)


def answer_with_weights(body: Mapping[str, Any], job: QuestionJob) -> dict[str, Any]:
    """Load the weights of a model and let it answer, as the engine does; return the number of tokens."""
    import torch  # not in the process that asks

    from toolkit.worker.models.load import load_base_model, load_tokenizer
    from toolkit.worker.questions.dataset_subject import config_from_question

    config = config_from_question(body)
    tokenizer = load_tokenizer(config)
    job.report_progress("loading")
    model = load_base_model(config)
    ids = torch.tensor([tokenizer("Hello")["input_ids"]])
    with torch.no_grad():
        return {"tokens": int(model.generate(ids, max_new_tokens=2, do_sample=False).shape[1])}
