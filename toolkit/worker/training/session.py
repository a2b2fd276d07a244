"""One run from its directory to its adapter, read from top to bottom: data, model, training, saving, scores.

Everything heavy is imported here, so that train.py can say "loading libraries" before it happens. Events go through
`tell`, a wish to stop arrives through `stop`; how the run ends in the log is train.py's to write.
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
from transformers import PreTrainedTokenizerBase

from toolkit.config import Config
from toolkit.settings.device_defaults import ComputeDevice, resolve_max_length, resolve_precision
from toolkit.worker.answering import greedy
from toolkit.worker.answering.golden_prompts import contract_text
from toolkit.worker.checkpoints import choice
from toolkit.worker.models import load
from toolkit.worker.models.folder import resolve_model_folder
from toolkit.worker.process.memory import read_process_memory
from toolkit.worker.process.stop import StopRequested
from toolkit.worker.questions.dataset_subject import example_token_limit
from toolkit.worker.tokens.prepared_rows import RowSource, open_row_source, read_splits, write_splits
from toolkit.worker.training import film_strip
from toolkit.worker.training.adapter_save import save_adapter
from toolkit.worker.training.attempt import TrainingAttempt
from toolkit.worker.training.session_context import RunProcesses, SessionEnd, Tell, TrainingSession
from toolkit.worker.training.trainer import PreparedTrainer
from toolkit.worker.training.trainer_setup import make_trainer

logger = logging.getLogger(__name__)


def run_training_session(session: TrainingSession) -> SessionEnd:
    """Train the run's adapter. Raises ToolkitError, StopAsked before anything was learned, or what a library raises."""
    config, run = session.config, session.run
    load.quiet_libraries()
    threads = set_thread_count(session.team.processes)
    where = load.detect_compute_device(config, session.team.processes)
    if session.team.processes > 1:
        PartialState(cpu=not where.cuda)
    session.phase("preparing data")
    with _main_process_first(session.team):
        folder = resolve_model_folder(config)
    tokenizer = load.load_tokenizer(config, folder)
    source = open_row_source(run, config)
    with _main_process_first(session.team):
        found = choice.choose_checkpoint(run, session.tell, leads=session.team.is_main_process)
        if session.team.is_main_process and not (found and found.body["data"] == choice.hash_prepared_rows(run)):
            length = _example_length(config, folder, session.tell)
            write_splits(run, config, source, tokenizer, length, session.tell, session.stop.check)
    train, test = read_splits(run)
    session.phase("loading model")
    before = read_process_memory()["memory_bytes"]
    trainer = make_trainer(session, where, folder, tokenizer, train, test)
    facts = {**_plan_facts(session, where, trainer), "threads": threads, "process_bytes": before}
    if session.team.is_main_process:
        trainer.add_callback(_make_sample_outputs(session, tokenizer, source, folder))
    training = TrainingAttempt(session, trainer, facts, found)
    session.stop.check()
    training.fit()
    step = training.step
    if session.team.is_main_process:
        _save_result(session, trainer, tokenizer, source, folder, training.kept_step)
        if not training.stopped:
            return _answer_test_rows(session, trainer, tokenizer, source, step)
    return SessionEnd("stopped" if training.stopped else "finished", step)


def set_thread_count(processes: int) -> int:
    """Threads of this process: what the supervisor allots, else this process's share of the cores it may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allotted = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(allotted) if allotted.isdigit() else cores // processes
    torch.set_num_threads(max(1, min(threads, cores)))
    return torch.get_num_threads()


@contextmanager
def _main_process_first(team: RunProcesses) -> Iterator[None]:
    """The others wait until the first process has done what is inside: it downloads or writes once, they find it."""
    if team.processes == 1:
        yield
        return
    with PartialState().main_process_first():
        yield


def _example_length(config: Config, folder: Path, tell: Tell) -> int:
    wanted, allowed = resolve_max_length(config), example_token_limit(config, folder)
    if allowed < wanted:
        message = f"max_seq_length {wanted:,} is more than the model's {allowed:,} positions: those count."
        tell("warning", message=message)
    return allowed


def _plan_facts(session: TrainingSession, where: ComputeDevice, trainer: PreparedTrainer) -> dict[str, Any]:
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
        "device": torch.cuda.get_device_name() if where.cuda else "cpu",
        "precision": resolve_precision(session.config, where),
        "quantized": bool(session.config.model.quantize),
    }


def _make_sample_outputs(
    session: TrainingSession, tokenizer: PreTrainedTokenizerBase, source: RowSource, folder: Path
) -> film_strip.SampleOutputsCallback:
    pins = film_strip.choose_pinned_prompts(session.config, source)
    positions = load.read_context_length(folder)
    return film_strip.SampleOutputsCallback(
        session.run, session.config, tokenizer, pins, session.tell, session.stop, session.attempt, positions
    )


def _save_result(
    session: TrainingSession,
    trainer: PreparedTrainer,
    tokenizer: PreTrainedTokenizerBase,
    source: RowSource,
    folder: Path,
    step: int,
) -> None:
    session.tell("phase", phase="saving")
    asked = (session.run.id, session.config, trainer.model, tokenizer, source, folder)
    contract = contract_text(*asked, tell=session.tell)
    size = save_adapter(session.run, session.config, trainer.model, tokenizer, step, contract)
    session.tell("adapter", step=step, path=session.run.adapter_dir.name, bytes=size)


def _answer_test_rows(
    session: TrainingSession,
    trainer: PreparedTrainer,
    tokenizer: PreTrainedTokenizerBase,
    source: RowSource,
    step: int,
) -> SessionEnd:
    """Answer test rows. The adapter is safe by now: what goes wrong here is a warning, and a stop is a stop."""
    rows = source.plan.test[: greedy.MAX_HELD_OUT_ROWS]
    try:
        session.phase("answering test rows")
        questions = [
            greedy.HeldOutRow(int(row), example.prompt, example.completion, example.turns)
            for row, example in zip(rows, source.examples(rows), strict=True)
        ]
        found = greedy.answer_held_out_rows(session.config, trainer.model, tokenizer, questions, session.stop)
        greedy.write_predictions(session.run, found)
    except StopRequested:
        return SessionEnd("stopped", step)
    except Exception as error:
        logger.exception("answering test rows")
        message = f"The test rows could not be answered ({type(error).__name__}: {error}). The adapter is saved."
        session.tell("warning", message=message)
        return SessionEnd("finished", step)
    session.tell("scores", **greedy.score_exact_match(found), test_rows=len(source.plan.test))
    return SessionEnd("finished", step)
