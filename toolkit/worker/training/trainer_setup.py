"""The trainer of a run, put together: its model, attention, adapter and arguments, and which rows share a batch.

Knows what a session knows; how the training goes is `training.py`'s.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig

from toolkit.errors import ToolkitError
from toolkit.lifecycle import memory_autopilot
from toolkit.runs.events import read_events
from toolkit.settings import device_defaults
from toolkit.settings.device_defaults import ComputeDevice, resolve_max_length
from toolkit.worker.compute.packing import keeps_examples_apart
from toolkit.worker.compute.padding_free import MODEL_REFUSALS, flash_attention_row, respects_borders
from toolkit.worker.models import library_arguments, load
from toolkit.worker.models.folder import first_error_line
from toolkit.worker.models.lora_setup import build_lora_config
from toolkit.worker.training.trainer import PreparedTrainer

if TYPE_CHECKING:
    from toolkit.worker.training.session_context import TrainingSession


def make_trainer(
    session: TrainingSession,
    where: ComputeDevice,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    train: Dataset,
    test: Dataset,
    other: Mapping[str, Any] = MappingProxyType({}),
) -> PreparedTrainer:
    """The trainer of a run's model on its rows. `other` replaces arguments of SFTConfig. Raises ToolkitError."""
    if len(train) < session.team.processes:
        message = f"{len(train)} training rows can't be shared by {session.team.processes} processes."
        raise ToolkitError(message, "Lower num_processes, or add rows.")
    arguments = {**library_arguments.sft_args(session.config, where, str(session.run.checkpoints_dir)), **other}
    if not len(test):
        arguments["eval_strategy"] = "no"
    args = SFTConfig(**arguments)
    if session.team.processes == 1 and args.n_gpu > 1:
        # device_map "auto" may put a small model on one of several GPUs: it is not copied to the others
        args._n_gpu = 1
    base = load.load_base_model(session.config, where, folder)
    if session.config.model.quantize and not load.is_quantized(base):
        message = "No layer of the model could be quantized with these settings: it trains in full size."
        session.tell("warning", message=message)
    return PreparedTrainer(
        model=base,
        args=args,
        train_dataset=train,
        eval_dataset=test if len(test) else None,
        processing_class=tokenizer,
        peft_config=build_lora_config(session.config, base),
        micro_batch=_micro_batch_after_oom(session),
        packed_rows=_packed_row_tokens(session, folder) if _choose_packing(session, where, base, args.device) else None,
    )


def _choose_packing(
    session: TrainingSession, where: ComputeDevice, base: PreTrainedModel, device: torch.device
) -> bool:
    """Choose the attention, and whether examples are packed: only into rows in which this model keeps them apart."""
    if device_defaults.resolve_attention(session.config, where) == device_defaults.FLASH_ATTENTION:
        _enable_flash_attention(session, base, device)
    if not device_defaults.uses_packing(session.config):
        return False
    if _separates_packed_examples(base):
        return True
    message = "This model does not keep packed examples apart: like lengths share a batch instead."
    session.tell("warning", message=message)
    return False


def _separates_packed_examples(base: PreTrainedModel) -> bool:
    try:
        return keeps_examples_apart(base)
    except MODEL_REFUSALS:  # some linear attentions (Qwen 3.5) take no such rows without kernels of their own
        return False


def _enable_flash_attention(session: TrainingSession, base: PreTrainedModel, device: torch.device) -> None:
    """Give the model flash-attn's kernels, if it can use them: not every shape of head can, nor every release, and a
    model whose other layers know no borders would mix the examples of a row."""
    if not getattr(base, "_supports_flash_attn", False):
        return
    if base.device.type == "cpu":
        base.to(device)  # as the trainer does a moment later: the kernels compute nowhere else
    before = base.config._attn_implementation
    try:
        base.set_attn_implementation(device_defaults.FLASH_ATTENTION)
        why = (
            ""
            if respects_borders(base, flash_attention_row)
            else "it does not keep examples apart that stand in one row"
        )
    except (ImportError, ValueError, RuntimeError) as error:
        why = first_error_line(error)
    if why:
        base.set_attn_implementation(before)
        message = f"flash-attn can't be used with this model ({why}): PyTorch's own attention is."
        session.tell("warning", message=message)


def _micro_batch_after_oom(session: TrainingSession) -> int | None:
    """Rows at a time after earlier attempts ran out of memory; None is a whole batch."""
    rows = memory_autopilot.find_micro_batch_limit(read_events(session.run.events_path)[0])
    if rows is not None:
        message = f"Out of memory before: {rows} rows are computed at a time. It is the same experiment."
        session.tell("warning", message=message)
    return rows


def _packed_row_tokens(session: TrainingSession, folder: Path) -> int:
    return min(resolve_max_length(session.config), load.read_context_length(folder) or sys.maxsize)
