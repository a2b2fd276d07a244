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
from toolkit.export.export_state import FORMS, Form, certificate_path, commit_hash, folder_of, unpack
from toolkit.export.parity_certificate import Certificate, Played, Replay, damaged, judge, write_certificate
from toolkit.export.prompt_contract import Contract, Golden, read_contract, reference, template_hash
from toolkit.export.usage_recipes import GGUF
from toolkit.runs.run_dir import RunDir, open_run, read_config
from toolkit.system.durable import scratch, verify_commit
from toolkit.worker.answering.golden_prompts import chat_template_hash, greedy, identity, measure, special_tokens
from toolkit.worker.models import load
from toolkit.worker.models.adapter_switch import trained
from toolkit.worker.models.folder import resolve
from toolkit.worker.models.load import stop_ids
from toolkit.worker.tokens.examples import question

NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


def main(run_id: str, form: str) -> int:
    run = open_run(Path(os.environ["FTK_SAVE_DIR"]), run_id)
    load.quiet_libraries()
    folder = folder_of(run, form)
    commit = commit_hash(folder)
    contract = reference(run)
    if contract is None:
        raise RunError(f"Run {run.id} has no prompt contract.", "Export it again.")
    verdict = check(run, form, contract, commit)
    write_certificate(certificate_path(run, form), verdict)
    print(verdict.verdict)
    return 0


def check(run: RunDir, form: str, contract: Contract, commit: str) -> Certificate:
    """The verdict; files that changed since they were committed are not loaded."""
    try:
        verify_commit(folder_of(run, form), own=False)
    except RunError as error:
        return damaged(form, commit, error.message)
    return judge(contract, play(run, FORMS[form], contract), form=form, commit=commit)


def play(run: RunDir, form: Form, contract: Contract) -> Replay:
    """What the export makes of the contract's prompts. Raises ToolkitError when it can't be loaded."""
    config = read_config(run)
    with _unpacked(run, form) as folder:
        copy = read_contract(folder)
        loaded, base_matches, dtype, precision = _load(config, form, folder, contract)
        tokenizer = load.load_tokenizer(config, folder)
        columns = sorted({name for golden in contract.golden for name in golden.cells})
        renderer = _renderer(copy, columns)
        played = []
        for golden in contract.golden:
            played.append(_played(config, loaded, tokenizer, golden, renderer.example(golden.cells)))
        return Replay(
            template_sha256=template_hash(copy.template.prompt, copy.template.completion, copy.template.messages),
            chat_template_sha256=chat_template_hash(tokenizer),
            special_tokens=special_tokens(loaded, tokenizer),
            base_matches=base_matches, dtype=dtype, precision=precision, played=tuple(played),
        )  # fmt: skip


def _renderer(copy: Contract, columns: list[str]) -> Renderer:
    """The way from a golden row to what is asked; the completion is not needed."""
    if copy.template.messages is not None:
        return chat_renderer(copy.template.messages)
    return make_renderer(copy.template.prompt, "", columns)


def _played(config: Config, loaded: Any, tokenizer: Any, golden: Golden, example: Example) -> Played:
    text, ids = question(config, tokenizer, example.prompt, example.turns)
    limit = max(1, len(golden.answer_ids))
    answer = greedy(loaded, ids or [0], stop_ids(loaded, tokenizer), limit, tokenizer.pad_token_id)
    # measured on the contract's own ids: where only the ids differ, the drift says that the weights are right
    figures = measure(loaded, golden.ids, golden.answer_ids)
    return Played(
        prompt=example.prompt, text=text, ids=ids, answer_ids=answer,
        answer=tokenizer.decode(answer, skip_special_tokens=True, clean_up_tokenization_spaces=False),
        logprobs=figures.logprobs, prompt_logprobs=figures.prompt_logprobs,
    )  # fmt: skip


def _load(
    config: Config, form: Form, folder: Path, contract: Contract
) -> tuple[PreTrainedModel | PeftModel, bool | None, str, str]:
    """(model, whether an adapter's base is the right one, dtype found, dtype promised)."""
    if form.key == "adapter":
        base_folder = resolve(config)
        same = identity(base_folder, contract.base.name) == contract.base
        base = load.load_base(config, folder=base_folder)
        here = str(base.dtype).removeprefix("torch.")
        return trained(base, folder), same, here, contract.precision
    where = "cuda:0" if load.place(config).cuda else "cpu"
    converted = (folder / GGUF).exists()
    arguments: dict[str, Any] = {"gguf_file": GGUF} if converted else {"use_safetensors": True}
    with load.explained(str(folder.name)):
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
    return " and ".join(sorted(NAMES.get(name, name) for name in found))


@contextmanager
def _unpacked(run: RunDir, form: Form) -> Iterator[Path]:
    """The export's files: its folder, or what its zip holds, in a folder that lives as long as the replay."""
    folder = folder_of(run, form.key)
    if form.key != "adapter":
        yield folder
        return
    with scratch(run.exports_dir / ".replay") as temporary:
        unpack(next(iter(folder.glob("*.zip"))), temporary)
        yield temporary


if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1], sys.argv[2]))
    except ToolkitError as error:
        print(json.dumps({"message": error.message, "hint": error.hint}))
        raise SystemExit(1) from error
