"""A merged model for llama.cpp and Ollama: the Modelfile, and the GGUF where llama.cpp's converter is installed.

The converter is no package of its own makers; where one named `convert_hf_to_gguf` is installed it is used, in a
process of its own. Elsewhere the export holds what it would read, and `export/usage_recipes.py` has the exact commands.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from toolkit.config import Config
from toolkit.errors import ToolkitError
from toolkit.export.prompt_contract import PromptContract
from toolkit.export.usage_recipes import GGUF_CONVERTER, GGUF_FILE

SYSTEM_PLACEHOLDER, PROMPT_PLACEHOLDER, ANSWER_PLACEHOLDER = (
    "\u241esystem\u241e",
    "\u241eprompt\u241e",
    "\u241eanswer\u241e",
)
"""Stand-ins that no template contains; what a template writes around them is kept."""


def convert_to_gguf(folder: Path) -> None:
    """Replace the weights in `folder` by model.gguf, where a converter is installed. Raises ToolkitError."""
    if importlib.util.find_spec(GGUF_CONVERTER) is None:
        return
    done = subprocess.run(
        [sys.executable, "-m", GGUF_CONVERTER, str(folder), "--outfile", str(folder / GGUF_FILE), "--outtype", "f16"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    sys.stderr.write(done.stderr)
    if done.returncode or not (folder / GGUF_FILE).exists():
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1][:300]
        hint = "It may not know this architecture or tokenizer yet. Export the merged model instead."
        raise ToolkitError(f"llama.cpp's converter refused: {reason}.", hint)
    for path in folder.glob("*.safetensors*"):
        path.unlink()


def make_modelfile(config: Config, contract: PromptContract, tokenizer: PreTrainedTokenizerBase) -> str:
    """Ollama's Modelfile: the prompt form of training, the tokens that end an answer, the run's settings."""
    chosen = config.inference
    lines = [f"FROM ./{GGUF_FILE}", f'TEMPLATE """{_go_template(contract, tokenizer)}"""']
    stops = [tokenizer.decode([token], skip_special_tokens=False) for token in contract.special_tokens.stops]
    lines += [f"PARAMETER stop {_quote_parameter(text)}" for text in stops if text.strip()]
    temperature = chosen.temperature if chosen.do_sample and chosen.temperature is not None else 0
    lines.append(f"PARAMETER temperature {temperature:g}")
    if chosen.do_sample:
        named = (("top_p", chosen.top_p), ("top_k", chosen.top_k))
        lines += [f"PARAMETER {name} {value:g}" for name, value in named if value is not None]
    lines.append(f"PARAMETER num_predict {chosen.max_new_tokens or 128}")
    return "\n".join(lines) + "\n"


def _go_template(contract: PromptContract, tokenizer: PreTrainedTokenizerBase) -> str:
    """Go's template of one turn: exactly what the tokenizer's chat template writes around prompt and system prompt."""
    if not contract.chat:
        return "{{ .Prompt }}"
    before, after = _split_at_prompt(tokenizer, [{"role": "user", "content": PROMPT_PLACEHOLDER}])
    if contract.special_tokens.bos_added and tokenizer.bos_token:
        before = before.removeprefix(str(tokenizer.bos_token))  # the runtime puts it there itself
    start = _escape_template_text(before)
    try:
        turns = [{"role": "system", "content": SYSTEM_PLACEHOLDER}, {"role": "user", "content": PROMPT_PLACEHOLDER}]
        with_system, same_end = _split_at_prompt(tokenizer, turns)
    except Exception:  # noqa: BLE001 - its answer counts, and that it has no loss is shown
        with_system, same_end = "", ""
    if SYSTEM_PLACEHOLDER in with_system and same_end == after:
        first, second = with_system.split(SYSTEM_PLACEHOLDER, 1)
        first = first.removeprefix(str(tokenizer.bos_token)) if contract.special_tokens.bos_added else first
        system = f"{_escape_template_text(first)}{{{{ .System }}}}{_escape_template_text(second)}"
        start = f"{{{{ if .System }}}}{system}{{{{ else }}}}{start}{{{{ end }}}}"
    turn = f"{start}{{{{ .Prompt }}}}{_escape_template_text(after)}"
    if contract.template.messages is None:
        return turn
    # in a conversation earlier answers come before the question, each closed as training saw it
    return f"{turn}{{{{ .Response }}}}{_escape_template_text(_after_answer(tokenizer))}"


def _after_answer(tokenizer: PreTrainedTokenizerBase) -> str:
    turns = [{"role": "user", "content": PROMPT_PLACEHOLDER}, {"role": "assistant", "content": ANSWER_PLACEHOLDER}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False)).partition(ANSWER_PLACEHOLDER)[2]


def _split_at_prompt(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]]) -> tuple[str, str]:
    text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    before, found, after = text.partition(PROMPT_PLACEHOLDER)
    if not found:
        raise ToolkitError("The chat template changes what the user writes.", "Export the merged model instead.")
    return before, after


def _escape_template_text(text: str) -> str:
    """Text that Go's template engine and the Modelfile's quotes leave as it is."""
    if '"""' in text:
        raise ToolkitError("The chat template contains three quotes.", "Write the Modelfile by hand.")
    return text.replace("{{", '{{ "{{" }}')


def _quote_parameter(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
