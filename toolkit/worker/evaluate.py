"""python -m toolkit.worker.evaluate RUN EVALUATION: one evaluation, from its first question or from where it was.

Holds the evaluation's lock for life and is the one writer of its events and answers. One evaluation at a time asks its
models in a save_dir; the others wait. The libraries are imported only when something is left to ask. Environment:
FTK_SAVE_DIR. Exit status: 0 finished or stopped, 1 failed, 3 somebody else is at it.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from toolkit.errors import RunError, ToolkitError
from toolkit.evaluation.answers import AnswerLog, read_recorded_answers
from toolkit.evaluation.conclude import conclude_evaluation
from toolkit.evaluation.evaluation_dir import Evaluation, loaded_models_lock, open_evaluation, read_evaluation_spec
from toolkit.evaluation.questions import EvaluationQuestion, make_questions
from toolkit.runs.end_reasons import explain_exception
from toolkit.runs.events import EventWriter
from toolkit.runs.model_names import BASE
from toolkit.runs.run_dir import open_run, read_run_config
from toolkit.system.locks import WorkerLock, try_lock
from toolkit.worker.process import libraries
from toolkit.worker.process.stop import StopRequested, StopSignal

logger = logging.getLogger(__name__)
PROGRESS_EVENT_PERIOD_S = 0.5
MODELS_LOCK_POLL_S = 0.2


def main(run_id: str, evaluation_id: str) -> int:
    """Carry the evaluation out; returns the exit status. Raises RunError for an unknown one."""
    faulthandler.enable()
    run = open_run(Path(os.environ["FTK_SAVE_DIR"]), run_id)
    evaluation = open_evaluation(run, evaluation_id)
    stop = StopSignal(evaluation.stop_path).listen()
    with WorkerLock(evaluation.lock_path, 1, run.id), EventWriter(evaluation.events_path) as events:
        events.append("started", pid=os.getpid())
        try:
            events.append(_run_evaluation(evaluation, stop, events))
        except Exception as error:
            logger.exception("evaluation %s of run %s", evaluation.id, run.id)
            known = explain_exception(type(error).__name__, str(error))
            words = (error.message, error.hint) if isinstance(error, ToolkitError) else (known.message, known.hint)
            events.append("failed", message=words[0], hint=words[1])
            return 1
    return 0


def _run_evaluation(evaluation: Evaluation, stop: StopSignal, events: EventWriter) -> str:
    """What the last event is called: "finished", or "stopped"."""
    began = time.monotonic()
    spec = read_evaluation_spec(evaluation)
    models = [BASE, evaluation.run.id, *(other for other in spec.compared if other != evaluation.run.id)]
    events.append("phase", phase="reading the rows")
    asked = make_questions(evaluation)
    events.append("progress", done=_count_answers(evaluation, models), total=len(asked) * len(models))
    stopped = False
    try:
        if _needs_model(evaluation, asked, models, spec.probe):
            with _hold_models_lock(evaluation, stop, events):
                _ask_models(evaluation, asked, models, stop, events)
    except StopRequested:
        stopped = True
    events.append("phase", phase="counting")
    results = conclude_evaluation(
        evaluation, asked, read_recorded_answers(evaluation.answers_path), models, time.monotonic() - began
    )
    events.append("progress", done=_count_answers(evaluation, models), total=len(asked) * len(models), remaining_s=0)
    return "stopped" if stopped or not results.complete else "finished"


def _count_answers(evaluation: Evaluation, models: Sequence[str]) -> int:
    return sum(model in models for model, _ in read_recorded_answers(evaluation.answers_path).answers)


def _needs_model(
    evaluation: Evaluation, asked: Sequence[EvaluationQuestion], models: Sequence[str], probe: bool
) -> bool:
    """Whether a model is needed at all."""
    found = read_recorded_answers(evaluation.answers_path)
    missing = any((model, q.position) not in found.answers for q in asked for model in models)
    return missing or (probe and not all(any(name == model for name, _ in found.probed) for model in models))


@contextmanager
def _hold_models_lock(evaluation: Evaluation, stop: StopSignal, events: EventWriter) -> Iterator[None]:
    """Inside, no other evaluation of the save_dir has its models loaded. Raises StopAsked."""
    path = loaded_models_lock(evaluation.run.save_dir)
    said = False
    while (handle := try_lock(path)) is None:
        if not said:
            events.append("phase", phase="waiting for another evaluation")
            said = True
        stop.check()
        time.sleep(MODELS_LOCK_POLL_S)
    try:
        yield
    finally:
        os.close(handle)


def _ask_models(
    evaluation: Evaluation,
    asked: Sequence[EvaluationQuestion],
    models: Sequence[str],
    stop: StopSignal,
    events: EventWriter,
) -> None:
    stop.check()
    events.append("phase", phase="loading libraries")
    libraries.import_libraries()
    from toolkit.worker.answering import evaluation_asker

    spec, config = read_evaluation_spec(evaluation), read_run_config(evaluation.run)
    engine = evaluation_asker.load_evaluation_engine(
        evaluation, spec, lambda phase: (stop.check(), events.append("phase", phase=phase))[0]
    )
    known = read_recorded_answers(evaluation.answers_path)
    log = AnswerLog(evaluation.answers_path)
    try:
        log.record_identities(known.identities, evaluation_asker.hash_adapter_commits(engine, models))
        events.append("phase", phase="asking")
        evaluation_asker.answer_remaining_questions(
            engine, config, spec, asked, models, known, log, stop, _ProgressWriter(events, len(asked) * len(models))
        )  # fmt: skip
        if spec.probe:
            events.append("phase", phase="probing for forgetting")
            evaluation_asker.score_probe_passages(engine, config, models, known, log, stop)
    finally:
        log.close()


class _ProgressWriter:
    """Writes progress at most twice a second, with the time left at the pace of this attempt."""

    def __init__(self, events: EventWriter, total: int) -> None:
        self._events, self._total = events, total
        self._began = time.monotonic()
        self._told = 0.0

    def __call__(self, done: float, before: float) -> None:
        now = time.monotonic()
        if now - self._told < PROGRESS_EVENT_PERIOD_S and done < 1:
            return
        self._told = now
        pace = (done - before) / max(1e-9, now - self._began)
        left = (1 - done) / pace if pace > 0 else None
        self._events.append("progress", done=round(done * self._total), total=self._total, remaining_s=left)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: python -m toolkit.worker.evaluate RUN EVALUATION (FTK_SAVE_DIR names their folder)")
    try:
        raise SystemExit(main(sys.argv[1], sys.argv[2]))
    except RunError as error:
        print(error, file=sys.stderr)
        raise SystemExit(3) from error
