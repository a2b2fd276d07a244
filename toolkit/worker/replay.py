"""python -m toolkit.worker.replay RUN FORM: replays a run's golden prompts on one of its exports, in a fresh process.

The export is loaded from its files as any user would load it, with its own tokenizer, templates and weights. Writes
exports/<form>.certificate.json. Exit status: 0 when the replay was possible, whatever the verdict; 1 when it was not,
with the reason as JSON {"message", "hint"} in the last line of the output.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from toolkit.config import Config
from toolkit.data.examples.renderers import chat_renderer
from toolkit.data.examples.templates import Example, Renderer, make_renderer
from toolkit.errors import RunError, ToolkitError
from toolkit.export.export_forms import EXPORT_FORMS, ExportForm, resolve_form_function
from toolkit.export.export_state import certificate_path, commit_hash, export_folder
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
from toolkit.runs.run_dir import RunDir, open_run, read_run_config
from toolkit.system.durable import verify_commit
from toolkit.system.private_files import restrict_new_files
from toolkit.worker.answering.golden_prompts import (
    chat_template_hash,
    generate_greedy_ids,
    measure_token_logprobs,
    read_adapter_precision,
    special_tokens,
)
from toolkit.worker.exporting.rounding_noise import measure_export_noise
from toolkit.worker.models import load
from toolkit.worker.models.load import stop_token_ids
from toolkit.worker.tokens.encode import chat_templates_at
from toolkit.worker.tokens.examples import encode_example_prompt


def main(run_id: str, form: str) -> int:
    """Replay the export and write its certificate. Return the exit status. Raises ToolkitError."""
    run = open_run(Path(os.environ["FTK_SAVE_DIR"]), run_id)
    load.quiet_libraries()
    commit = commit_hash(export_folder(run, form))
    contract = read_reference_contract(run)
    if contract is None:
        raise RunError(f"Run {run.id} has no prompt contract.", "Export it again.")
    certificate = certify_export(run, form, contract, commit)
    write_certificate(certificate_path(run, form), certificate)
    print(certificate.verdict)
    return 0


def certify_export(run: RunDir, form: str, contract: PromptContract, commit: str) -> Certificate:
    """Return the verdict on an export. Files that changed since they were committed are not loaded."""
    try:
        verify_commit(export_folder(run, form), require_own_signature=False)
    except RunError as error:
        return certify_damaged_export(form, commit, error.message)
    replay = replay_golden_prompts(run, EXPORT_FORMS[form], contract)
    if EXPORT_FORMS[form].contains_base and contract.golden:
        # after the export is released: both in memory would be too much
        noise = measure_export_noise(run, read_run_config(run), contract, replay.precision)
        replay = replay.model_copy(update={"noise": noise})
    return certify_replay(contract, replay, form=form, commit=commit)


def replay_golden_prompts(run: RunDir, form: ExportForm, contract: PromptContract) -> ExportReplay:
    """Answer the contract's golden prompts with the export. Raises ToolkitError when it can't be loaded."""
    config = read_run_config(run)
    with resolve_form_function(form.load)(run, config, form, contract) as export:
        copy = read_contract(export.folder)
        tokenizer = export.tokenizer or load.load_tokenizer(config, export.folder)
        renderer = _make_renderer(copy, sorted({name for golden in contract.golden for name in golden.cells}))
        with chat_templates_at(contract.rendered):
            played = tuple(
                _replay_prompt(config, export.model, tokenizer, golden, renderer.example(golden.cells))
                for golden in contract.golden
            )
        return ExportReplay(
            template_sha256=hash_templates(copy.template.prompt, copy.template.completion, copy.template.messages),
            chat_template_sha256=chat_template_hash(tokenizer),
            special_tokens=special_tokens(export.model, tokenizer),
            base_matches=export.base_matches,
            dtype=export.dtype,
            precision=export.precision,
            adapter_precision=read_adapter_precision(export.model),
            played=played,
        )


def _make_renderer(copy: PromptContract, columns: list[str]) -> Renderer:
    """Return what renders a golden row with the export's own templates; the completion is not needed."""
    if copy.template.messages is not None:
        return chat_renderer(copy.template.messages)
    return make_renderer(copy.template.prompt, "", columns)


def _replay_prompt(
    config: Config, model: Any, tokenizer: Any, golden: GoldenPrompt, example: Example
) -> ReplayedPrompt:
    text, ids = encode_example_prompt(config, tokenizer, example.prompt, example.turns)
    limit = max(1, len(golden.answer_ids))
    answer = generate_greedy_ids(model, ids or [0], stop_token_ids(model, tokenizer), limit, tokenizer.pad_token_id)
    # measured on the contract's ids: when only the export's ids differ, a small drift shows that the weights are right
    figures = measure_token_logprobs(model, golden.ids, golden.answer_ids)
    return ReplayedPrompt(
        prompt=example.prompt,
        text=text,
        ids=ids,
        answer_ids=answer,
        answer=tokenizer.decode(answer, skip_special_tokens=True, clean_up_tokenization_spaces=False),
        logprobs=figures.logprobs,
        prompt_logprobs=figures.prompt_logprobs,
    )


if __name__ == "__main__":
    restrict_new_files()
    try:
        raise SystemExit(main(sys.argv[1], sys.argv[2]))
    except ToolkitError as error:
        print(json.dumps({"message": error.message, "hint": error.hint}))
        raise SystemExit(1) from error
