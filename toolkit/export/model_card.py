"""The model card of an export: what the model is, data, settings, curves, figures with intervals, limits.

It contains only what was measured or set; unknown values are left out, and no row of the data is in it. Labels and
column names come from outside: they are written as inline code, never as markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from toolkit.config import BUNDLED, Config
from toolkit.evaluation.predictions import ADAPTER, compute_exact_match, read_predictions
from toolkit.evaluation.statistics.measures import EXACT_MATCH_MEASURE, MEASURES_BY_NAME
from toolkit.evaluation.statistics.verdict import format_with_interval
from toolkit.export.export_forms import ExportForm
from toolkit.export.prompt_contract import PromptContract
from toolkit.export.usage_recipes import base_model_location, list_usage_recipes
from toolkit.runs.model_names import BASE
from toolkit.runs.run_dir import RunDir, read_run_meta
from toolkit.runs.status import RunStatus, read_run_status
from toolkit.system.printable import format_plural, strip_control_characters

CHART_FILE = "curves.png"


def model_card(
    run: RunDir,
    config: Config,
    form: ExportForm,
    contract: PromptContract,
    *,
    chart_file: str | None,
    location: str = ".",
    figures: str | None = None,
) -> str:
    """Return README.md of an export.

    chart_file: name of the file with the loss curves, if there is one. location: how the snippets name the model.
    figures: Markdown about an evaluation of this adapter; without it the card gives the run's own scores.
    """
    status, meta = read_run_status(run), read_run_meta(run)
    dataset: dict[str, Any] = meta.get("dataset") or {}
    model = str(config.model.hf_model_ckpt).removeprefix(BUNDLED)
    default_name = f"{model} on {dataset.get('label') or 'its data'}"
    parts = [
        _front_matter(config, form),
        f"# {inline_code(str(meta.get('name') or default_name))}",
        _introduction(config, form, contract),
        "## Data\n\n" + "\n".join(_data_lines(config, dataset, status)),
        "## Training\n\n" + "\n".join(_training_lines(config, status, contract)),
    ]
    if chart_file:
        parts.append(f"![Loss by step]({chart_file})")
    shown_figures = figures or "\n".join(_score_lines(run, status))
    if shown_figures:
        parts.append("## Results\n\n" + shown_figures)
    parts += [
        "## Use\n\n" + _usage_section(run, config, form, contract, location),
        "## Limits\n\n" + "\n".join(_limit_lines(config, status, contract, scored=bool(figures or status.scores))),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(config: Config, form: ExportForm) -> str:
    base = str(config.model.hf_model_ckpt or "")
    hub = not base.startswith(BUNDLED) and re.fullmatch(r"[\w.-]+/[\w.-]+", base) and not Path(base).exists()
    library = "transformers" if form.contains_base else "peft"
    tags = ["finetuning-toolkit", *([] if form.contains_base else ["lora"])]
    head = {"library_name": library, "pipeline_tag": "text-generation", "tags": tags}
    return "---\n" + yaml.safe_dump({**({"base_model": base} if hub else {}), **head}, sort_keys=False) + "---"


def _introduction(config: Config, form: ExportForm, contract: PromptContract) -> str:
    what = f"A LoRA adapter merged ({form.dtype}) into" if form.contains_base else "A LoRA adapter for"
    made = f"made with the Finetuning Toolkit on {datetime.now(UTC):%d %B %Y}"
    lead = f"{what} {inline_code(str(config.model.hf_model_ckpt))}, {made}."
    if contract.quantized and form.contains_base:
        lead += " The base model was quantized in training; the merge used those weights, restored to full precision."
    return lead


def _data_lines(config: Config, dataset: dict[str, Any], status: RunStatus) -> Iterator[str]:
    prepared, rows = status.prepared, dataset.get("rows")
    size = f", {format_plural(rows, 'row')}" if isinstance(rows, int) else ""
    yield f"- dataset {inline_code(str(dataset.get('label') or config.data.path))}{size}"
    if dataset.get("sha256"):
        yield f"- SHA-256 of the file as it was read: {inline_code(str(dataset['sha256']))}"
    if prepared:
        train, test = (format_plural(prepared.get(name, 0), "row") for name in ("train_rows", "test_rows"))
        yield f"- training set {train}, test set {test}, split with seed {config.data.train_test_split_seed}"
        skipped, truncated = prepared.get("dropped", 0), prepared.get("truncated_rows", 0)
        if skipped or truncated:
            limit = inline_code(str(prepared.get("max_length")))
            rows_skipped = format_plural(skipped, "row")
            yield f"- {rows_skipped} skipped for missing cells, {truncated:,} truncated to {limit} tokens"
    if config.data.messages is not None:
        yield f"- conversations: column {inline_code(config.data.messages)}, system, user and assistant turns"
        yield "- trained: the assistant's messages with their end tokens; all other messages are masked"
        return
    yield f"- prompt: {inline_code(config.data.prompt)}"
    yield f"- completion, the trained part: {inline_code(config.data.prompt_stub)}"


def _training_lines(config: Config, status: RunStatus, contract: PromptContract) -> Iterator[str]:
    args, lora, plan = config.training.training_args, config.lora, status.plan
    targets = ", ".join(map(inline_code, lora.target_modules or [])) or "the library's default modules"
    yield f"- LoRA rank {lora.r}, alpha {lora.lora_alpha}, dropout {lora.lora_dropout}, on {targets}"
    batch = plan.get("batch_size", args.per_device_train_batch_size)
    pace = f"learning rate {args.learning_rate}, schedule {args.lr_scheduler_type}, seed {args.seed}"
    epochs = format_plural(args.num_train_epochs or 1, "epoch")
    length = f"at most {format_plural(args.max_steps, 'step')}" if args.max_steps else epochs
    yield f"- {length}, batch {batch}, {pace}"
    if plan:
        trained = f"{plan.get('trainable_parameters', 0):,} of {plan.get('total_parameters', 0):,} weights trained"
        kind = f"{inline_code(str(plan.get('precision', '')))}{', quantized' if plan.get('quantized') else ''}"
        steps = f"{status.step:,} of {plan.get('total_steps', 0):,} steps"
        yield f"- {steps}, {trained}, {kind}, on {inline_code(str(plan.get('device', '')))}"
    yield "- " + ", ".join(inline_code(f"{name} {version}") for name, version in contract.versions.items())
    base = contract.base
    hashes = f"config {inline_code(base.config_sha256[:16])}, weights' headers {inline_code(base.weights_sha256[:16])}"
    yield f"- base model identity: {hashes}"


def _score_lines(run: RunDir, status: RunStatus) -> Iterator[str]:
    answered = read_predictions(run)
    if answered or status.last.get("eval_loss") is not None:
        yield "Scores from the end of the run; no separate evaluation was made.\n"
        yield "| on the test set | base model | this model |\n|---|---|---|"
    if answered:
        figure, measure = compute_exact_match(answered), MEASURES_BY_NAME[EXACT_MATCH_MEASURE]
        base, adapter = (format_with_interval(measure, figure.models[name]) for name in (BASE, ADAPTER))
        yield f"| exact match, {format_plural(figure.rows, 'row')} (95 % interval) | {base} | {adapter} |"
    loss = status.last.get("eval_loss")
    if isinstance(loss, int | float):
        yield f"| loss on the completion | – | {loss:.4g} |"


def _usage_section(run: RunDir, config: Config, form: ExportForm, contract: PromptContract, location: str) -> str:
    if config.data.messages is not None:
        lead = "Prompt it in the tokenizer's chat template with all turns so far, including the system message if "
        lead += "your conversations begin with one."
    elif contract.chat:
        lead = "Prompt it in the tokenizer's chat template, with the prompt as one user message."
    else:
        lead = "Prompt it with the bare prompt: it was trained without a chat template."
    recipes = list_usage_recipes(run, config, form, location, chat=contract.chat)
    blocks = [
        f"**{recipe.title}**\n\n{_code_block(recipe.language, recipe.text)}"
        for recipe in recipes
        if "toolkit serve" not in recipe.text  # works only where the run is
    ]
    if not form.contains_base and str(config.model.hf_model_ckpt).startswith(BUNDLED):
        lead += f" The base model is part of the toolkit: {inline_code(base_model_location(config))}."
    return "\n\n".join([lead, *blocks])


def _limit_lines(config: Config, status: RunStatus, contract: PromptContract, *, scored: bool) -> Iterator[str]:
    trained = "the format of its conversations" if config.data.messages is not None else "the prompt format above"
    yield f"- It was trained on {trained}; with other prompts it may answer like its base model, or worse."
    yield "- The license and the limits of the base model apply to it too."
    if status.state in ("stopped", "paused"):
        yield f"- Its training was stopped after step {status.step:,} of {status.total_steps:,}."
    if not scored:
        yield "- Its answers were not scored on a test set."
    elif contract.golden and contract.golden[0].split == "train":
        yield "- The run had no test set: nothing here shows how it answers prompts that it was not trained on."
    yield "- `contract.json` contains golden prompts from the data; any copy can be checked against them."


def _code_block(language: str, text: str) -> str:
    mark = "`" * (max(map(len, re.findall(r"`{3,}", text)), default=2) + 1)
    return f"{mark}{language}\n{text}\n{mark}"


def inline_code(text: str) -> str:
    """Return text from outside as Markdown inline code, on one line and safe with any back-ticks in it."""
    flat = " ".join(strip_control_characters(text).split())[:300]
    if not flat:
        return ""
    longest = max((len(ticks) for ticks in re.findall(r"`+", flat)), default=0)
    mark = "`" * (longest + 1)
    pad = " " if longest else ""
    return f"{mark}{pad}{flat}{pad}{mark}"
