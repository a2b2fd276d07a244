"""python -m toolkit.worker.replay RUN FORM: plays a run's golden prompts on one of its exports, in a fresh process.

The export is loaded from its files as anybody would load it: its own tokenizer, templates and weights. Writes
exports/<form>.certificate.json; what passes is `export/parity_certificate.py`'s to say. Exit status: 0 played, whatever the
verdict; 1 it could not be played, with the reason as the last line of the output.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from toolkit.config import Config
from toolkit.data.examples.renderers import chat_renderer
from toolkit.data.examples.templates import Example, Renderer, make_renderer
from toolkit.errors import RunError, ToolkitError
from toolkit.export.export_state import EXPORT_FORMS, ExportForm, certificate_path, commit_hash, export_folder, unpack
from toolkit.export.parity_certificate import (
    Certificate,
    ExportReplay,
    ReplayedPrompt,
    certify_damaged_export,
    certify_replay,
    write_certificate,
)
from toolkit.export.prompt_contract import (
    GoldenPrompt,
    PromptContract,
    hash_templates,
    read_contract,
    read_reference_contract,
)
from toolkit.export.usage_recipes import GGUF_FILE
from toolkit.runs.run_dir import RunDir, open_run, read_run_config
from toolkit.system.durable import scratch_dir, verify_commit
from toolkit.worker.answering.golden_prompts import (
    chat_template_hash,
    generate_greedy_ids,
    measure_token_logprobs,
    read_base_identity,
    special_tokens,
)
from toolkit.worker.models import load
from toolkit.worker.models.adapter_switch import load_trained_adapter
from toolkit.worker.models.folder import resolve_model_folder
from toolkit.worker.models.load import stop_token_ids
from toolkit.worker.tokens.examples import encode_example_prompt

DTYPE_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


def main(run_id: str, form: str) -> int:
    run = open_run(Path(os.environ["FTK_SAVE_DIR"]), run_id)
    load.quiet_libraries()
    folder = export_folder(run, form)
    commit = commit_hash(folder)
    contract = read_reference_contract(run)
    if contract is None:
        raise RunError(f"Run {run.id} has no prompt contract.", "Export it again.")
    verdict = certify_export(run, form, contract, commit)
    write_certificate(certificate_path(run, form), verdict)
    print(verdict.verdict)
    return 0


def certify_export(run: RunDir, form: str, contract: PromptContract, commit: str) -> Certificate:
    """The verdict; files that changed since they were committed are not loaded."""
    try:
        verify_commit(export_folder(run, form), own=False)
    except RunError as error:
        return certify_damaged_export(form, commit, error.message)
    return certify_replay(contract, replay_golden_prompts(run, EXPORT_FORMS[form], contract), form=form, commit=commit)


def replay_golden_prompts(run: RunDir, form: ExportForm, contract: PromptContract) -> ExportReplay:
    """What the export makes of the contract's prompts. Raises ToolkitError when it can't be loaded."""
    config = read_run_config(run)
    with _unpacked(run, form) as folder:
        copy = read_contract(folder)
        loaded, base_matches, dtype, precision = _load_export(config, form, folder, contract)
        tokenizer = load.load_tokenizer(config, folder)
        columns = sorted({name for golden in contract.golden for name in golden.cells})
        renderer = _renderer(copy, columns)
        played = []
        for golden in contract.golden:
            played.append(_replay_prompt(config, loaded, tokenizer, golden, renderer.example(golden.cells)))
        return ExportReplay(
            template_sha256=hash_templates(copy.template.prompt, copy.template.completion, copy.template.messages),
            chat_template_sha256=chat_template_hash(tokenizer),
            special_tokens=special_tokens(loaded, tokenizer),
            base_matches=base_matches, dtype=dtype, precision=precision, played=tuple(played),
        )  # fmt: skip


def _renderer(copy: PromptContract, columns: list[str]) -> Renderer:
    """The way from a golden row to what is asked; the completion is not needed."""
    if copy.template.messages is not None:
        return chat_renderer(copy.template.messages)
    return make_renderer(copy.template.prompt, "", columns)


def _replay_prompt(
    config: Config, loaded: Any, tokenizer: Any, golden: GoldenPrompt, example: Example
) -> ReplayedPrompt:
    text, ids = encode_example_prompt(config, tokenizer, example.prompt, example.turns)
    limit = max(1, len(golden.answer_ids))
    answer = generate_greedy_ids(loaded, ids or [0], stop_token_ids(loaded, tokenizer), limit, tokenizer.pad_token_id)
    # measured on the contract's own ids: where only the ids differ, the drift says that the weights are right
    figures = measure_token_logprobs(loaded, golden.ids, golden.answer_ids)
    return ReplayedPrompt(
        prompt=example.prompt, text=text, ids=ids, answer_ids=answer,
        answer=tokenizer.decode(answer, skip_special_tokens=True, clean_up_tokenization_spaces=False),
        logprobs=figures.logprobs, prompt_logprobs=figures.prompt_logprobs,
    )  # fmt: skip


def _load_export(
    config: Config, form: ExportForm, folder: Path, contract: PromptContract
) -> tuple[PreTrainedModel | PeftModel, bool | None, str, str]:
    """(model, whether an adapter's base is the right one, dtype found, dtype promised)."""
    if form.key == "adapter":
        base_folder = resolve_model_folder(config)
        same = read_base_identity(base_folder, contract.base.name) == contract.base
        base = load.load_base_model(config, folder=base_folder)
        here = str(base.dtype).removeprefix("torch.")
        return load_trained_adapter(base, folder), same, here, contract.precision
    where = "cuda:0" if load.detect_compute_device(config).cuda else "cpu"
    converted = (folder / GGUF_FILE).exists()
    arguments: dict[str, Any] = {"gguf_file": GGUF_FILE} if converted else {"use_safetensors": True}
    with load.explain_load_errors(str(folder.name)):
        loaded = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=form.dtype if converted else "auto",
            local_files_only=True,
            trust_remote_code=False,
            **arguments,
        ).eval()
    found = weights_dtype(folder) if not converted else form.dtype
    served = str(loaded.dtype).removeprefix("torch.")
    return loaded.to(where), None, found if found == served else f"{found}, loaded as {served}", form.dtype


def weights_dtype(folder: Path) -> str:
    """The one precision of all floating-point weights in the folder's safetensors, or all of them, named."""
    found: set[str] = set()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        found |= {entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
    return " and ".join(sorted(DTYPE_NAMES.get(name, name) for name in found))


@contextmanager
def _unpacked(run: RunDir, form: ExportForm) -> Iterator[Path]:
    """The export's files: its folder, or what its zip holds, in a folder that lives as long as the replay."""
    folder = export_folder(run, form.key)
    if form.key != "adapter":
        yield folder
        return
    with scratch_dir(run.exports_dir / ".replay") as temporary:
        unpack(next(iter(folder.glob("*.zip"))), temporary)
        yield temporary


if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1], sys.argv[2]))
    except ToolkitError as error:
        print(json.dumps({"message": error.message, "hint": error.hint}))
        raise SystemExit(1) from error
