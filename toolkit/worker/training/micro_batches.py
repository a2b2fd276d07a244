"""Compute a training step in micro-batches: less memory, the same step.

A batch is split into parts of `micro_batch` rows. Each loss is a sum over tokens divided by the tokens of the whole
step, so the gradients add up to those of the whole batch, except for rounding. Rows, order, steps and learning rate are
those of the whole batch; where dropout is on, other random numbers are drawn. The test loss, too, is a sum over tokens
divided by their number.
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
    """A trainer whose batches are computed in parts.

    micro_batch: rows at once; None computes all of them together. sharded: each pass gathers weights from all
    processes, so they have to make the same number of passes.
    """

    def __init__(self, *args: Any, micro_batch: int | None = None, sharded: bool = False, **kwargs: Any) -> None:
        self.micro_batch, self.sharded = micro_batch, sharded
        super().__init__(*args, **kwargs)
        self.watch = LossWatch()
        self._eval_sums: Tensor | None = None  # [nats, trained tokens] of the current evaluation, in float64

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        if not self.sharded:  # the whole model may not fit there: sharding moves one layer after the other
            super()._move_model_to_device(model, device)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | None = None
    ) -> Tensor:
        *earlier, last = self._split(inputs)
        # the library counts no tokens for a model whose forward does not take the count: count those of this batch
        if earlier and num_items_in_batch is None:
            num_items_in_batch = count_trained_tokens(inputs) * self.accelerator.num_processes
        total: Any = 0.0
        for part in earlier:
            # processes exchange gradients once a step, with the last part
            with self.accelerator.no_sync(model):
                total = total + super().training_step(model, part, num_items_in_batch)
        loss: Tensor = total + super().training_step(model, last, num_items_in_batch)
        self.watch.record_loss(loss, self.state.global_step + 1)
        return loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Any, Any, Any]:
        if not prediction_loss_only:
            whole: tuple[Any, Any, Any] = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
            return whole
        rows = self._count_own_rows(len(inputs["labels"]))
        # a batch of repeated rows only is computed but not counted: the library gathers a loss from every process
        pieces = self._split(keep_first_rows(inputs, rows or 1))
        losses = [super(MicroBatchedTrainer, self).prediction_step(model, piece, True)[0] for piece in pieces]
        counts = torch.stack([count_trained_tokens(piece) for piece in pieces]).to(losses[0].device)
        # in float64: the sum over many batches must not depend on how the rows are split
        sums = torch.stack([(torch.stack(losses).double() * counts).sum(), counts.sum().double()])
        counted = sums if rows else torch.zeros_like(sums)
        self._eval_sums = counted if self._eval_sums is None else self._eval_sums + counted
        return sums[0] / sums[1].clamp(min=1), None, None

    def _split(self, inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Split a batch into as many parts as the other processes split theirs, filled up with parts without labels."""
        parts = list(split_into_micro_batches(inputs, self.micro_batch))
        if not self.sharded or self.micro_batch is None:
            return parts
        most = torch.tensor(len(parts), device=self.args.device)
        torch.distributed.all_reduce(most, op=torch.distributed.ReduceOp.MAX)
        filler = keep_first_rows(inputs, 1)
        filler["labels"] = torch.full_like(filler["labels"], IGNORED_LABEL)
        return [filler] * (int(most) - len(parts)) + parts

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        """Evaluate with the test loss as the mean over trained tokens.

        The library's own is a mean over rows, which would depend on the batch size.
        """
        self._eval_sums = None
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self._eval_sums is not None:
            nats, tokens = self.accelerator.reduce(self._eval_sums, reduction="sum").tolist()
            output.metrics[f"{metric_key_prefix}_loss"] = nats / max(tokens, 1.0)
        return output

    def _count_own_rows(self, rows: int) -> int:
        """Return how many of a test batch's rows count.

        With several processes the library repeats rows from the start to fill up the last batch of each.
        """
        loader_state = self.accelerator.gradient_state
        if self.accelerator.num_processes == 1 or not loader_state.end_of_dataloader or loader_state.remainder <= 0:
            return rows
        # `remainder` counts the real rows in the last batches of all processes, which follow each other by rank
        own = int(loader_state.remainder - self.accelerator.process_index * rows)
        return max(0, min(rows, own))


def keep_first_rows(inputs: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """Return the batch's first rows, padded to the width of the whole batch."""
    if rows >= len(inputs["labels"]):
        return dict(inputs)
    return {name: value[:rows] if isinstance(value, Tensor) else value for name, value in inputs.items()}


def count_trained_tokens(inputs: Mapping[str, Any]) -> Tensor:
    """Return the number of trained tokens of a batch, as a tensor on its device."""
    # without the first column: no token before it could predict it
    return (inputs["labels"][:, 1:] != IGNORED_LABEL).sum()


def split_into_micro_batches(inputs: Mapping[str, Any], rows: int | None) -> Iterator[dict[str, Any]]:
    """Yield the batch in parts of at most `rows` rows, each only as wide as its longest row (None: the whole batch)."""
    count = len(inputs["labels"])
    if rows is None or rows >= count:
        yield dict(inputs)
        return
    width = inputs["labels"].shape[1]
    for start in range(0, count, rows):
        part = {name: value[start : start + rows] for name, value in inputs.items() if isinstance(value, Tensor)}
        # padding is on the right, so cutting columns off removes padding only; packed rows have no mask
        longest = int(part["attention_mask"].sum(dim=1).max()) if "attention_mask" in part else width
        cut = {name: value[:, :longest] if value.shape[1:] == (width,) else value for name, value in part.items()}
        yield {**inputs, **cut}
