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
from toolkit.export.prompt_contract import Contract
from toolkit.export.usage_recipes import CONVERTER, GGUF

SYSTEM, PROMPT, ANSWER = "\u241esystem\u241e", "\u241eprompt\u241e", "\u241eanswer\u241e"
"""Stand-ins that no template contains; what a template writes around them is kept."""


def convert(folder: Path) -> None:
    """Replace the weights in `folder` by model.gguf, where a converter is installed. Raises ToolkitError."""
    if importlib.util.find_spec(CONVERTER) is None:
        return
    done = subprocess.run(
        [sys.executable, "-m", CONVERTER, str(folder), "--outfile", str(folder / GGUF), "--outtype", "f16"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    sys.stderr.write(done.stderr)
    if done.returncode or not (folder / GGUF).exists():
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1][:300]
        hint = "It may not know this architecture or tokenizer yet. Export the merged model instead."
        raise ToolkitError(f"llama.cpp's converter refused: {reason}.", hint)
    for path in folder.glob("*.safetensors*"):
        path.unlink()


def modelfile(config: Config, contract: Contract, tokenizer: PreTrainedTokenizerBase) -> str:
    """Ollama's Modelfile: the prompt form of training, the tokens that end an answer, the run's settings."""
    chosen = config.inference
    lines = [f"FROM ./{GGUF}", f'TEMPLATE """{_template(contract, tokenizer)}"""']
    stops = [tokenizer.decode([token], skip_special_tokens=False) for token in contract.special_tokens.stops]
    lines += [f"PARAMETER stop {_quoted(text)}" for text in stops if text.strip()]
    temperature = chosen.temperature if chosen.do_sample and chosen.temperature is not None else 0
    lines.append(f"PARAMETER temperature {temperature:g}")
    if chosen.do_sample:
        named = (("top_p", chosen.top_p), ("top_k", chosen.top_k))
        lines += [f"PARAMETER {name} {value:g}" for name, value in named if value is not None]
    lines.append(f"PARAMETER num_predict {chosen.max_new_tokens or 128}")
    return "\n".join(lines) + "\n"


def _template(contract: Contract, tokenizer: PreTrainedTokenizerBase) -> str:
    """Go's template of one turn: exactly what the tokenizer's chat template writes around prompt and system prompt."""
    if not contract.chat:
        return "{{ .Prompt }}"
    before, after = _around(tokenizer, [{"role": "user", "content": PROMPT}])
    if contract.special_tokens.bos_added and tokenizer.bos_token:
        before = before.removeprefix(str(tokenizer.bos_token))  # the runtime puts it there itself
    start = _literal(before)
    try:
        turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT}]
        with_system, same_end = _around(tokenizer, turns)
    except Exception:  # noqa: BLE001 - a template may raise anything at a role that it does not know
        with_system, same_end = "", ""
    if SYSTEM in with_system and same_end == after:
        first, second = with_system.split(SYSTEM, 1)
        first = first.removeprefix(str(tokenizer.bos_token)) if contract.special_tokens.bos_added else first
        system = f"{_literal(first)}{{{{ .System }}}}{_literal(second)}"
        start = f"{{{{ if .System }}}}{system}{{{{ else }}}}{start}{{{{ end }}}}"
    turn = f"{start}{{{{ .Prompt }}}}{_literal(after)}"
    if contract.template.messages is None:
        return turn
    # in a conversation earlier answers come before the question, each closed as training saw it
    return f"{turn}{{{{ .Response }}}}{_literal(_after_answer(tokenizer))}"


def _after_answer(tokenizer: PreTrainedTokenizerBase) -> str:
    turns = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": ANSWER}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False)).partition(ANSWER)[2]


def _around(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]]) -> tuple[str, str]:
    text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    before, found, after = text.partition(PROMPT)
    if not found:
        raise ToolkitError("The chat template changes what the user writes.", "Export the merged model instead.")
    return before, after


def _literal(text: str) -> str:
    """Text that Go's template engine and the Modelfile's quotes leave as it is."""
    if '"""' in text:
        raise ToolkitError("The chat template contains three quotes.", "Write the Modelfile by hand.")
    return text.replace("{{", '{{ "{{" }}')


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
