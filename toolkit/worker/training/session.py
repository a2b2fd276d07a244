"""One run from its directory to its adapter: data, model, training, saving, test answers.

Importing this module imports all heavy libraries, so `train.py` imports it only after it has announced that phase.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from toolkit.config import Config
from toolkit.evaluation import predictions
from toolkit.evaluation.questions import EvaluationQuestion
from toolkit.evaluation.seen_rows import find_seen_rows
from toolkit.runs.events import EventReporter
from toolkit.runs.model_names import BASE
from toolkit.settings.device_defaults import ComputeDevice, resolve_max_length, resolve_precision
from toolkit.worker.answering import greedy
from toolkit.worker.answering.golden_prompts import contract_text
from toolkit.worker.checkpoints import choice
from toolkit.worker.models import load
from toolkit.worker.models.architecture import check_lora_targets
from toolkit.worker.models.folder import read_model_settings, resolve_model_folder
from toolkit.worker.process.memory import read_process_memory
from toolkit.worker.process.sharding import count_held_parameters
from toolkit.worker.process.stop import StopRequested
from toolkit.worker.process.team import RunProcesses
from toolkit.worker.questions.dataset_subject import example_token_limit
from toolkit.worker.tokens.prepared_rows import RowSource, open_row_source, read_splits, write_splits
from toolkit.worker.training import film_strip
from toolkit.worker.training.adapter_save import save_adapter
from toolkit.worker.training.attempt import TrainingAttempt
from toolkit.worker.training.machines import check_same_training, find_common_checkpoint
from toolkit.worker.training.session_context import SessionEnd, TrainingSession
from toolkit.worker.training.trainer import PreparedTrainer
from toolkit.worker.training.trainer_setup import load_whole_model, make_trainer

logger = logging.getLogger(__name__)


def run_training_session(session: TrainingSession) -> SessionEnd:
    """Train the run's adapter, save it, and answer the test rows.

    Raises ToolkitError, StopRequested if a stop came before training began, or whatever a library raises.
    """
    config, run = session.config, session.run
    load.quiet_libraries()
    threads = set_thread_count(session.team.local)
    device = load.detect_compute_device(config, session.team.processes)
    if session.team.processes > 1:
        # joins the process group, with the right backend, before anything waits for the other processes
        PartialState(cpu=not device.cuda)
    session.phase("preparing data")
    with _main_process_first(session.team):
        folder = resolve_model_folder(config)
    check_lora_targets(config, read_model_settings(folder))
    tokenizer = load.load_tokenizer(config, folder)
    source = open_row_source(run, config)
    newest = find_common_checkpoint(session) if session.team.spans_machines else None
    with _main_process_first(session.team):
        main = session.team.is_main_process
        checkpoint = choice.choose_checkpoint(run, session.emit, is_main_process=main, newest=newest)
        # rows that the checkpoint was trained on are kept as they are: preparing them again takes time
        if main and not (checkpoint and checkpoint.body["data"] == choice.hash_prepared_rows(run)):
            length = _example_length(config, folder, session.emit)
            write_splits(run, config, source, tokenizer, length, session.emit, session.stop.raise_if_requested)
    train, test = read_splits(run)
    if session.team.spans_machines:
        check_same_training(session, checkpoint)
    session.phase("loading model")
    # measured before the model: the forecast learns from it what the libraries alone take
    before = read_process_memory()["memory_bytes"]
    trainer = make_trainer(session, device, folder, tokenizer, train, test)
    if session.team.is_main_process and not session.is_sharded:
        trainer.add_callback(_make_sample_outputs(session, tokenizer, source, folder))
    attempt = TrainingAttempt(session, trainer, _plan_facts(session, device, trainer, threads, before), checkpoint)
    session.stop.raise_if_requested()
    attempt.fit()
    end = SessionEnd("stopped" if attempt.stopped else "finished", attempt.step)
    model, answering, kept_step = trainer.model, trainer.model, attempt.kept_step
    if session.is_sharded:
        del trainer, attempt  # with them go the optimizer and the gradients
        answering = load_whole_model(session, model, device, folder)
    if not session.team.is_main_process:
        return end
    # saved after a stop as well: the adapter of a stopped run can be used
    _save_result(session, model, answering, tokenizer, source, folder, kept_step)
    if answering is not None and end.kind == "finished":
        return _answer_test_rows(session, answering, tokenizer, source, end.step)
    return end


def set_thread_count(processes: int) -> int:
    """Set and return the number of threads: what the supervisor allots, else this process's share of its cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allotted = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(allotted) if allotted.isdigit() else cores // processes
    # more threads than cores would wait for each other in every product
    torch.set_num_threads(max(1, min(threads, cores)))
    return int(torch.get_num_threads())


@contextmanager
def _main_process_first(team: RunProcesses) -> Iterator[None]:
    """Let each machine's main process run the block first: it downloads or writes once; the others find the result."""
    if team.processes == 1:
        yield
        return
    with PartialState().local_main_process_first():
        yield


def _example_length(config: Config, folder: Path, emit: EventReporter) -> int:
    wanted, allowed = resolve_max_length(config), example_token_limit(config, folder)
    if allowed < wanted:
        message = f"max_seq_length is {wanted:,}, but the model has {allowed:,} positions: {allowed:,} is used."
        emit("warning", message=message)
    return allowed


def _plan_facts(
    session: TrainingSession, device: ComputeDevice, trainer: PreparedTrainer, threads: int, process_bytes: int
) -> dict[str, Any]:
    """Return the fields of the `plan` event that describe model, batches and device.

    process_bytes: memory of the process before it had a model.
    """
    args = trainer.args
    trainable, total = trainer.model.get_nb_trainable_parameters()
    each = args.per_device_train_batch_size * args.gradient_accumulation_steps
    return {
        "trainable_parameters": trainable,
        "total_parameters": total,
        "batch_size": each * session.team.processes,
        "micro_batch": min(trainer.micro_batch or args.per_device_train_batch_size, args.per_device_train_batch_size),
        "processes": session.team.processes,
        "packed": trainer.packed_rows is not None,
        **({"held_parameters": count_held_parameters(trainer.model)} if trainer.sharded else {}),
        "device": torch.cuda.get_device_name() if device.cuda else "cpu",
        "precision": resolve_precision(session.config, device),
        "quantized": bool(session.config.model.quantize),
        "threads": threads,
        "process_bytes": process_bytes,
    }


def _make_sample_outputs(
    session: TrainingSession, tokenizer: PreTrainedTokenizerBase, source: RowSource, folder: Path
) -> film_strip.SampleOutputsCallback:
    pins = film_strip.choose_pinned_prompts(session.config, source)
    positions = load.read_context_length(folder)
    return film_strip.SampleOutputsCallback(
        session.run, session.config, tokenizer, pins, session.emit, session.stop, session.attempt, positions
    )


def _save_result(
    session: TrainingSession,
    model: PeftModel,
    answering: PeftModel | None,
    tokenizer: PreTrainedTokenizerBase,
    source: RowSource,
    folder: Path,
    step: int,
) -> None:
    """Save the adapter of `model` with the prompt contract that `answering` makes.

    step: the one whose weights the model has.
    """
    session.emit("phase", phase="saving")  # not session.phase: a stop must not keep the adapter from being saved
    contract = None
    if answering is not None:
        model_and_data = (session.run.id, session.config, answering, tokenizer, source, folder)
        contract = contract_text(*model_and_data, report_event=session.emit)
    size = save_adapter(session.run, session.config, model, tokenizer, step, contract)
    session.emit("adapter", step=step, path=session.run.adapter_dir.name, bytes=size)


def _answer_test_rows(
    session: TrainingSession,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    source: RowSource,
    step: int,
) -> SessionEnd:
    """Answer test rows and log the scores. The adapter is saved by now, so an error here is only a warning."""
    rows = source.plan.test[: greedy.MAX_HELD_OUT_ROWS]
    try:
        session.phase("answering test rows")
        questions = [
            EvaluationQuestion(position, int(row), example.prompt, example.completion, turns=example.turns)
            for position, (row, example) in enumerate(zip(rows, source.examples(rows), strict=True))
        ]
        answers = greedy.answer_held_out_rows(session.config, model, tokenizer, questions, session.stop)
        predictions.write_predictions(session.run, answers)
        seen = find_seen_rows(questions, [session.run.id], session.run)
    except StopRequested:
        return SessionEnd("stopped", step)
    except Exception as error:
        logger.exception("answering test rows")
        message = f"The test rows could not be answered ({type(error).__name__}: {error}). The adapter is saved."
        session.emit("warning", message=message, unanswered=True)
        return SessionEnd("finished", step)
    figure = predictions.compute_exact_match(answers)
    scores = {"exact_match": figure.models[predictions.ADAPTER].value, "exact_match_base": figure.models[BASE].value}
    seen_rows = sum(map(len, seen.values()))
    session.emit("scores", rows=figure.rows, **scores, test_rows=len(source.plan.test), seen_rows=seen_rows)
    return SessionEnd("finished", step)
