"""Ollama's Modelfile: the prompt format of training as a Go template, stop tokens, and the generation settings."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from toolkit.config import Config
from toolkit.errors import ToolkitError
from toolkit.export.export_forms import GGUF_FILE
from toolkit.export.prompt_contract import PromptContract

DEFAULT_NEW_TOKENS = 128  # when the run does not limit its answers, as in the playground
SYSTEM_PLACEHOLDER, PROMPT_PLACEHOLDER, ANSWER_PLACEHOLDER = (
    "\u241esystem\u241e",
    "\u241eprompt\u241e",
    "\u241eanswer\u241e",
)
"""Texts that no chat template contains: whatever the template writes around them belongs to its format."""


def make_modelfile(config: Config, contract: PromptContract, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return Ollama's Modelfile: prompt format of training, stop tokens, and the run's generation settings."""
    settings = config.inference
    lines = [f"FROM ./{GGUF_FILE}", f'TEMPLATE """{_go_template(contract, tokenizer)}"""']
    stops = [tokenizer.decode([token], skip_special_tokens=False) for token in contract.special_tokens.stops]
    lines += [f"PARAMETER stop {_quote_parameter(text)}" for text in stops if text.strip()]
    temperature = settings.temperature if settings.do_sample and settings.temperature is not None else 0
    lines.append(f"PARAMETER temperature {temperature:g}")
    if settings.do_sample:
        named = (("top_p", settings.top_p), ("top_k", settings.top_k))
        lines += [f"PARAMETER {name} {value:g}" for name, value in named if value is not None]
    lines.append(f"PARAMETER num_predict {settings.max_new_tokens or DEFAULT_NEW_TOKENS}")
    return "\n".join(lines) + "\n"


def _go_template(contract: PromptContract, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the Go template of one turn: what the tokenizer's chat template writes around prompt and system prompt."""
    if not contract.chat:
        return "{{ .Prompt }}"
    before, after = _split_at_prompt(tokenizer, [{"role": "user", "content": PROMPT_PLACEHOLDER}])
    if contract.special_tokens.bos_added and tokenizer.bos_token:
        before = before.removeprefix(str(tokenizer.bos_token))  # llama.cpp and Ollama add it themselves
    start = _escape_template_text(before)
    try:
        turns = [{"role": "system", "content": SYSTEM_PLACEHOLDER}, {"role": "user", "content": PROMPT_PLACEHOLDER}]
        with_system, same_end = _split_at_prompt(tokenizer, turns)
    except Exception:  # noqa: BLE001 - a template may refuse a system message in any way: then there is none
        with_system, same_end = "", ""
    if SYSTEM_PLACEHOLDER in with_system and same_end == after:
        first, second = with_system.split(SYSTEM_PLACEHOLDER, 1)
        first = first.removeprefix(str(tokenizer.bos_token)) if contract.special_tokens.bos_added else first
        system = f"{_escape_template_text(first)}{{{{ .System }}}}{_escape_template_text(second)}"
        start = f"{{{{ if .System }}}}{system}{{{{ else }}}}{start}{{{{ end }}}}"
    turn = f"{start}{{{{ .Prompt }}}}{_escape_template_text(after)}"
    if contract.template.messages is None:
        return turn
    # in a conversation Ollama repeats the template for every earlier turn: close its answer as training did
    return f"{turn}{{{{ .Response }}}}{_escape_template_text(_after_answer(tokenizer))}"


def _after_answer(tokenizer: PreTrainedTokenizerBase) -> str:
    turns = [{"role": "user", "content": PROMPT_PLACEHOLDER}, {"role": "assistant", "content": ANSWER_PLACEHOLDER}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False)).partition(ANSWER_PLACEHOLDER)[2]


def _split_at_prompt(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]]) -> tuple[str, str]:
    text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    before, found, after = text.partition(PROMPT_PLACEHOLDER)
    if not found:
        raise ToolkitError("The chat template changes the text of the prompt.", "Export the merged model instead.")
    return before, after


def _escape_template_text(text: str) -> str:
    """Escape text for Go's template engine inside the Modelfile's triple quotes."""
    if '"""' in text:
        raise ToolkitError("The chat template contains three double quotes in a row.", "Write the Modelfile by hand.")
    return text.replace("{{", '{{ "{{" }}')


def _quote_parameter(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
