"""The trainer for prepared rows: its loss where only labelled positions cost anything, and batches of like length.

Equal to the library's own loss and gradients (tests hold it to rounding), because on a CPU that one scores every
position, prompt and padding included. Which layers and attention compute the same for less is `fused_lora.py`'s and
`attention.py`'s. Knows no config, no run directory and no event.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from accelerate import DistributedType
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.trainer_pt_utils import BatchRebalanceSampler

from toolkit.data.examples.batches import IntegerArray, batch_by_length, count_batches, pack_best_fit
from toolkit.errors import ToolkitError
from toolkit.worker.answering.likelihood import limit_head_to_positions
from toolkit.worker.checkpoints.checkpointed_trainer import CheckpointedTrainer
from toolkit.worker.compute.attention import use_padding_free_attention
from toolkit.worker.compute.fused_layers import fuse_layers
from toolkit.worker.compute.fused_lora import TokenwiseStep, fuse_lora_layers
from toolkit.worker.compute.fused_loss import capture_hidden_states, has_plain_head, head_loss
from toolkit.worker.compute.last_layer import compute_only_tokens, find_skippable_steps
from toolkit.worker.compute.packing import PackingCollator, count_real_tokens
from toolkit.worker.compute.padding_free import (
    ROW_COUNT_MULTIPLE,
    flash_attention_row,
    pad_batch_width,
    remove_padding,
    respects_borders,
)
from toolkit.worker.tokens.labels import IGNORED_LABEL
from toolkit.worker.tokens.prepared_rows import read_token_lengths
from toolkit.worker.training.micro_batches import MicroBatchedTrainer

MAX_WHOLE_LOSS_LOGITS = 2**26
"""Above so many logits in one batch (a quarter of a GB in fp32) the library's chunked loss is used: it holds fewer."""
UNSHARDED_MODES = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
"""Every process has all weights: only then may a layer read another module's."""


class PreparedTrainer(CheckpointedTrainer, MicroBatchedTrainer):
    """Trains on columns input_ids and labels; every row once an epoch, whatever the number of processes.

    packed_rows: tokens of a row into which several examples are packed; None: an example is a row.
    """

    def __init__(self, *args: Any, packed_rows: int | None = None, **kwargs: Any) -> None:
        if packed_rows is not None:
            kwargs["data_collator"] = PackingCollator(kwargs["processing_class"].pad_token_id, packed_rows)
        super().__init__(*args, **kwargs)
        self.packed_rows = packed_rows
        self._plain_head = self._padding_free = False
        self._last: tuple[TokenwiseStep, ...] = ()
        self._even_shapes = self.args.bf16 and self.args.device.type == "cpu"
        if self.accelerator.distributed_type in UNSHARDED_MODES:
            fuse_lora_layers(self.model)
            fuse_layers(self.model)
            if self.args.device.type == "cpu":
                self._settle(self.model.get_base_model())

    def _settle(self, base: PreTrainedModel) -> None:
        """What this model allows on a CPU, found by asking it."""
        self._plain_head = has_plain_head(base)
        # NEFTune's noise shrinks with the length of a row: in one that holds a whole batch it would be another setting
        if self.args.neftune_noise_alpha or not use_padding_free_attention(base):
            return
        self._padding_free = respects_borders(base)
        if not self._padding_free:
            base.set_attn_implementation("sdpa")
        elif self._plain_head and not self.args.gradient_checkpointing:  # which asks again when nothing is set any more
            self._last = find_skippable_steps(base)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        # the library collects garbage before its first step: what was imported and loaded stays for good
        gc.freeze()
        try:
            return super().train(*args, **kwargs)
        finally:
            gc.unfreeze()

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Nobody reads the sum, and the library walks through every module of the model at each step for it."""
        return 0

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        given = inputs
        if self._padding_free:
            inputs = remove_padding(inputs, ROW_COUNT_MULTIPLE if self._even_shapes else 1)
        elif str(self.model.config._attn_implementation).startswith("flash"):
            given = inputs = flash_attention_row(remove_padding(inputs))
        elif self._even_shapes:
            inputs = pad_batch_width(
                inputs, getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
            )
        labels = inputs["labels"][:, 1:]
        scored = labels != IGNORED_LABEL
        # unwrapping walks through every module, which is a fiftieth of a small model's step
        whole = self.model if self._plain_head else self.accelerator.unwrap_model(self.model)
        head = whole.get_output_embeddings()
        if return_outputs or self.aux_loss_enabled or not self._worth_it(scored):
            return super().compute_loss(model, given, return_outputs, num_items_in_batch)
        # padding comes last and no token looks ahead: without labels there, its mask changes nothing and costs time
        unread = ("labels",) if self._padding_free else ("labels", "attention_mask")
        rest = {name: value for name, value in inputs.items() if name not in unread}
        if self._plain_head:
            with capture_hidden_states(head, scored) as hidden, self._skip_unread_tokens(scored):
                model(**rest, use_cache=False)
            total = head_loss(hidden[0], head.weight, labels[scored])
        else:
            with limit_head_to_positions(head, scored):
                logits = model(**rest, use_cache=False).logits
            total = nn.functional.cross_entropy(logits[0].float(), labels[scored], reduction="sum")
        count = scored.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        loss = total / count.clamp(min=1)
        # the count covers every process, and their gradients are averaged
        shared = self.args.average_tokens_across_devices and num_items_in_batch is not None
        return loss * self.accelerator.num_processes if shared else loss

    def _skip_unread_tokens(self, scored: Tensor) -> AbstractContextManager[None]:
        """Nobody reads what the last layer makes of a token whose logits are not scored."""
        if not self._last:
            return nullcontext()
        read, unread = scored[0].nonzero().flatten(), (~scored[0]).nonzero().flatten()
        more = -len(read) % ROW_COUNT_MULTIPLE if self._even_shapes else 0
        return compute_only_tokens(self._last, torch.cat([read, unread[:more]]))

    def _worth_it(self, scored: Tensor) -> bool:
        if self._plain_head:
            return True
        vocabulary = self.model.config.get_text_config().vocab_size
        return self.args.device.type == "cpu" and int(scored.sum()) * vocabulary <= MAX_WHOLE_LOSS_LOGITS

    def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
        """Packed rows have no attention mask, and padding may share its token with the end of an answer."""
        if self.packed_rows is None:
            super()._track_num_input_tokens(inputs)
            return
        seen = torch.tensor(count_real_tokens(inputs["position_ids"]), device=self.args.device)
        self.state.num_input_tokens_seen += int(self.accelerator.gather(seen).sum())

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroupedBatches:
        return make_batch_sampler(
            read_token_lengths(self.train_dataset),  # the argument is the same rows with fewer columns
            packed_rows=self.packed_rows,
            batch_size=self.args.per_device_train_batch_size,
            processes=self.args.world_size,
            rank=self.args.process_index,
            seed=self.args.seed,
        )


class LengthGroupedBatches(BatchRebalanceSampler):
    """This process's batches of row numbers: like lengths together, batches in random order, the longest first.

    Each row comes exactly once an epoch. What does not fill a batch is spread over the processes, so that all of them
    make the same number of steps. The order depends on seed and epoch alone. Raises ValueError when there are fewer
    rows than processes. A subclass because the library hands only that class's batches through as they are.
    """

    def __init__(
        self, lengths: Sequence[int], *, batch_size: int, processes: int = 1, rank: int = 0, seed: int = 0
    ) -> None:
        if len(lengths) < processes:
            raise ValueError(f"{len(lengths)} rows can't be shared by {processes} processes")
        super().__init__(
            lengths, batch_size * processes, dp_size=processes, grad_accum=1, seed=seed, rank=rank, drop_last=False
        )
        self._size = batch_size
        self._count = count_batches(len(lengths), batch_size, processes)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[list[int]]:
        lengths = np.asarray(self.lengths)
        for batch in batch_by_length(lengths, self._size, self.dp_size, self.seed, self.epoch):
            yield np.array_split(batch, self.dp_size)[self.rank].tolist()


class PackedBatches(LengthGroupedBatches):
    """The same of packed rows: the numbers of all examples in a batch's packed rows, one row behind the other.

    Raises ToolkitError when there are fewer packed rows than processes.
    """

    def __init__(self, lengths: Sequence[int], *, capacity: int, **kwargs: Any) -> None:
        super().__init__(lengths, **kwargs)
        self._capacity = capacity
        packed = len(self._packed())
        if packed < self.dp_size:
            message = f"The training rows fill {packed} packed rows, too few for {self.dp_size} processes."
            raise ToolkitError(message, "Lower num_processes, or let like lengths share a batch (packing: grouped).")
        self._count = count_batches(packed, self._size, self.dp_size)

    def __iter__(self) -> Iterator[list[int]]:
        packed, lengths = self._packed(), np.asarray(self.lengths)
        tokens = np.array([lengths[rows].sum() for rows in packed])
        for batch in batch_by_length(tokens, self._size, self.dp_size, self.seed, self.epoch):
            own = np.array_split(batch, self.dp_size)[self.rank]
            yield np.concatenate([packed[row] for row in own]).tolist()

    def _packed(self) -> list[IntegerArray]:
        return pack_best_fit(np.asarray(self.lengths), self._capacity, self.seed, self.epoch)


def make_batch_sampler(lengths: Sequence[int], *, packed_rows: int | None, **kwargs: Any) -> LengthGroupedBatches:
    """Batches of like lengths, or of packed rows of so many tokens."""
    if packed_rows is None:
        return LengthGroupedBatches(lengths, **kwargs)
    return PackedBatches(lengths, capacity=packed_rows, **kwargs)
