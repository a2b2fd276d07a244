"""More files of a hostile model: what the check of its folder refuses, and odd weights, tokenizers and templates."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.probing.folders import PLACES, place_damage
from benchmarks.probing.model_catalogs import TEMPLATES
from benchmarks.probing.models import TOKENS, WEIGHTS, Case, Change
from benchmarks.probing.probe import Probe
from toolkit.errors import ToolkitError

SIBLINGS = (
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "feature_extractor_config.json",
    "image_processor_config.json",
    "additional_chat_templates/tool_use.jinja",
    "additional_chat_templates",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "vocab.txt",
    "vocab.bpe",
    "chat_template.json",
    "quantize_config.json",
    "quantization_config.json",
    "trainer_state.json",
    "modules.json",
)
CODE: tuple[dict[str, Any], ...] = (
    {"auto_map": {"AutoModelForCausalLM": "modeling_x.X"}},
    {"auto_map": {"AutoTokenizer": ["owner/name--tok.X", None]}},
    {"auto_map": "x"},
    {"auto_map": {}},
    {"custom_pipelines": {"x": {"impl": "x.X"}}},
    {"custom_generate": "owner/name"},
    {"attn_implementation": "kernels-community/x"},
    {"attn_implementation": {"text_config": {"": "a/b"}}},
    {"experts_implementation": "a/b"},
    {"_attn_implementation_internal": "a/b"},
    {"_experts_implementation_internal": "a/b"},
    {"use_kernels": 1},
    {"kernel_config": {"kernel_mapping": {"RMSNorm": "a/b:X"}}},
    {"use_pretrained_backbone": True},
    {"vocab_file": "../secret"},
    {"merges_file": "/etc/passwd"},
    {"sp_model_kwargs": {"model_file": "/etc/passwd"}},
    {"transformers_weights": "../other.safetensors"},
    {"transformers_weights": "pytorch_model.bin"},
)
CONFIG_FILES = (
    "config.json",
    "tokenizer_config.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "other.json",
)
NESTS: tuple[str, ...] = ('{"a": %s}', '{"text_config": %s}', '{"a": [[%s]]}', '{"quantization_config": {"x": %s}}')
TARGETS = (
    "../x.safetensors",
    "/etc/passwd",
    "x.bin",
    "pytorch_model.bin",
    "x.pt",
    "x.pth",
    "x.ckpt",
    "x.pkl",
    "x.h5",
    "x.msgpack",
    "x.gguf",
    "x.safetensors.bin",
    "x.bin#.safetensors",
    "x.bin?.safetensors",
    "http://evil.example/x.safetensors",
    "file:///x.safetensors",
    "hf://a/b/x.safetensors",
    "//x.safetensors",
    "./x.safetensors",
    "a/../x.safetensors",
    "a//x.safetensors",
    "..\\x.safetensors",
    "x.safetensors/",
    "x.safetensors ",
    " x.safetensors",
    "x.safetensors\n",
    "x\u202e.safetensors",
    "ｘ.safetensors",
    ".safetensors",
    "",
    "~/x.safetensors",
    "$HOME.safetensors",
    "x\0.bin",
)
INDEX_FILES = ("model.safetensors.index.json", "other.safetensors.index.json", "adapter_model.safetensors.index.json")
LINKS = ("/etc/passwd", "/etc", "../secret", "/proc/self/environ", "sub/../../secret", "/dev/zero", "none")
LINK_NAMES = ("model.safetensors", "vocab.txt", "sub", "sub/x.json", "additional_chat_templates", "README.md")
HEADERS: dict[str, bytes] = {
    "empty": b"",
    "length only": struct.pack("<Q", 10),
    "length of 2^63": struct.pack("<Q", 2**63) + b"{}",
    "length of 100 MB": struct.pack("<Q", 100_000_000) + b"{}",
    "deep": struct.pack("<Q", 100_000) + b"[" * 100_000,
    "not JSON": struct.pack("<Q", 4) + b"xxxx",
    "list": struct.pack("<Q", 2) + b"[]",
}
TENSORS: dict[str, dict[str, Any]] = {
    "outside": {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 2**40]}},
    "negative": {"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}},
    "backwards": {"a": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}},
    "huge shape": {"a": {"dtype": "F32", "shape": [2**31, 2**31, 4], "data_offsets": [0, 16]}},
    "odd type": {"a": {"dtype": "X99", "shape": [4], "data_offsets": [0, 16]}},
    "overlap": {name: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for name in "ab"},
    "metadata of 1 MB": {"__metadata__": {"format": "x" * 10**6}},
    "pickle metadata": {"__metadata__": {"format": "pickle"}},
    "tf": {"__metadata__": {"format": "tf"}},
    "50,000 names": {str(n): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(50_000)},
    "odd name": {"../x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}},
}


def forbidden_probes(folder: Path) -> Iterator[Probe]:
    """Folders that must be refused before any library opens them."""
    for number, (name, change) in enumerate(_forbidden()):
        yield Probe("model folder", name, partial(_find_accepted, folder / f"r{number}" / "m", change), isolated=False)


def _forbidden() -> Iterator[tuple[str, Change]]:
    for file in CONFIG_FILES:
        for settings in CODE:
            yield f"{file}: {settings!r:.70}", partial(_merge, file, settings)
            for nest in NESTS:
                outer = json.loads(nest % json.dumps(settings))
                yield f"{file}: {outer!r:.70}", partial(_merge, file, outer)
    for file in INDEX_FILES:
        for target in TARGETS:
            for around in ({"x": target}, {"y": "weights.safetensors", "x": target}):
                yield f"{file} names {target!r}", partial(_write, file, json.dumps({"weight_map": around}))
    for name in LINK_NAMES:
        for target in LINKS:
            yield f"{name} is a link to {target}", partial(_link, name, target)
        for place in ("pipe", "device", "random", "socket", "own link", "broken link"):
            yield f"{name} is a {place}", partial(_place, name, place)
    for name in ("modeling_x.py", "sub/x.py", "a/b/c/x.py", ".py", "configuration_x.py", "__init__.py"):
        yield f"code in {name}", partial(_write, name, "raise SystemExit")
    for name in ("pytorch_model.bin", "model.pt", "tf_model.h5", "flax_model.msgpack", "x.ckpt"):
        yield f"only {name}", partial(_only, name)
    yield "an adapter", partial(_write, "adapter_config.json", "{}")
    for text in ("[" * 100_000, "{", '{"model_type": "llama"', '{"a": NaN}', '{"a": 1e999}'):
        for file in ("config.json", "other.json"):
            yield f"{file} {text[:20]!r}", partial(_write, file, text)


def _find_accepted(folder: Path, change: Change) -> str:
    from toolkit.worker.models.folder import check_model_folder

    folder.mkdir(parents=True)
    (folder.parent / "secret").touch()
    (folder.parent / "other.safetensors").touch()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "weights.safetensors").touch()
    change(folder)
    try:
        check_model_folder(folder)
    except ToolkitError as error:
        return "" if error.message and error.hint else f"no hint: {error.message}"
    return "accepted"


def _merge(file: str, settings: dict[str, Any], folder: Path) -> None:
    base = {"model_type": "llama"} if file == "config.json" else {}
    _write(file, json.dumps({**base, **settings}), folder)


def _write(file: str, text: str, folder: Path) -> None:
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # the folder's other files are links to the demo model
    path.write_text(text)


def _link(name: str, target: str, folder: Path) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).symlink_to(target)


def _place(name: str, place: str, folder: Path) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    place_damage(folder / name, place)


def _only(name: str, folder: Path) -> None:
    (folder / "weights.safetensors").unlink()
    (folder / name).touch()


def sibling_files() -> Iterator[Case]:
    """Files next to those of the catalog, in odd forms: an answer, or words."""
    for file in SIBLINGS:
        for damage in ("deep list", "NUL", "not UTF-8", "object", "long text", *PLACES):
            if damage != "not UTF-8":
                yield f"{file}: {damage}", partial(_damage_new, file, damage), TOKENS
            else:
                yield f"{file}: {damage}", partial(_write_bytes, file, b"\xff\xfe\x00" * 1000), TOKENS
    for name, raw in HEADERS.items():
        yield f"weights: {name}", partial(_write_bytes, "model.safetensors", raw), WEIGHTS
    for name, tensors in TENSORS.items():
        header = json.dumps(tensors).encode()
        raw = struct.pack("<Q", len(header)) + header + b"\0" * 16
        yield f"weights: {name}", partial(_write_bytes, "model.safetensors", raw), WEIGHTS
    for template in TEMPLATES[::4]:
        named = [{"name": "default", "template": template}, {"name": "tool_use", "template": template}]
        yield f"named {template!r:.50}", partial(_set_template, named), TOKENS
        yield f"config {template!r:.50}", partial(_set_template, template), TOKENS
        yield f"additional {template!r:.50}", partial(_write_additional, template), TOKENS


def _damage_new(file: str, damage: str, folder: Path) -> None:
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    place_damage(path, damage)


def _write_bytes(file: str, raw: bytes, folder: Path) -> None:
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    path.write_bytes(raw)


def _set_template(template: Any, folder: Path) -> None:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    _write("tokenizer_config.json", json.dumps({**settings, "chat_template": template}), folder)


def _write_additional(template: str, folder: Path) -> None:
    _write("additional_chat_templates/default.jinja", template.encode(errors="replace").decode(), folder)
