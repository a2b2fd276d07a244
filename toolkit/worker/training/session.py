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
from toolkit.settings.device_defaults import Place, max_length, precision
from toolkit.worker.answering import greedy
from toolkit.worker.answering.golden_prompts import contract_text
from toolkit.worker.checkpoints import choice
from toolkit.worker.models import load
from toolkit.worker.models.folder import resolve
from toolkit.worker.process.memory import readings
from toolkit.worker.process.stop import StopAsked
from toolkit.worker.questions.dataset_subject import longest_example
from toolkit.worker.tokens.prepared_rows import Source, open_source, read_splits, write_splits
from toolkit.worker.training import film_strip
from toolkit.worker.training.adapter_save import commit_adapter
from toolkit.worker.training.attempt import Training
from toolkit.worker.training.session_context import End, Session, Team, Tell
from toolkit.worker.training.trainer import PreparedTrainer
from toolkit.worker.training.trainer_setup import make_trainer

_LOG = logging.getLogger(__name__)


def carry_out(session: Session) -> End:
    """Train the run's adapter. Raises ToolkitError, StopAsked before anything was learned, or what a library raises."""
    config, run = session.config, session.run
    load.quiet_libraries()
    threads = use_cores(session.team.processes)
    where = load.place(config, session.team.processes)
    if session.team.processes > 1:
        PartialState(cpu=not where.cuda)
    session.phase("preparing data")
    with _leader_first(session.team):
        folder = resolve(config)
    tokenizer = load.load_tokenizer(config, folder)
    source = open_source(run, config)
    with _leader_first(session.team):
        found = choice.find(run, session.tell, leads=session.team.leads)
        if session.team.leads and not (found and found.body["data"] == choice.data_hashes(run)):
            length = _length(config, folder, session.tell)
            write_splits(run, config, source, tokenizer, length, session.tell, session.stop.check)
    train, test = read_splits(run)
    session.phase("loading model")
    before = readings()["memory_bytes"]
    trainer = make_trainer(session, where, folder, tokenizer, train, test)
    facts = {**_facts(session, where, trainer), "threads": threads, "process_bytes": before}
    if session.team.leads:
        trainer.add_callback(_film(session, tokenizer, source, folder))
    training = Training(session, trainer, facts, found)
    session.stop.check()
    training.fit()
    step = training.step
    if session.team.leads:
        _save(session, trainer, tokenizer, source, folder, training.kept_step)
        if not training.stopped:
            return _scored(session, trainer, tokenizer, source, step)
    return End("stopped" if training.stopped else "finished", step)


def use_cores(processes: int) -> int:
    """Threads of this process: what the supervisor allots, else this process's share of the cores it may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allotted = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(allotted) if allotted.isdigit() else cores // processes
    torch.set_num_threads(max(1, min(threads, cores)))
    return torch.get_num_threads()


@contextmanager
def _leader_first(team: Team) -> Iterator[None]:
    """The others wait until the first process has done what is inside: it downloads or writes once, they find it."""
    if team.processes == 1:
        yield
        return
    with PartialState().main_process_first():
        yield


def _length(config: Config, folder: Path, tell: Tell) -> int:
    wanted, allowed = max_length(config), longest_example(config, folder)
    if allowed < wanted:
        message = f"max_seq_length {wanted:,} is more than the model's {allowed:,} positions: those count."
        tell("warning", message=message)
    return allowed


def _facts(session: Session, where: Place, trainer: PreparedTrainer) -> dict[str, Any]:
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
        "precision": precision(session.config, where),
        "quantized": bool(session.config.model.quantize),
    }


def _film(session: Session, tokenizer: PreTrainedTokenizerBase, source: Source, folder: Path) -> film_strip.FilmStrip:
    pins = film_strip.choose(session.config, source)
    positions = load.context_length(folder)
    return film_strip.FilmStrip(
        session.run, session.config, tokenizer, pins, session.tell, session.stop, session.attempt, positions
    )


def _save(
    session: Session,
    trainer: PreparedTrainer,
    tokenizer: PreTrainedTokenizerBase,
    source: Source,
    folder: Path,
    step: int,
) -> None:
    session.tell("phase", phase="saving")
    asked = (session.run.id, session.config, trainer.model, tokenizer, source, folder)
    contract = contract_text(*asked, tell=session.tell)
    size = commit_adapter(session.run, session.config, trainer.model, tokenizer, step, contract)
    session.tell("adapter", step=step, path=session.run.adapter_dir.name, bytes=size)


def _scored(
    session: Session,
    trainer: PreparedTrainer,
    tokenizer: PreTrainedTokenizerBase,
    source: Source,
    step: int,
) -> End:
    """Answer test rows. The adapter is safe by now: what goes wrong here is a warning, and a stop is a stop."""
    rows = source.plan.test[: greedy.MAX_ROWS]
    try:
        session.phase("answering test rows")
        questions = [
            greedy.Question(int(row), example.prompt, example.completion, example.turns)
            for row, example in zip(rows, source.examples(rows), strict=True)
        ]
        found = greedy.score(session.config, trainer.model, tokenizer, questions, session.stop)
        greedy.write_predictions(session.run, found)
    except StopAsked:
        return End("stopped", step)
    except Exception as error:  # noqa: BLE001 - training succeeded, and that must be what the run says
        _LOG.exception("answering test rows")
        message = f"The test rows could not be answered ({type(error).__name__}: {error}). The adapter is saved."
        session.tell("warning", message=message)
        return End("finished", step)
    session.tell("scores", **greedy.exact_match(found), test_rows=len(source.plan.test))
    return End("finished", step)
