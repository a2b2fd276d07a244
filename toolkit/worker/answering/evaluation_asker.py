"""Answer all questions of an evaluation with each of its models, in batches, on one base model with switched adapters.

A question that can't be answered gets an answer with the reason: a failed batch is halved until the row is alone.
Questions that were answered before are not asked again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedTokenizerBase

from toolkit.config import Config
from toolkit.data.conversations import train_last_message_only
from toolkit.data.examples.templates import Example
from toolkit.evaluation.answers import AnswerLog, EvaluationAnswer, ProbeAnswer, RecordedAnswers
from toolkit.evaluation.evaluation_dir import Evaluation, EvaluationSpec
from toolkit.evaluation.questions import EvaluationQuestion, read_probe_passages
from toolkit.runs.model_names import BASE, parse_model_name
from toolkit.runs.run_dir import open_run
from toolkit.system.durable import COMMIT_NAME
from toolkit.system.out_of_memory import out_of_memory_kind, out_of_memory_message
from toolkit.worker.answering import greedy, likelihood
from toolkit.worker.process.stop import StopRequested, StopSignal
from toolkit.worker.serving import stream_answer
from toolkit.worker.serving.engine import Engine
from toolkit.worker.tokens import labels as labels_module
from toolkit.worker.tokens.examples import chat_enabled
from toolkit.worker.tokens.examples import encode_example_prompt as question_ids

logger = logging.getLogger(__name__)
MAX_BATCH_ROWS = 32
"""Rows in a batch on a CPU, where larger batches are not faster; a GPU takes four times as many."""
MAX_BATCH_TOKENS = 2**14
"""Prompt and answer tokens in a batch; limits its memory."""
DEFAULT_NEW_TOKENS = 128
"""Max new tokens if neither an expected answer nor the settings give a limit."""
PROMPT_COST_TOKENS = 8
"""Cost of the prompt of a question, in units of one new token; for the progress only."""
_ReportShares = Callable[[float, float], None]
"""Is called with (share of the work done, share done before this attempt), both 0 to 1, after every batch."""


@dataclass(frozen=True)
class TokenizedQuestion:
    """A question as tokens. limit: max new tokens. labeled: prompt and expected answer, to compute the loss."""

    question: EvaluationQuestion
    ids: tuple[int, ...]
    limit: int
    labeled: likelihood.LabeledTokens | None

    @property
    def cost(self) -> int:
        """Expected duration, in units of one new token."""
        return self.limit + PROMPT_COST_TOKENS


def hash_adapter_commits(engine: Engine, models: Sequence[str]) -> dict[str, str]:
    """Return a hash of the commit of each adapter or checkpoint, by model name."""
    adapters = [parse_model_name(name) for name in models if name != BASE]
    commits = (one.folder(open_run(engine.save_dir, one.run)) / COMMIT_NAME for one in adapters)
    return {
        one.name: hashlib.sha256(path.read_bytes()).hexdigest() for one, path in zip(adapters, commits, strict=True)
    }


def load_evaluation_engine(evaluation: Evaluation, spec: EvaluationSpec, report_phase: Callable[[str], None]) -> Engine:
    """Load the base model and attach all adapters of the evaluation. Raises ToolkitError: a model can't be loaded."""
    engine = Engine.load(evaluation.run.save_dir, evaluation.run.id, report_phase)
    for other in spec.compared:
        engine.attach(other)
    return engine


def answer_remaining_questions(
    engine: Engine,
    config: Config,
    spec: EvaluationSpec,
    questions: Sequence[EvaluationQuestion],
    models: Sequence[str],
    recorded: RecordedAnswers,
    log: AnswerLog,
    stop: StopSignal,
    report_shares: _ReportShares,
) -> None:
    """Answer the questions without a recorded answer and write each batch of answers to the log.

    Raises StopRequested: the evaluation was stopped; what was answered is in the log.
    """
    tasks, rejected = _tokenize_questions(engine, config, spec, questions)
    log.write(
        EvaluationAnswer(m, a.position, error=a.error)
        for a in rejected
        for m in models
        if (m, a.position) not in recorded.answers
    )
    max_rows = MAX_BATCH_ROWS if engine.adapters.model.device.type == "cpu" else 4 * MAX_BATCH_ROWS
    batches = list(_plan_batches(tasks, max_rows, models, recorded))
    total = sum(task.cost for task in tasks) * len(models) or 1
    before = total - sum(task.cost for _, batch in batches for task in batch)
    done = before
    for model, batch in batches:
        stop.raise_if_requested()
        engine.adapters.select(model)
        log.write(_answer_batch(engine, model, batch, stop))
        done += sum(task.cost for task in batch)
        report_shares(done / total, before / total)


def score_probe_passages(
    engine: Engine, config: Config, models: Sequence[str], recorded: RecordedAnswers, log: AnswerLog, stop: StopSignal
) -> None:
    """Compute the loss of each model on the passages of the forgetting probe and write it to the log.

    Raises StopRequested: the evaluation was stopped.
    """
    texts = read_probe_passages(str(config.model.hf_model_ckpt))
    limit = stream_answer.loaded_context_length(engine.adapters.model) or 2**20
    rows = [_label_whole_text(engine.tokenizer, text, limit) for text in texts]
    for model in models:
        stop.raise_if_requested()
        if all((model, at) in recorded.probed for at in range(len(rows))):
            continue
        engine.adapters.select(model)
        losses = likelihood.compute_row_losses(engine.adapters.model, rows)
        log.write(ProbeAnswer(model, at, nats, tokens) for at, (nats, tokens) in enumerate(losses))


def _label_whole_text(tokenizer: PreTrainedTokenizerBase, text: str, limit: int) -> likelihood.LabeledTokens:
    ids = list(tokenizer(text)["input_ids"])[:limit]
    return ids, ids


def _tokenize_questions(
    engine: Engine, config: Config, spec: EvaluationSpec, questions: Sequence[EvaluationQuestion]
) -> tuple[list[TokenizedQuestion], list[EvaluationAnswer]]:
    """Return (questions as tokens, answers with the reason for questions that can't be asked)."""
    rejected = [EvaluationAnswer(BASE, q.position, error=q.error) for q in questions if q.error]
    valid = [q for q in questions if not q.error]
    context = stream_answer.loaded_context_length(engine.adapters.model)
    labeled = _label_expected_answers(engine.tokenizer, config, valid, context or 2**20)
    tasks = []
    for question in valid:
        ids = tuple(question_ids(config, engine.tokenizer, question.prompt, question.turns)[1])
        limit = _new_token_limit(engine.tokenizer, config, spec, question)
        room = limit if context is None else min(limit, context - len(ids))
        if not ids or room < 1:
            reason = (
                f"The prompt has {len(ids):,} tokens, but the model's context length is {context:,} tokens."
                if ids
                else "The prompt is empty."
            )
            rejected.append(EvaluationAnswer(BASE, question.position, error=reason))
        else:
            tasks.append(TokenizedQuestion(question, ids, room, labeled.get(question.position)))
    return tasks, rejected


def _new_token_limit(
    tokenizer: PreTrainedTokenizerBase, config: Config, spec: EvaluationSpec, question: EvaluationQuestion
) -> int:
    """Return the max new tokens of a question: a power of two above the length of the expected answer.

    It depends on this row only: rows with the same limit are batched, so that the batch has no influence on an answer.
    """
    if spec.max_new_tokens is not None:
        return spec.max_new_tokens
    if question.expected is None:
        return config.inference.max_new_tokens or DEFAULT_NEW_TOKENS
    expected = len(tokenizer(question.expected, add_special_tokens=False)["input_ids"])
    return max(16, 1 << (expected + greedy.ANSWER_SLACK_TOKENS - 1).bit_length())


def _label_expected_answers(
    tokenizer: PreTrainedTokenizerBase, config: Config, questions: Sequence[EvaluationQuestion], max_length: int
) -> dict[int, likelihood.LabeledTokens]:
    """Return ids and labels of each expected answer, prepared as for training, by position."""
    with_answer = [q for q in questions if q.expected is not None]
    examples = (Example(q.prompt, q.expected or "", train_last_message_only(q.turns)) for q in with_answer)
    table = labels_module.prepare_examples(examples, tokenizer, max_length, chat_enabled(config, tokenizer)).table
    rows = zip(*(table[name].to_pylist() for name in ("row", "input_ids", "labels")), strict=True)
    return {with_answer[row].position: (ids, labels) for row, ids, labels in rows}


def _plan_batches(
    tasks: Sequence[TokenizedQuestion], max_rows: int, models: Sequence[str], recorded: RecordedAnswers
) -> Iterator[tuple[str, list[TokenizedQuestion]]]:
    """Yield (model, batch) with rows of similar length, all models for one batch before the next batch.

    So the models can be compared on what is answered when the evaluation is stopped. A batch is repeated as a whole
    when one of its answers is missing, so that a resumed evaluation computes in the same batches as an uninterrupted
    one.
    """
    in_order = sorted(tasks, key=lambda task: (task.limit, len(task.ids), task.question.position))
    for batch in _group_into_batches(in_order, max_rows):
        for model in models:
            if any((model, task.question.position) not in recorded.answers for task in batch):
                yield model, batch


def _group_into_batches(tasks: Iterable[TokenizedQuestion], max_rows: int) -> Iterator[list[TokenizedQuestion]]:
    batch: list[TokenizedQuestion] = []
    for task in tasks:
        size = (len(batch) + 1) * (len(task.ids) + task.limit)
        if batch and (len(batch) >= max_rows or size > MAX_BATCH_TOKENS or task.limit != batch[0].limit):
            yield batch
            batch = []
        batch.append(task)
    if batch:
        yield batch


def _answer_batch(
    engine: Engine, model: str, batch: Sequence[TokenizedQuestion], stop: StopSignal
) -> list[EvaluationAnswer]:
    """Return the answers and losses of one batch, in its order. Raises StopRequested."""
    answers = [replace(answer, model=model) for answer in _generate_answers(engine, batch, stop)]
    labeled = {at: task.labeled for at, task in enumerate(batch) if task.labeled is not None}
    losses = _compute_losses(engine, list(labeled.values()))
    for at, loss in zip(labeled, losses, strict=True):
        if loss is not None:
            answers[at] = replace(answers[at], nll=loss[0], loss_tokens=loss[1])
    return answers


def _generate_answers(engine: Engine, batch: Sequence[TokenizedQuestion], stop: StopSignal) -> list[EvaluationAnswer]:
    try:
        generated = greedy.generate_greedy_answers(
            engine.adapters.model, engine.tokenizer, [task.ids for task in batch], batch[0].limit, stop
        )
    except StopRequested:
        raise
    except Exception as error:
        if len(batch) > 1:
            _empty_cuda_cache()
            half = len(batch) // 2
            return [*_generate_answers(engine, batch[:half], stop), *_generate_answers(engine, batch[half:], stop)]
        logger.exception("row %d could not be answered", batch[0].question.row)
        return [EvaluationAnswer("", batch[0].question.position, error=_describe_failure(error))]
    return [
        EvaluationAnswer("", task.question.position, one.text, one.tokens, one.cut)
        for task, one in zip(batch, generated, strict=True)
    ]


def _compute_losses(engine: Engine, rows: Sequence[likelihood.LabeledTokens]) -> list[tuple[float, int] | None]:
    """Return (nats, tokens) of each row, or None where it can't be computed; the answer of such a row still counts."""
    try:
        return [one if one[1] else None for one in likelihood.compute_row_losses(engine.adapters.model, rows)]
    except Exception:
        if len(rows) > 1:
            _empty_cuda_cache()
            half = len(rows) // 2
            return [*_compute_losses(engine, rows[:half]), *_compute_losses(engine, rows[half:])]
        logger.exception("the loss of a row could not be computed")
        return [None] * len(rows)


def _empty_cuda_cache() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _describe_failure(error: Exception) -> str:
    kind = out_of_memory_kind(error)
    if kind is not None:
        return out_of_memory_message(kind, "evaluation_row").message
    first = str(error).strip().splitlines()[:1] or [""]
    return f"{type(error).__name__}: {first[0][:200]}"
