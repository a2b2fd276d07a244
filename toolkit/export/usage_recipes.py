"""Commands and code to use an exported model elsewhere: serve, vLLM, Python, Ollama. Text only; never executed here.

The prompt in them is the run's own template as code, or for a run on conversations their messages, so that the model
gets the format of training. Paths and texts are quoted for the language of each recipe.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from toolkit.config import BUNDLED, Config
from toolkit.data.examples.templates import CompiledTemplate, compile_template
from toolkit.export.export_forms import GGUF_FILE, ExportForm, resolve_form_function
from toolkit.runs.model_names import describe_run
from toolkit.runs.run_dir import RunDir, read_run_meta
from toolkit.system.paths import ASSETS
from toolkit.system.printable import make_file_stem

GGUF_CONVERTER = "convert_hf_to_gguf"
"""Name of llama.cpp's converter, as a module and as a script."""
VLLM_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM accepts for --max-lora-rank."""
VLLM_REFUSED = ("modules_to_save", "use_dora", "trainable_token_indices")
"""Settings with which vLLM refuses to load an adapter."""
DEFAULT_LORA_RANK, DEFAULT_NEW_TOKENS = 8, 128
"""What PEFT and the playground take when the settings leave them open."""


@dataclass(frozen=True)
class Recipe:
    """One way to use the model. language: for the code block, "bash" or "python"."""

    title: str
    language: str
    text: str


def list_usage_recipes(run: RunDir, config: Config, form: ExportForm, location: str, *, chat: bool) -> list[Recipe]:
    """Return how to use an export. location: a folder or a Hub id. chat: whether the chat template is used."""
    recipes: list[Recipe] = resolve_form_function(form.recipes)(run, config, form, location, chat)
    return recipes


def list_model_recipes(run: RunDir, config: Config, form: ExportForm, location: str, chat: bool) -> list[Recipe]:
    """Return the recipes of an adapter or a merged model."""
    return [_serve(run), _vllm(run, config, form, location), _python(config, form, location, chat=chat)]


def list_gguf_recipes(run: RunDir, config: Config, form: ExportForm, location: str, chat: bool) -> list[Recipe]:
    """Return the recipes for llama.cpp and Ollama, and how to convert the model where that is still to do."""
    place = Path(location)
    # on a model card or the Hub the place is no folder of this machine, and the file is next to the card
    converted = (place / GGUF_FILE).exists() or not place.is_absolute()
    return [*([] if converted else [_conversion(location)]), _ollama(run, config, location), _llama_server(location)]


def _serve(run: RunDir) -> Recipe:
    save_dir = shlex.quote(str(run.save_dir))
    return Recipe("This machine, OpenAI's API", "bash", f"python -m toolkit serve {run.id} --save-dir {save_dir}")


def _vllm(run: RunDir, config: Config, form: ExportForm, location: str) -> Recipe:
    where = shlex.quote(location)
    if form.contains_base:
        text = f"vllm serve {where} --dtype {form.dtype} --served-model-name {name_served_model(run, config)}"
        return Recipe("vLLM", "bash", text)
    if beyond := [name for name in VLLM_REFUSED if getattr(config.lora, name)]:
        text = f"# vLLM refuses adapters with {' and '.join(beyond)}: export the merged model instead"
        return Recipe("vLLM", "bash", text)
    rank = next((rank for rank in VLLM_LORA_RANKS if rank >= (config.lora.r or DEFAULT_LORA_RANK)), VLLM_LORA_RANKS[-1])
    base = shlex.quote(base_model_location(config))
    lines = (
        f"vllm serve {base} --enable-lora --max-lora-rank {rank}",
        f"  --lora-modules {name_served_model(run, config)}={where}",
    )
    return Recipe("vLLM", "bash", " \\\n".join(lines))


def name_served_model(run: RunDir, config: Config) -> str:
    """Return the run's name as other programs take it: "orders-4-epochs"; its id if the name has no such character."""
    return make_file_stem(describe_run(read_run_meta(run), str(config.model.hf_model_ckpt or "")), 60) or run.id


def base_model_location(config: Config) -> str:
    """Return where another program finds the base model: a Hub id, or a folder on this machine."""
    name = str(config.model.hf_model_ckpt or "")
    if not name.startswith(BUNDLED):
        return name
    return str(ASSETS / name.removeprefix(BUNDLED))


def _python(config: Config, form: ExportForm, location: str, *, chat: bool) -> Recipe:
    imports, ends = "from transformers import AutoModelForCausalLM, AutoTokenizer", ""
    load = [f"model = AutoModelForCausalLM.from_pretrained(place, dtype={form.dtype or 'auto'!r})"]
    if not form.contains_base:
        imports = "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer"
        load = ["model = AutoPeftModelForCausalLM.from_pretrained(place)"]
        ends = ", eos_token_id=tokenizer.eos_token_id"  # the base model's own settings may name another end
    given = _turns() if config.data.messages is not None else _template(config, chat=chat)
    if chat:
        ask = [
            "text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)",
            'given = tokenizer(text, add_special_tokens=False, return_tensors="pt")',
        ]
    else:
        ask = ['given = tokenizer(prompt(row), return_tensors="pt")']
    lines = [
        imports, "", f"place = {location!r}", "tokenizer = AutoTokenizer.from_pretrained(place)", *load, "",
        *given, *ask, f"made = model.generate(**given, {_generation(config)}{ends})",
        'answer = tokenizer.decode(made[0, given["input_ids"].shape[1] :], skip_special_tokens=True)', "print(answer)",
    ]  # fmt: skip
    return Recipe("Python", "python", "\n".join(lines))


def _turns() -> list[str]:
    """Return the lines that stand for the messages of a run on conversations, which has no template."""
    return [
        "# all messages so far, the last one from the user; first the system message, if your conversations have one",
        'turns = [{"role": "user", "content": "..."}]',
    ]


def _template(config: Config, *, chat: bool) -> list[str]:
    """Return the lines with the prompt template as a function, and a call of it."""
    # every name in braces was a column of the run's table, or the run would not have started
    template = compile_template(config.data.prompt, re.findall(r"\{([^{}]+)\}", config.data.prompt))
    example = ", ".join(f"{name!r}: '...'" for name in template.columns)
    call = ['turns = [{"role": "user", "content": prompt(row)}]'] if chat else []
    lines = ["", "def prompt(row):", f"    return {template_to_python(template)}", "", ""]
    return [*lines, f"row = {{{example}}}", *call]


def template_to_python(template: CompiledTemplate) -> str:
    """Return a Python expression that renders the template for a dict `row`; all texts are quoted with `repr`."""
    pieces = [f"row[{piece.text!r}]" if piece.is_column else repr(piece.text) for piece in template.pieces]
    return " + ".join(pieces) or "''"


def _generation(config: Config) -> str:
    """Return the run's generation settings as keyword arguments of `generate`."""
    settings = config.inference
    parts = [f"max_new_tokens={settings.max_new_tokens or DEFAULT_NEW_TOKENS}", f"do_sample={bool(settings.do_sample)}"]
    if settings.do_sample:
        names = ("temperature", "top_p", "top_k")
        parts += [f"{name}={getattr(settings, name)}" for name in names if getattr(settings, name) is not None]
    return ", ".join(parts)


def _conversion(location: str) -> Recipe:
    """Return the commands to convert with llama.cpp, in an environment of its own: its requirements differ."""
    where, target = shlex.quote(location), shlex.quote(str(Path(location) / GGUF_FILE))
    lines = (
        "git clone --depth 1 https://github.com/ggml-org/llama.cpp",
        "python -m venv llama.cpp/.venv",
        "llama.cpp/.venv/bin/pip install -r llama.cpp/requirements/requirements-convert_hf_to_gguf.txt",
        f"llama.cpp/.venv/bin/python llama.cpp/{GGUF_CONVERTER}.py {where} --outfile {target} --outtype f16",
    )
    return Recipe("Convert it, once", "bash", "\n".join(lines))


def _ollama(run: RunDir, config: Config, location: str) -> Recipe:
    name = name_served_model(run, config)
    lines = (f"cd {shlex.quote(location)}", f"ollama create {name} -f Modelfile", f"ollama run {name}")
    return Recipe("Ollama", "bash", "\n".join(lines))


def _llama_server(location: str) -> Recipe:
    return Recipe("llama.cpp", "bash", f"llama-server -m {shlex.quote(str(Path(location) / GGUF_FILE))} --port 8080")
