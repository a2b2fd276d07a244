"""Build the trainer of a run: its model, attention, adapter and arguments, and which rows share a batch."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import SFTConfig

from toolkit.errors import ConfigError, Problem, ToolkitError
from toolkit.lifecycle import memory_autopilot
from toolkit.runs.events import EventReporter, read_events
from toolkit.settings import device_defaults
from toolkit.settings.device_defaults import ComputeDevice, resolve_max_length
from toolkit.system.printable import format_plural
from toolkit.worker.compute.packing import keeps_examples_apart
from toolkit.worker.compute.padding_free import MODEL_REFUSALS, flash_attention_row, respects_borders
from toolkit.worker.models import library_arguments, load
from toolkit.worker.models.folder import first_error_line
from toolkit.worker.models.lora_setup import (
    build_lora_config,
    describe_absent_tokens,
    describe_unreached_modules,
    describe_untrained_experts,
)
from toolkit.worker.models.untouched_base import keep_biases
from toolkit.worker.training.trainer import PreparedTrainer

if TYPE_CHECKING:
    from toolkit.worker.training.session_context import TrainingSession

logger = logging.getLogger(__name__)


def make_trainer(
    session: TrainingSession,
    device: ComputeDevice,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    train: Dataset,
    test: Dataset,
    extra_arguments: Mapping[str, Any] = MappingProxyType({}),
) -> PreparedTrainer:
    """Return the trainer of a run's model on its prepared rows.

    folder: of the base model. extra_arguments: replace those of SFTConfig. Raises ToolkitError for what can't train.
    """
    if len(train) < session.team.processes:
        message = f"{len(train)} training rows can't be shared by {session.team.processes} processes."
        raise ToolkitError(message, "Lower num_processes, or add rows.")
    arguments = {
        **library_arguments.sft_args(session.config, device, str(session.run.checkpoints_dir)),
        **extra_arguments,
    }
    if not len(test):
        arguments["eval_strategy"] = "no"
    args = SFTConfig(**arguments)
    if session.team.processes == 1 and args.n_gpu > 1:
        # the library would copy a model that device_map "auto" put on one of several GPUs to all of them
        args._n_gpu = 1
    base = load.load_base_model(session.config, device, folder)
    # with offloading to a CPU no layer is quantized, and the library does not report it
    if session.config.model.quantize and not load.is_quantized(base):
        message = "No layer of the model could be quantized with these settings: the model trains unquantized."
        session.emit("warning", message=message)
    if session.config.lora.bias != "none":
        keep_biases(base)
    with _explain_expert_errors():
        trainer = PreparedTrainer(
            model=base,
            args=args,
            train_dataset=train,
            eval_dataset=test if len(test) else None,
            processing_class=tokenizer,
            peft_config=build_lora_config(session.config, base),
            micro_batch=_micro_batch_after_oom(session),
            packed_rows=_choose_packed_row_tokens(session, device, base, args.device, folder),
            sharded=session.is_sharded,
            warn=lambda message: session.emit("warning", message=message),
        )
    _warn_of_untrained_parts(session, trainer.model, train)
    trainer.add_callback(_UnreachedModulesWarning(session.emit))
    return trainer


def _warn_of_untrained_parts(session: TrainingSession, model: PeftModel, train: Dataset) -> None:
    tokens = describe_absent_tokens(session.config, train["input_ids"])
    for message in filter(None, (describe_untrained_experts(model), tokens)):
        session.emit("warning", message=message)


class _UnreachedModulesWarning(TrainerCallback):
    """Warn in the first step if the loss does not reach some of the adapter's modules."""

    def __init__(self, emit: EventReporter) -> None:
        self._emit = emit

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        if state.global_step == 0 and (message := describe_unreached_modules(model)):
            self._emit("warning", message=message)


@contextmanager
def _explain_expert_errors() -> Iterator[None]:
    """Raise ConfigError for the settings that PEFT refuses on the experts that all-linear includes."""
    try:
        yield
    except ValueError as error:
        refused = next((name for name in ("lora_dropout", "use_dora") if name in str(error)), None)
        if "ParamWrapper" not in str(error) or refused is None:
            raise
        message = f"The adapters on this model's experts do not work with {refused}."
        hint = "Turn it off, or list the modules of the attention only in target_modules."
        raise ConfigError([Problem(f"lora.{refused}", message, hint)]) from error


def load_whole_model(
    session: TrainingSession, sharded: PeftModel, device: ComputeDevice, folder: Path
) -> PeftModel | None:
    """Load the base again, whole, with the trained weights of `sharded`, which can't compute in one process alone.

    Every process calls it: the main one gets the model, spread over the GPUs that the others leave by this. None in the
    others, and, with a warning, where the whole model can't be loaded.
    """
    if not session.team.is_main_process:
        sharded.to_empty(device="meta")
    gc.collect()  # the trainer, which holds the optimizer, refers to itself
    torch.cuda.empty_cache()
    torch.distributed.barrier()
    if not session.team.is_main_process:
        return None
    spread = session.config.model.model_copy(update={"device_map": "auto" if device.cuda else "cpu"})
    alone = session.config.model_copy(update={"model": spread, "accelerate": False})
    trained = {name: weight for name, weight in sharded.named_parameters() if weight.requires_grad}
    try:
        base = load.load_base_model(alone, replace(device, processes=1), folder)
        if alone.lora.bias != "none":
            keep_biases(base)
        model = get_peft_model(base, build_lora_config(alone, base))
    except Exception as error:
        logger.exception("loading the whole model")
        reason = f"{type(error).__name__}: {error}"
        message = f"The model can't be loaded whole ({reason}): the test rows are not answered. The adapter is saved."
        session.emit("warning", message=message, unanswered=True)
        return None
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            weight.data = trained[name].detach().to(weight.device)
    return model


def _choose_packed_row_tokens(
    session: TrainingSession, device: ComputeDevice, base: PreTrainedModel, torch_device: torch.device, folder: Path
) -> int | None:
    """Choose the attention, and return the tokens of a packed row; None if examples are not packed.

    They are packed only if the settings ask for it and this model keeps the examples of a row apart.
    """
    # first the attention: it decides whether the model keeps examples apart
    if device_defaults.resolve_attention(session.config, device) == device_defaults.FLASH_ATTENTION:
        _enable_flash_attention(session, base, torch_device)
    if not device_defaults.uses_packing(session.config):
        return None
    if not _separates_packed_examples(base):
        message = "This model can't keep packed examples separate: batches are grouped by length instead."
        session.emit("warning", message=message)
        return None
    return min(resolve_max_length(session.config), load.read_context_length(folder) or sys.maxsize)


def _separates_packed_examples(base: PreTrainedModel) -> bool:
    try:
        return keeps_examples_apart(base)
    except MODEL_REFUSALS:  # some linear attentions (Qwen 3.5) refuse packed rows without their own GPU kernels
        return False


def _enable_flash_attention(session: TrainingSession, base: PreTrainedModel, torch_device: torch.device) -> None:
    """Use flash-attn's kernels if the model supports them, else warn and keep the attention that it has.

    Not every head size and release is supported, and a model whose other layers ignore the borders between examples
    would mix the examples of a row.
    """
    if not getattr(base, "_supports_flash_attn", False):
        return
    if base.device.type == "cpu":
        base.to(torch_device)  # the kernels run on a GPU only; the trainer moves the model there anyway
    before = base.config._attn_implementation
    try:
        base.set_attn_implementation(device_defaults.FLASH_ATTENTION)
        # tried on a few tokens: the library refuses some models only when they compute
        apart = respects_borders(base, flash_attention_row)
        reason = "" if apart else "it does not keep the examples of a row separate"
    except (ImportError, ValueError, RuntimeError) as error:
        reason = first_error_line(error)
    if reason:
        base.set_attn_implementation(before)
        message = f"flash-attn can't be used with this model ({reason}). PyTorch's own attention is used instead."
        session.emit("warning", message=message)


def _micro_batch_after_oom(session: TrainingSession) -> int | None:
    """Return the rows to compute at once after earlier attempts ran out of memory; None is a whole batch."""
    rows = memory_autopilot.find_micro_batch_limit(read_events(session.run.events_path)[0])
    if rows is not None:
        message = (
            f"An earlier attempt ran out of memory: the batch is now computed {format_plural(rows, 'row')} at a time, "
            "with the same result."
        )
        session.emit("warning", message=message)
    return rows
