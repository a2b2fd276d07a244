"""Asks every question of every model of an evaluation, in batches, on one loaded base whose adapters are switched.

What can't be answered becomes an answer with its reason: a batch that fails is halved until the row is alone. What was
answered before is not asked again. Knows no statistics and no event.
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
from toolkit.evaluation.forgetting_probe import read_probe_passages
from toolkit.evaluation.questions import EvaluationQuestion
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
"""Rows in a batch on a CPU, where more bring nothing; a GPU takes four times as many."""
MAX_BATCH_TOKENS = 2**14
"""Prompt and answer tokens in a batch: bounds its memory."""
DEFAULT_NEW_TOKENS = 128
"""Longest answer where neither an expected answer nor the settings say."""
_ReportShares = Callable[[float, float], None]
"""(share of the work that is done, share that was done before this attempt), 0 .. 1, after every batch."""


@dataclass(frozen=True)
class TokenizedQuestion:
    """A question as tokens. limit: at most so many new ones. labelled: prompt and expected answer, for the loss."""

    question: EvaluationQuestion
    ids: tuple[int, ...]
    limit: int
    labelled: likelihood.LabelledTokens | None

    @property
    def cost(self) -> int:
        return self.limit + 8


def hash_adapter_commits(engine: Engine, models: Sequence[str]) -> dict[str, str]:
    """What each adapter or checkpoint is: a hash of its commit."""
    chosen = [parse_model_name(name) for name in models if name != BASE]
    commits = (one.folder(open_run(engine.save_dir, one.run)) / COMMIT_NAME for one in chosen)
    return {one.name: hashlib.sha256(path.read_bytes()).hexdigest() for one, path in zip(chosen, commits, strict=True)}


def load_evaluation_engine(evaluation: Evaluation, spec: EvaluationSpec, phase: Callable[[str], None]) -> Engine:
    """The base model with everything that is compared on it. Raises ToolkitError."""
    engine = Engine.load(evaluation.run.save_dir, evaluation.run.id, phase)
    for other in spec.compared:
        engine.attach(other)
    return engine


def answer_remaining_questions(
    engine: Engine, config: Config, spec: EvaluationSpec, questions: Sequence[EvaluationQuestion], models: Sequence[str],
    known: RecordedAnswers, log: AnswerLog, stop: StopSignal, tell: _ReportShares,
) -> None:  # fmt: skip
    """Answer what is not answered yet, writing as it goes. Raises StopAsked."""
    tasks, refused = _tokenize_questions(engine, config, spec, questions)
    log.write(
        EvaluationAnswer(m, a.position, error=a.error)
        for a in refused
        for m in models
        if (m, a.position) not in known.answers
    )
    most = MAX_BATCH_ROWS if engine.adapters.model.device.type == "cpu" else 4 * MAX_BATCH_ROWS
    batches = list(_plan_batches(tasks, most, models, known))
    total = sum(task.cost for task in tasks) * len(models) or 1
    before = total - sum(task.cost for _, batch in batches for task in batch)
    done = before
    for model, batch in batches:
        stop.raise_if_requested()
        engine.adapters.select(model)
        log.write(_answer_batch(engine, model, batch, stop))
        done += sum(task.cost for task in batch)
        tell(done / total, before / total)


def score_probe_passages(
    engine: Engine, config: Config, models: Sequence[str], known: RecordedAnswers, log: AnswerLog, stop: StopSignal
) -> None:
    """The surprise of every model at the passages of the forgetting probe. Raises StopAsked."""
    texts = read_probe_passages(str(config.model.hf_model_ckpt))
    limit = stream_answer.loaded_context_length(engine.adapters.model) or 2**20
    rows = [_label_whole_text(engine.tokenizer, text, limit) for text in texts]
    for model in models:
        stop.raise_if_requested()
        if all((model, at) in known.probed for at in range(len(rows))):
            continue
        engine.adapters.select(model)
        found = likelihood.compute_row_losses(engine.adapters.model, rows)
        log.write(ProbeAnswer(model, at, nats, tokens) for at, (nats, tokens) in enumerate(found))


def _label_whole_text(tokenizer: PreTrainedTokenizerBase, text: str, limit: int) -> likelihood.LabelledTokens:
    ids = list(tokenizer(text)["input_ids"])[:limit]
    return ids, ids


def _tokenize_questions(
    engine: Engine, config: Config, spec: EvaluationSpec, questions: Sequence[EvaluationQuestion]
) -> tuple[list[TokenizedQuestion], list[EvaluationAnswer]]:
    """(what can be asked, what can't with its reason)"""
    refused = [EvaluationAnswer(BASE, q.position, error=q.error) for q in questions if q.error]
    sound = [q for q in questions if not q.error]
    context = stream_answer.loaded_context_length(engine.adapters.model)
    labelled = _label_expected_answers(engine.tokenizer, config, sound, context or 2**20)
    tasks = []
    for question in sound:
        ids = tuple(question_ids(config, engine.tokenizer, question.prompt, question.turns)[1])
        limit = _new_token_limit(engine.tokenizer, config, spec, question)
        room = limit if context is None else min(limit, context - len(ids))
        if not ids or room < 1:
            why = (
                f"The prompt has {len(ids):,} tokens; the model's context holds {context:,}." if ids else "It is empty."
            )
            refused.append(EvaluationAnswer(BASE, question.position, error=why))
        else:
            tasks.append(TokenizedQuestion(question, ids, room, labelled.get(question.position)))
    return tasks, refused


def _new_token_limit(
    tokenizer: PreTrainedTokenizerBase, config: Config, spec: EvaluationSpec, question: EvaluationQuestion
) -> int:
    """A power of two that holds the expected answer and some more: it depends on this row alone, never on its batch."""
    if spec.max_new_tokens is not None:
        return spec.max_new_tokens
    if question.expected is None:
        return config.inference.max_new_tokens or DEFAULT_NEW_TOKENS
    expected = len(tokenizer(question.expected, add_special_tokens=False)["input_ids"])
    return max(16, 1 << (expected + greedy.ANSWER_SLACK_TOKENS - 1).bit_length())


def _label_expected_answers(
    tokenizer: PreTrainedTokenizerBase, config: Config, questions: Sequence[EvaluationQuestion], longest: int
) -> dict[int, likelihood.LabelledTokens]:
    """Ids and labels of each expected answer, prepared as for training, by position."""
    known = [q for q in questions if q.expected is not None]
    examples = (Example(q.prompt, q.expected or "", train_last_message_only(q.turns)) for q in known)
    table = labels_module.prepare_examples(examples, tokenizer, longest, chat_enabled(config, tokenizer)).table
    rows = zip(*(table[name].to_pylist() for name in ("row", "input_ids", "labels")), strict=True)
    return {known[row].position: (ids, labels) for row, ids, labels in rows}


def _plan_batches(
    tasks: Sequence[TokenizedQuestion], most: int, models: Sequence[str], known: RecordedAnswers
) -> Iterator[tuple[str, list[TokenizedQuestion]]]:
    """Rows of like length together, and every model in turn: whatever is there at a stop can be compared.

    Whole batches are repeated when one of their answers is missing, so that a resumed evaluation computes in the same
    batches as an undisturbed one.
    """
    in_order = sorted(tasks, key=lambda task: (task.limit, len(task.ids), task.question.position))
    for batch in _group_into_batches(in_order, most):
        for model in models:
            if any((model, task.question.position) not in known.answers for task in batch):
                yield model, batch


def _group_into_batches(tasks: Iterable[TokenizedQuestion], most: int) -> Iterator[list[TokenizedQuestion]]:
    batch: list[TokenizedQuestion] = []
    for task in tasks:
        size = (len(batch) + 1) * (len(task.ids) + task.limit)
        if batch and (len(batch) >= most or size > MAX_BATCH_TOKENS or task.limit != batch[0].limit):
            yield batch
            batch = []
        batch.append(task)
    if batch:
        yield batch


def _answer_batch(
    engine: Engine, model: str, batch: Sequence[TokenizedQuestion], stop: StopSignal
) -> list[EvaluationAnswer]:
    """Answers and losses of one batch, in its order. Raises StopAsked."""
    said = _generate_answers(engine, batch, stop)
    scored = [at for at, task in enumerate(batch) if task.labelled is not None]
    losses = _compute_losses(engine, [batch[at].labelled for at in scored])  # type: ignore[misc]
    found = [replace(one, model=model) for one in said]
    for at, loss in zip(scored, losses, strict=True):
        if loss is not None:
            found[at] = replace(found[at], nll=loss[0], loss_tokens=loss[1])
    return found


def _generate_answers(engine: Engine, batch: Sequence[TokenizedQuestion], stop: StopSignal) -> list[EvaluationAnswer]:
    try:
        made = greedy.generate_greedy_answers(
            engine.adapters.model, engine.tokenizer, [task.ids for task in batch], batch[0].limit, stop
        )  # fmt: skip
    except StopRequested:
        raise
    except Exception as error:
        if len(batch) > 1:
            _empty_cuda_cache()
            half = len(batch) // 2
            return [*_generate_answers(engine, batch[:half], stop), *_generate_answers(engine, batch[half:], stop)]
        logger.exception("row %d", batch[0].question.row)
        return [EvaluationAnswer("", batch[0].question.position, error=_describe_failure(error))]
    return [
        EvaluationAnswer("", task.question.position, one.text, one.tokens, one.cut)
        for task, one in zip(batch, made, strict=True)
    ]


def _compute_losses(engine: Engine, rows: Sequence[likelihood.LabelledTokens]) -> list[tuple[float, int] | None]:
    """None where it could not be had: the row has no loss then, and its answer still counts."""
    try:
        return [one if one[1] else None for one in likelihood.compute_row_losses(engine.adapters.model, rows)]
    except Exception:
        if len(rows) > 1:
            _empty_cuda_cache()
            half = len(rows) // 2
            return [*_compute_losses(engine, rows[:half]), *_compute_losses(engine, rows[half:])]
        logger.exception("a loss")
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
