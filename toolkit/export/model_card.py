"""The model card, written from the run: what it is, data, settings, curves, figures with intervals, limits.

Everything in it was measured or set; what is not known is left out. No row of the data is in it. Labels and columns are
text from outside: they stand in code marks, never as markup.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from toolkit.config import BUNDLED, Config
from toolkit.export.export_state import ExportForm
from toolkit.export.prompt_contract import PromptContract
from toolkit.export.usage_recipes import base_model_location, list_usage_recipes
from toolkit.runs.run_dir import RunDir, read_run_meta
from toolkit.runs.status import RunStatus, read_run_status

Z = 1.959964  # of a two-sided 95 % interval


def model_card(
    run: RunDir, config: Config, form: ExportForm, contract: PromptContract, *, picture: str | None, place: str = ".",
    evaluated: str | None = None,
) -> str:  # fmt: skip
    """README.md of an export. picture: the file with the curves, beside it. place: how the snippets name the model.

    evaluated: what an evaluation of this adapter found; without it the card tells the run's own scores.
    """
    status, meta = read_run_status(run), read_run_meta(run)
    dataset: dict[str, Any] = meta.get("dataset") or {}
    model = str(config.model.hf_model_ckpt).removeprefix(BUNDLED)
    made_up = f"{model} on {dataset.get('label') or 'its data'}"
    parts = [
        _front_matter(config, form),
        f"# {inline_code(str(meta.get('name') or made_up))}",
        _introduction(config, form, contract),
        "## Data\n\n" + "\n".join(_data_lines(config, dataset, status)),
        "## Training\n\n" + "\n".join(_training_lines(config, status, contract)),
    ]
    if picture:
        parts.append(f"![Loss by step]({picture})")
    figures = evaluated or "\n".join(_score_lines(run, status))
    if figures:
        parts.append("## Figures\n\n" + figures)
    parts += [
        "## Use\n\n" + _usage_section(run, config, form, contract, place),
        "## Limits\n\n" + "\n".join(_limit_lines(config, status, contract, scored=bool(evaluated or status.scores))),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(config: Config, form: ExportForm) -> str:
    base = str(config.model.hf_model_ckpt or "")
    hub = not base.startswith(BUNDLED) and re.fullmatch(r"[\w.-]+/[\w.-]+", base) and not Path(base).exists()
    library = "peft" if form.key == "adapter" else "transformers"
    tags = ["finetuning-toolkit", *(["lora"] if form.key == "adapter" else [])]
    head = {"library_name": library, "pipeline_tag": "text-generation", "tags": tags}
    return "---\n" + yaml.safe_dump({**({"base_model": base} if hub else {}), **head}, sort_keys=False) + "---"


def _introduction(config: Config, form: ExportForm, contract: PromptContract) -> str:
    what = "A LoRA adapter for" if form.key == "adapter" else f"A LoRA adapter merged ({form.dtype}) into"
    made = f"made with the Finetuning Toolkit on {datetime.now(UTC):%d %B %Y}"
    lead = f"{what} {inline_code(str(config.model.hf_model_ckpt))}, {made}."
    if contract.quantized and form.key != "adapter":
        lead += " The base was quantized in training; the merge used those very weights, put back to full precision."
    return lead


def _data_lines(config: Config, dataset: dict[str, Any], status: RunStatus) -> Iterator[str]:
    prepared, rows = status.prepared, dataset.get("rows")
    size = f", {rows:,} rows" if isinstance(rows, int) else ""
    yield f"- dataset {inline_code(str(dataset.get('label') or config.data.path))}{size}"
    if dataset.get("sha256"):
        yield f"- SHA-256 of the file as it was read: `{dataset['sha256']}`"
    if prepared:
        trained, held = prepared.get("train_rows", 0), prepared.get("test_rows", 0)
        seed = config.data.train_test_split_seed
        yield f"- {trained:,} rows trained on, {held:,} held out, split with seed {seed}"
        dropped, cut = prepared.get("dropped", 0), prepared.get("truncated_rows", 0)
        if dropped or cut:
            yield f"- {dropped:,} rows left out for missing cells, {cut:,} cut to {prepared.get('max_length')} tokens"
    if config.data.messages is not None:
        yield f"- conversations: column {inline_code(config.data.messages)}, system, user and assistant turns"
        yield "- the part that is learned: what the assistant says, with its end; the other turns are read alone"
        return
    yield f"- prompt: {inline_code(config.data.prompt)}"
    yield f"- completion, the part that is learned: {inline_code(config.data.prompt_stub)}"


def _training_lines(config: Config, status: RunStatus, contract: PromptContract) -> Iterator[str]:
    args, lora, plan = config.training.training_args, config.lora, status.plan
    targets = ", ".join(lora.target_modules or []) or "the library's choice"
    yield f"- LoRA rank {lora.r}, alpha {lora.lora_alpha}, dropout {lora.lora_dropout}, on {targets}"
    batch = plan.get("batch_size", args.per_device_train_batch_size)
    pace = f"learning rate {args.learning_rate}, schedule {args.lr_scheduler_type}, seed {args.seed}"
    yield f"- {args.num_train_epochs} epochs, batch {batch}, {pace}"
    if plan:
        trained = f"{plan.get('trainable_parameters', 0):,} of {plan.get('total_parameters', 0):,} weights trained"
        kind = f"{plan.get('precision', '')}{', quantized' if plan.get('quantized') else ''}"
        steps = f"{status.step:,} of {plan.get('total_steps', 0):,} steps"
        yield f"- {steps}, {trained}, {kind}, on {inline_code(str(plan.get('device', '')))}"
    yield "- " + ", ".join(f"{name} {version}" for name, version in contract.versions.items())
    config_hash, weights_hash = contract.base.config_sha256[:16], contract.base.weights_sha256[:16]
    yield f"- base model identity: config `{config_hash}`, weights' headers `{weights_hash}`"


def _score_lines(run: RunDir, status: RunStatus) -> Iterator[str]:
    scored = exact_matches(run.evaluation_dir / "predictions.jsonl")
    if scored or status.last.get("eval_loss") is not None:
        yield "The run's own scores at its end; it was not evaluated further.\n"
        yield "| on the held-out rows | base model | this model |\n|---|---|---|"
    if scored:
        rows, base, adapter = scored
        yield f"| exact match, {rows:,} rows (95 % interval) | {_share_with_interval(base, rows)} | {_share_with_interval(adapter, rows)} |"
    loss = status.last.get("eval_loss")
    if isinstance(loss, int | float):
        yield f"| loss of the completion | – | {loss:.4g} |"


def exact_matches(path: Path) -> tuple[int, int, int] | None:
    """(rows, right answers of the base, of the adapter) in a run's predictions, outer white space aside."""
    try:
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        base, adapter = (
            sum(str(row[which]).strip() == str(row["expected"]).strip() for row in found)
            for which in ("base", "adapter")
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (len(found), base, adapter) if found else None


def interval(right: int, rows: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share: honest for few rows, and at 0 and 100 %."""
    p, centre = right / rows, 1 + Z**2 / rows
    middle = (p + Z**2 / (2 * rows)) / centre
    half = Z / centre * math.sqrt(p * (1 - p) / rows + Z**2 / (4 * rows**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def _share_with_interval(right: int, rows: int) -> str:
    low, high = interval(right, rows)
    return f"{100 * right / rows:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _usage_section(run: RunDir, config: Config, form: ExportForm, contract: PromptContract, place: str) -> str:
    if config.data.messages is not None:
        lead = "Asked in the tokenizer's chat template with all turns so far, the system message among them if its "
        lead += "conversations began with one."
    elif contract.chat:
        lead = "Asked in the tokenizer's chat template, one user message holding the prompt."
    else:
        lead = "Asked with the bare prompt: it was trained without a chat template."
    ways = [
        one
        for one in list_usage_recipes(run, config, form, place, chat=contract.chat)
        if "toolkit serve" not in one.text
    ]
    blocks = [f"**{one.title}**\n\n```{one.language}\n{one.text}\n```" for one in ways]
    if form.key == "adapter" and str(config.model.hf_model_ckpt).startswith(BUNDLED):
        lead += f" The base model came with the toolkit, from {inline_code(base_model_location(config))}."
    return "\n\n".join([lead, *blocks])


def _limit_lines(config: Config, status: RunStatus, contract: PromptContract, *, scored: bool) -> Iterator[str]:
    form = "the form of its conversations" if config.data.messages is not None else "the form of the prompts above"
    yield f"- It learned {form}; asked otherwise it may answer like its base model, or worse."
    yield "- The licence and the limits of the base model hold for it too."
    if status.state in ("stopped", "paused"):
        yield f"- Its training was stopped after step {status.step:,} of {status.total_steps:,}."
    if not scored:
        yield "- Its answers were not scored on held-out rows."
    elif contract.golden and contract.golden[0].split == "train":
        yield "- No row was held out: nothing here says how it answers what it has not seen."
    yield "- `contract.json` holds golden prompts of the data; any copy can be checked against them."


def inline_code(text: str) -> str:
    """Text from outside as inline code, on one line, whatever back-ticks it holds."""
    flat = " ".join(text.split())[:300]
    longest = max((len(run) for run in re.findall(r"`+", flat)), default=0)
    mark = "`" * (longest + 1)
    pad = " " if longest else ""
    return f"{mark}{pad}{flat}{pad}{mark}"
