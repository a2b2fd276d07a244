"""python -m toolkit.worker.evaluate RUN EVALUATION: carries out one evaluation, from its start or where it stopped.

Environment: FTK_SAVE_DIR. Only the process that holds the evaluation's lock writes its events and answers. One
evaluation at a time loads models in a save_dir; the others wait. The heavy libraries are imported only when a question
is left to ask. Exit status: 0 finished or stopped, 1 failed, 3 another process is carrying it out.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from toolkit.errors import RunError
from toolkit.evaluation.answers import AnswerLog, read_recorded_answers
from toolkit.evaluation.conclude import conclude_evaluation
from toolkit.evaluation.evaluation_dir import Evaluation, loaded_models_lock, open_evaluation, read_evaluation_spec
from toolkit.evaluation.questions import EvaluationQuestion, make_questions
from toolkit.runs.end_reasons import explain_error
from toolkit.runs.events import EventWriter
from toolkit.runs.model_names import BASE
from toolkit.runs.run_dir import open_run, read_run_config
from toolkit.system.background_job import job_main
from toolkit.system.locks import try_lock
from toolkit.system.private_files import restrict_new_files
from toolkit.worker.process import libraries
from toolkit.worker.process.stop import StopRequested, StopSignal

PROGRESS_PERIOD_SECONDS = 0.5  # the page looks once a second
MODELS_LOCK_POLL_SECONDS = 0.2


class EvaluationReporter:
    """Reports an evaluation into its event log. Enter it while holding the evaluation's lock."""

    def __init__(self, evaluation: Evaluation) -> None:
        self._path = evaluation.events_path

    def __enter__(self) -> EvaluationReporter:
        self._events = EventWriter(self._path)
        self._events.append("started", pid=os.getpid())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._events.close()

    def phase(self, phase: str) -> None:
        self._events.append("phase", phase=phase)

    def progress(self, done: int, total: int, remaining_s: float | None = None) -> None:
        """done, total: answers. remaining_s: seconds left, None while unknown."""
        self._events.append("progress", done=done, total=total, remaining_s=remaining_s)

    def finish(self, result: str) -> None:
        """result: "finished", or "stopped"."""
        self._events.append(result)

    def fail(self, message: str, hint: str) -> None:
        self._events.append("failed", message=message, hint=hint)


def main(run_id: str, evaluation_id: str) -> int:
    """Carry out the evaluation. Return the exit status. Raises RunError for an unknown one, or one in progress."""
    run = open_run(Path(os.environ["FTK_SAVE_DIR"]), run_id)
    evaluation = open_evaluation(run, evaluation_id)
    stop = StopSignal(evaluation.stop_path).listen()
    return job_main(
        evaluation.job,
        EvaluationReporter(evaluation),
        lambda reporter: _carry_out(evaluation, stop, reporter),
        explain_error,
        run=run.id,
    )


def _carry_out(evaluation: Evaluation, stop: StopSignal, reporter: EvaluationReporter) -> str:
    """Ask what is left, compute the figures and return the name of the last event: "finished" or "stopped"."""
    began = time.monotonic()
    spec = read_evaluation_spec(evaluation)
    models = [BASE, evaluation.run.id, *(other for other in spec.compared if other != evaluation.run.id)]
    reporter.phase("reading the rows")
    questions = make_questions(evaluation)
    total = len(questions) * len(models)
    reporter.progress(_count_answers(evaluation, models), total)
    stopped = False
    try:
        if _needs_model(evaluation, questions, models, spec.probe):
            with _hold_models_lock(evaluation, stop, reporter):
                _ask_models(evaluation, questions, models, stop, reporter)
    except StopRequested:
        stopped = True
    reporter.phase("computing the results")
    recorded = read_recorded_answers(evaluation.answers_path)
    results = conclude_evaluation(evaluation, questions, recorded, models, time.monotonic() - began)
    reporter.progress(_count_answers(evaluation, models), total, remaining_s=0)
    return "stopped" if stopped or not results.complete else "finished"


def _count_answers(evaluation: Evaluation, models: Sequence[str]) -> int:
    return sum(model in models for model, _ in read_recorded_answers(evaluation.answers_path).answers)


def _needs_model(
    evaluation: Evaluation, questions: Sequence[EvaluationQuestion], models: Sequence[str], probe: bool
) -> bool:
    """Return whether an answer, or a passage of the forgetting probe, is missing for any model."""
    recorded = read_recorded_answers(evaluation.answers_path)
    missing = any((model, q.position) not in recorded.answers for q in questions for model in models)
    return missing or (probe and not all(any(name == model for name, _ in recorded.probed) for model in models))


@contextmanager
def _hold_models_lock(evaluation: Evaluation, stop: StopSignal, reporter: EvaluationReporter) -> Iterator[None]:
    """Wait until no other evaluation of the save_dir has its models loaded. Raises StopRequested."""
    path = loaded_models_lock(evaluation.run.save_dir)
    waiting = False
    while (handle := try_lock(path)) is None:
        if not waiting:
            reporter.phase("waiting for another evaluation")
            waiting = True
        stop.raise_if_requested()
        time.sleep(MODELS_LOCK_POLL_SECONDS)
    try:
        yield
    finally:
        os.close(handle)


def _ask_models(
    evaluation: Evaluation,
    questions: Sequence[EvaluationQuestion],
    models: Sequence[str],
    stop: StopSignal,
    reporter: EvaluationReporter,
) -> None:
    stop.raise_if_requested()
    reporter.phase("loading libraries")
    libraries.import_libraries()
    from toolkit.worker.answering import evaluation_asker

    def report_loading(phase: str) -> None:
        stop.raise_if_requested()
        reporter.phase(phase)

    spec, config = read_evaluation_spec(evaluation), read_run_config(evaluation.run)
    engine = evaluation_asker.load_evaluation_engine(evaluation, spec, report_loading)
    recorded = read_recorded_answers(evaluation.answers_path)
    log = AnswerLog(evaluation.answers_path)
    report_share = _ShareReporter(reporter, len(questions) * len(models))
    try:
        log.record_identities(recorded.identities, evaluation_asker.hash_adapter_commits(engine, models))
        reporter.phase("generating answers")
        evaluation_asker.answer_remaining_questions(
            engine, config, spec, questions, models, recorded, log, stop, report_share
        )
        if spec.probe:
            reporter.phase("probing for forgetting")
            evaluation_asker.score_probe_passages(engine, config, models, recorded, log, stop)
    finally:
        log.close()


class _ShareReporter:
    """Reports the share of answers at most twice a second, with the time left at the pace of this attempt."""

    def __init__(self, reporter: EvaluationReporter, total: int) -> None:
        self._reporter, self._total = reporter, total
        self._began = time.monotonic()
        self._reported = 0.0

    def __call__(self, done: float, before: float) -> None:
        """done: share of all answers, 0 to 1. before: the share that earlier attempts had answered."""
        now = time.monotonic()
        if now - self._reported < PROGRESS_PERIOD_SECONDS and done < 1:
            return
        self._reported = now
        pace = (done - before) / max(1e-9, now - self._began)
        remaining = (1 - done) / pace if pace > 0 else None
        self._reporter.progress(round(done * self._total), self._total, remaining)


if __name__ == "__main__":
    restrict_new_files()
    if len(sys.argv) != 3:
        raise SystemExit("usage: python -m toolkit.worker.evaluate RUN EVALUATION (FTK_SAVE_DIR names their folder)")
    try:
        raise SystemExit(main(sys.argv[1], sys.argv[2]))
    except RunError as error:
        print(error, file=sys.stderr)
        raise SystemExit(3) from error
