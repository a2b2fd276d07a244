"""A training step in several smaller ones: less memory, the same step.

A batch is cut into parts of `micro_batch` rows; their losses are sums over tokens divided by the tokens of the whole
step, so that the gradients add up to those of the whole batch, to rounding. Nothing else changes: rows, order, steps
and learning rate are those of the whole batch. Where dropout is on, other random numbers are drawn. The test loss, too,
is a sum over tokens divided by their number. Knows no run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.trainer_utils import EvalLoopOutput
from trl import SFTTrainer

from toolkit.worker.tokens.labels import IGNORED_LABEL
from toolkit.worker.training.loss_watch import LossWatch


class MicroBatchedTrainer(SFTTrainer):
    """micro_batch: rows of a batch that are computed at once; None or more than the batch has: all of them."""

    def __init__(self, *args: Any, micro_batch: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.micro_batch = micro_batch
        self.watch = LossWatch()
        self._tested: Tensor | None = None  # nats and learned tokens of the evaluation that goes on

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | None = None
    ) -> Tensor:
        *earlier, last = split_into_micro_batches(inputs, self.micro_batch)
        if earlier and num_items_in_batch is None:  # a model that does not take the count: this batch is all there is
            num_items_in_batch = count_trained_tokens(inputs) * self.accelerator.num_processes
        total: Any = 0.0
        for part in earlier:
            with self.accelerator.no_sync(model):
                total = total + super().training_step(model, part, num_items_in_batch)
        loss = total + super().training_step(model, last, num_items_in_batch)
        self.watch.see(loss, self.state.global_step + 1)
        return loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Any, Any, Any]:
        if not prediction_loss_only:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        rows = self._own_rows(len(inputs["labels"]))
        # a batch of nothing but fill is computed all the same, and not counted: the library waits for its loss
        pieces = list(split_into_micro_batches(keep_first_rows(inputs, rows or 1), self.micro_batch))
        losses = [super(MicroBatchedTrainer, self).prediction_step(model, piece, True)[0] for piece in pieces]
        counts = torch.stack([count_trained_tokens(piece) for piece in pieces]).to(losses[0].device)
        found = torch.stack([(torch.stack(losses).double() * counts).sum(), counts.sum().double()])
        found_here = found if rows else torch.zeros_like(found)
        self._tested = found_here if self._tested is None else self._tested + found_here
        return found[0] / found[1].clamp(min=1), None, None

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        """The test loss is the mean over learned tokens; the library's, over rows, would depend on the batch size."""
        self._tested = None
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self._tested is not None:
            nats, tokens = self.accelerator.reduce(self._tested, reduction="sum").tolist()
            output.metrics[f"{metric_key_prefix}_loss"] = nats / max(tokens, 1.0)
        return output

    def _own_rows(self, rows: int) -> int:
        """How many of a test batch's rows count: with several processes, repeated rows fill up their last batches."""
        there = self.accelerator.gradient_state
        if self.accelerator.num_processes == 1 or not there.end_of_dataloader or there.remainder <= 0:
            return rows
        return max(0, min(rows, there.remainder - self.accelerator.process_index * rows))


def keep_first_rows(inputs: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """The batch's first rows, padded as the whole."""
    if rows >= len(inputs["labels"]):
        return dict(inputs)
    return {name: value[:rows] if isinstance(value, Tensor) else value for name, value in inputs.items()}


def count_trained_tokens(inputs: Mapping[str, Any]) -> Tensor:
    """How many tokens of a batch are learned."""
    return (inputs["labels"][:, 1:] != IGNORED_LABEL).sum()


def split_into_micro_batches(inputs: Mapping[str, Any], rows: int | None) -> Iterator[dict[str, Any]]:
    """The batch in parts of at most so many rows, each as wide as its longest row: padding comes last."""
    count = len(inputs["labels"])
    if rows is None or rows >= count:
        yield dict(inputs)
        return
    width = inputs["labels"].shape[1]
    for start in range(0, count, rows):
        part = {name: value[start : start + rows] for name, value in inputs.items() if isinstance(value, Tensor)}
        longest = int(part["attention_mask"].sum(dim=1).max()) if "attention_mask" in part else width
        cut = {name: value[:, :longest] if value.shape[1:] == (width,) else value for name, value in part.items()}
        yield {**inputs, **cut}
