"""The trainer for prepared rows: a loss that computes labeled positions only, and batches grouped by length.

Loss and gradients equal the library's up to rounding. The library's own loss scores every position on a CPU, prompt and
padding included.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
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
from toolkit.system.printable import format_plural
from toolkit.worker.answering.likelihood import limit_head_to_positions
from toolkit.worker.checkpoints.checkpointed_trainer import CheckpointedTrainer
from toolkit.worker.compute.cpu_shortcuts import CpuShortcuts, prepare_model_for_cpu
from toolkit.worker.compute.fused_layers import fuse_layers
from toolkit.worker.compute.fused_lora import fuse_lora_layers
from toolkit.worker.compute.fused_loss import capture_hidden_states, head_loss
from toolkit.worker.compute.last_layer import compute_only_tokens
from toolkit.worker.compute.packing import PackingCollator, count_real_tokens
from toolkit.worker.compute.padding_free import (
    ROW_COUNT_MULTIPLE,
    flash_attention_row,
    pad_batch_width,
    remove_padding,
)
from toolkit.worker.models.load import prepare_experts_for_training
from toolkit.worker.process.sharding import shard_frozen_weights
from toolkit.worker.tokens.labels import IGNORED_LABEL
from toolkit.worker.tokens.prepared_rows import read_token_lengths
from toolkit.worker.training.micro_batches import MicroBatchedTrainer

logger = logging.getLogger(__name__)
MAX_WHOLE_LOSS_LOGITS = 2**26
"""Logits of one batch (256 MiB in fp32) above which the library's chunked loss is used: it holds fewer at once."""
UNSHARDED_MODES = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
"""Modes in which every process has all weights: a fused feed-forward reads those of its three projections."""


class PreparedTrainer(CheckpointedTrainer, MicroBatchedTrainer):
    """Train on the columns input_ids and labels, each row once an epoch, with any number of processes.

    packed_rows: tokens of a row into which several examples are packed; None: each example is a row. warn: is called
    with a message for the user.
    """

    def __init__(
        self, *args: Any, packed_rows: int | None = None, warn: Callable[[str], None] = logger.warning, **kwargs: Any
    ) -> None:
        if packed_rows is not None:
            kwargs["data_collator"] = PackingCollator(kwargs["processing_class"].pad_token_id, packed_rows)
        super().__init__(*args, **kwargs)
        prepare_experts_for_training(self.model.get_base_model())
        self.packed_rows, self._warn = packed_rows, warn
        if self.sharded:
            shard_frozen_weights(self.model, self.args.device)
            warn("The model is sharded: sample outputs are not made. The test rows are answered after training.")
        self._shortcuts = CpuShortcuts()
        # oneDNN compiles and keeps a bf16 kernel for each new shape: few different shapes cost less memory
        self._even_shapes = self.args.bf16 and self.args.device.type == "cpu"
        if not self.sharded and self.accelerator.distributed_type in UNSHARDED_MODES:
            # first the LoRA layers: a fused feed-forward is made of three of them
            fuse_lora_layers(self.model)
            fuse_layers(self.model)
            if self.args.device.type == "cpu":
                self._shortcuts = self._prepare_model(self.model.get_base_model())

    def _prepare_model(self, base: PreTrainedModel) -> CpuShortcuts:
        return prepare_model_for_cpu(
            base,
            neftune=bool(self.args.neftune_noise_alpha),
            gradient_checkpointing=self.args.gradient_checkpointing,
        )

    def train(self, *args: Any, **kwargs: Any) -> Any:
        # the library collects garbage before its first step; libraries and model stay for good, so exclude them
        gc.freeze()
        try:
            return super().train(*args, **kwargs)
        finally:
            gc.unfreeze()

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Shorten a warm-up that takes all steps: the learning rate of its first step is 0, so nothing might learn."""
        if self.args.get_warmup_steps(num_training_steps) >= num_training_steps > 0:
            self.args.warmup_steps = num_training_steps - 1
            run, left = (format_plural(num_training_steps - less, "step") for less in (0, 1))
            self._warn(
                f"The run has {run}, and the warm-up (warmup_ratio) would take all of them, from a learning rate of 0: "
                f"it is shortened to {left}. More epochs or smaller batches give the run more steps."
            )
        return super().create_scheduler(num_training_steps, optimizer)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: the sum is not used, and the library would visit every module at each step to compute it."""
        return 0

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        given = inputs
        if self._shortcuts.padding_free:
            inputs = remove_padding(inputs, ROW_COUNT_MULTIPLE if self._even_shapes else 1)
        elif str(self.model.config._attn_implementation).startswith("flash"):
            # on a GPU the library's own loss may follow below: it gets the same row
            given = inputs = flash_attention_row(remove_padding(inputs))
        elif self._even_shapes:
            inputs = pad_batch_width(
                inputs, getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
            )
        # position i predicts token i + 1, so labels are shifted by one
        labels = inputs["labels"][:, 1:]
        scored = labels != IGNORED_LABEL
        # unwrapping visits every module, which takes 2 % of a small model's step
        unwrapped = self.model if self._shortcuts.plain_head else self.accelerator.unwrap_model(self.model)
        head = unwrapped.get_output_embeddings()
        if return_outputs or self.aux_loss_enabled or not self._computes_own_loss(scored):
            return super().compute_loss(model, given, return_outputs, num_items_in_batch)
        # padding comes last and attention is causal: without labels there, the mask changes nothing and costs time
        unused = ("labels",) if self._shortcuts.padding_free else ("labels", "attention_mask")
        model_inputs = {name: value for name, value in inputs.items() if name not in unused}
        if self._shortcuts.plain_head:
            with capture_hidden_states(head, scored) as hidden, self._skip_unscored_tokens(scored):
                model(**model_inputs, use_cache=False)
            total = head_loss(hidden[0], head.weight, labels[scored])
        else:
            with limit_head_to_positions(head, scored):
                logits = model(**model_inputs, use_cache=False).logits
            total = nn.functional.cross_entropy(logits[0].float(), labels[scored], reduction="sum")
        count = scored.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        loss = total / count.clamp(min=1)
        # the count covers all processes, but their gradients are averaged, not summed
        shared = self.args.average_tokens_across_devices and num_items_in_batch is not None
        return loss * self.accelerator.num_processes if shared else loss

    def _skip_unscored_tokens(self, scored: Tensor) -> AbstractContextManager[None]:
        """Compute the last layer only for tokens whose logits are scored; nothing reads its output for the others."""
        if not self._shortcuts.last_layer_steps:
            return nullcontext()
        read, unread = scored[0].nonzero().flatten(), (~scored[0]).nonzero().flatten()
        # a few unscored tokens fill the row count up to a multiple, to keep the number of shapes small
        more = -len(read) % ROW_COUNT_MULTIPLE if self._even_shapes else 0
        return compute_only_tokens(self._shortcuts.last_layer_steps, torch.cat([read, unread[:more]]))

    def _computes_own_loss(self, scored: Tensor) -> bool:
        if self._shortcuts.plain_head:
            return True
        logits = int(scored.sum()) * int(self.model.config.get_text_config().vocab_size)
        return self.args.device.type == "cpu" and logits <= MAX_WHOLE_LOSS_LOGITS

    def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
        # packed rows have no attention mask, and the padding token may be the one that ends an answer
        if self.packed_rows is None:
            super()._track_num_input_tokens(inputs)
            return
        seen = torch.tensor(count_real_tokens(inputs["position_ids"]), device=self.args.device)
        self.state.num_input_tokens_seen += int(self.accelerator.gather(seen).sum())

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroupedBatches:
        return make_batch_sampler(
            read_token_lengths(self.train_dataset),  # not the argument, which has the same rows but fewer columns
            packed_rows=self.packed_rows,
            batch_size=self.args.per_device_train_batch_size,
            processes=self.args.world_size,
            rank=self.args.process_index,
            seed=self.args.seed,
        )


class LengthGroupedBatches(BatchRebalanceSampler):
    """Batches of row numbers for one process: grouped by length, in random order, the longest batch first.

    Each row appears exactly once an epoch. Rows that do not fill a batch are spread over the processes, so that all of
    them make the same number of steps. The order depends on seed and epoch alone. Derived from the library's sampler
    because it passes only that class's batches on unchanged.

    lengths: tokens of each row. batch_size: rows a process. Raises ValueError for fewer rows than processes.
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
    """Batches of packed rows: the numbers of all examples of a batch, one packed row after the other.

    capacity: tokens of a packed row. Raises ToolkitError for fewer packed rows than processes.
    """

    def __init__(self, lengths: Sequence[int], *, capacity: int, **kwargs: Any) -> None:
        super().__init__(lengths, **kwargs)
        self._capacity = capacity
        packed = len(self._packed())
        if packed < self.dp_size:
            message = f"The training rows fill {packed} packed rows, too few for {self.dp_size} processes."
            raise ToolkitError(message, "Lower num_processes, or group batches by length (packing: grouped).")
        # the number of packed rows follows from the lengths alone, so it holds for every epoch
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
    """Return batches of packed rows with `packed_rows` tokens each, or batches grouped by length for None."""
    if packed_rows is None:
        return LengthGroupedBatches(lengths, **kwargs)
    return PackedBatches(lengths, capacity=packed_rows, **kwargs)
