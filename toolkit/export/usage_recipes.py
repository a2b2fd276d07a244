"""Ready lines to use a model elsewhere: serve, vLLM, Python, Ollama. Text alone; nothing here is ever executed.

The prompt in them is the run's own template, as code, or for a run on conversations their turns: whoever copies them
asks in the form that was trained. Paths and texts are quoted for the language that they stand in.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from toolkit.config import BUNDLED, Config
from toolkit.data.examples.templates import CompiledTemplate, compile_template
from toolkit.export.export_state import ExportForm
from toolkit.runs.run_dir import RunDir
from toolkit.system.paths import ASSETS

GGUF_FILE, GGUF_CONVERTER = "model.gguf", "convert_hf_to_gguf"
VLLM_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's --max-lora-rank may be."""


@dataclass(frozen=True)
class Recipe:
    title: str
    language: str
    text: str


def list_usage_recipes(run: RunDir, config: Config, form: ExportForm, place: str, *, chat: bool) -> list[Recipe]:
    """How to use one export that lies at `place` (a folder, or a hub id). chat: asked in the chat template."""
    if form.key == "gguf":
        ready = (Path(place) / GGUF_FILE).exists()
        return [*([] if ready else [_conversion(place)]), _ollama(run, place), _llama_server(place)]
    return [_serve(run), _vllm(run, config, form, place), _python(config, form, place, chat=chat)]


def _serve(run: RunDir) -> Recipe:
    here = shlex.quote(str(run.save_dir))
    return Recipe("This machine, OpenAI's API", "bash", f"python -m toolkit serve {run.id} --save-dir {here}")


def _vllm(run: RunDir, config: Config, form: ExportForm, place: str) -> Recipe:
    where = shlex.quote(place)
    if form.key != "adapter":
        text = f"vllm serve {where} --dtype {form.dtype} --served-model-name {run.id}"
        return Recipe("vLLM", "bash", text)
    rank = next((rank for rank in VLLM_LORA_RANKS if rank >= (config.lora.r or 8)), VLLM_LORA_RANKS[-1])
    base = shlex.quote(base_model_location(config))
    lines = (
        f"vllm serve {base} --enable-lora --max-lora-rank {rank}",
        f"  --lora-modules {run.id}={where}",
    )
    return Recipe("vLLM", "bash", " \\\n".join(lines))


def base_model_location(config: Config) -> str:
    """Where another program finds the base model: a hub id, or a folder of this machine."""
    name = str(config.model.hf_model_ckpt or "")
    if not name.startswith(BUNDLED):
        return name
    return str(ASSETS / name.removeprefix(BUNDLED))


def _python(config: Config, form: ExportForm, place: str, *, chat: bool) -> Recipe:
    imports = "from transformers import AutoModelForCausalLM, AutoTokenizer"
    load = [f"model = AutoModelForCausalLM.from_pretrained(place, dtype={form.dtype or 'auto'!r})"]
    if form.key == "adapter":
        imports = "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer"
        load = ["model = AutoPeftModelForCausalLM.from_pretrained(place)"]
    given = _turns() if config.data.messages is not None else _template(config, chat=chat)
    if chat:
        ask = [
            "text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)",
            'given = tokenizer(text, add_special_tokens=False, return_tensors="pt")',
        ]
    else:
        ask = ['given = tokenizer(prompt(row), return_tensors="pt")']
    lines = [
        imports, "", f"place = {place!r}", "tokenizer = AutoTokenizer.from_pretrained(place)", *load, "",
        *given, *ask, f"made = model.generate(**given, {_generation(config)})",
        'answer = tokenizer.decode(made[0, given["input_ids"].shape[1] :], skip_special_tokens=True)', "print(answer)",
    ]  # fmt: skip
    return Recipe("Python", "python", "\n".join(lines))


def _turns() -> list[str]:
    """What a run on conversations is asked: the turns themselves, no template."""
    return [
        "# all turns so far, the last one the user's; first the system message, if the conversations had one",
        'turns = [{"role": "user", "content": "..."}]',
    ]


def _template(config: Config, *, chat: bool) -> list[str]:
    """The prompt's template as a function, and what is asked with it."""
    # the columns that the run's own table had: every name in braces, or it would not have been trained
    template = compile_template(config.data.prompt, re.findall(r"\{([^{}]+)\}", config.data.prompt))
    example = ", ".join(f"{name!r}: '...'" for name in template.columns)
    asked = ['turns = [{"role": "user", "content": prompt(row)}]'] if chat else []
    lines = ["", "def prompt(row):", f"    return {template_to_python(template)}", "", ""]
    return [*lines, f"row = {{{example}}}", *asked]


def template_to_python(template: CompiledTemplate) -> str:
    """A Python expression that renders the template for a dict `row`; every text is quoted by Python itself."""
    pieces = [f"row[{piece.text!r}]" if piece.is_column else repr(piece.text) for piece in template.pieces]
    return " + ".join(pieces) or "''"


def _generation(config: Config) -> str:
    """The run's settings for answers, as keyword arguments."""
    chosen = config.inference
    parts = [f"max_new_tokens={chosen.max_new_tokens or 128}", f"do_sample={bool(chosen.do_sample)}"]
    if chosen.do_sample:
        names = ("temperature", "top_p", "top_k")
        parts += [f"{name}={getattr(chosen, name)}" for name in names if getattr(chosen, name) is not None]
    return ", ".join(parts)


def _conversion(place: str) -> Recipe:
    """In an environment of its own: the converter's requirements are not this project's."""
    where, target = shlex.quote(place), shlex.quote(str(Path(place) / GGUF_FILE))
    lines = (
        "git clone --depth 1 https://github.com/ggml-org/llama.cpp",
        "python -m venv llama.cpp/.venv",
        "llama.cpp/.venv/bin/pip install -r llama.cpp/requirements/requirements-convert_hf_to_gguf.txt",
        f"llama.cpp/.venv/bin/python llama.cpp/{GGUF_CONVERTER}.py {where} --outfile {target} --outtype f16",
    )
    return Recipe("Convert it, once", "bash", "\n".join(lines))


def _ollama(run: RunDir, place: str) -> Recipe:
    lines = (f"cd {shlex.quote(place)}", f"ollama create {run.id} -f Modelfile", f"ollama run {run.id}")
    return Recipe("Ollama", "bash", "\n".join(lines))


def _llama_server(place: str) -> Recipe:
    return Recipe("llama.cpp", "bash", f"llama-server -m {shlex.quote(str(Path(place) / GGUF_FILE))} --port 8080")
