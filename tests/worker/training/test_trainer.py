"""The trainer's loss against the library's own, and batches that contain each row once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.data.examples.templates import Example

pytestmark = pytest.mark.worker

ROWS = [Example("ask " * (i % 7 + 1), "answer " * (i % 3 + 1)) for i in range(12)]


@pytest.fixture(scope="module")
def trainer(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig

    from toolkit.config import Config
    from toolkit.worker.models import library_arguments, load
    from toolkit.worker.tokens.labels import prepare_examples
    from toolkit.worker.training.trainer import PreparedTrainer

    config = Config.model_validate({"model": {"hf_model_ckpt": str(tiny_model)}})
    tokenizer = load.load_tokenizer(config)
    table = prepare_examples(ROWS, tokenizer, 64, chat=True).table
    arguments = library_arguments.sft_args(
        config, library_arguments.ComputeDevice(), str(tmp_path_factory.mktemp("out"))
    )
    return PreparedTrainer(
        model=load.load_base_model(config),
        args=SFTConfig(**{**arguments, "per_device_train_batch_size": 4, "eval_strategy": "no"}),
        train_dataset=Dataset(table),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"),
    )


def loss_and_gradients(
    trainer: Any, batch: dict[str, Any], lean: bool, count: int | None
) -> tuple[Any, dict[str, Any]]:
    import torch
    from trl import SFTTrainer

    trainer.model.zero_grad()
    inputs = dict(batch)
    number = None if count is None else torch.tensor(count)
    method = type(trainer).compute_loss if lean else SFTTrainer.compute_loss
    loss = method(trainer, trainer.model, inputs, num_items_in_batch=number)
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
    return loss.detach(), gradients


@pytest.mark.parametrize("count", [None, 17])
def test_loss_and_gradients_equal_those_of_the_library(trainer: Any, count: int | None) -> None:
    import torch

    trainer.model.train()
    assert trainer._shortcuts.plain_head
    assert trainer._shortcuts.padding_free
    assert len(trainer._shortcuts.last_layer_steps) == 3
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(6)])
    lean, lean_gradients = loss_and_gradients(trainer, batch, True, count)
    own, own_gradients = loss_and_gradients(trainer, batch, False, count)
    torch.testing.assert_close(lean, own, rtol=1e-5, atol=1e-6)
    assert set(lean_gradients) == set(own_gradients)
    assert len(own_gradients) == 28  # 2 layers x 7 linear maps x A and B
    for name, gradient in own_gradients.items():
        torch.testing.assert_close(lean_gradients[name], gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("size", "micro_batch"), [(1, None), (5, None), (12, None), (5, 2)])
def test_the_test_loss_is_a_mean_over_tokens_for_any_batch_size(
    trainer: Any, monkeypatch: pytest.MonkeyPatch, size: int, micro_batch: int | None
) -> None:
    from toolkit.worker.answering.likelihood import compute_row_losses

    model = trainer.model.eval()
    rows = [(row["input_ids"], row["labels"]) for row in trainer.train_dataset]
    found = compute_row_losses(model, rows)
    expected = sum(nats for nats, _ in found) / sum(tokens for _, tokens in found)
    by_row = sum(nats / tokens for nats, tokens in found) / len(found)
    assert abs(expected - by_row) > 1e-3, "the rows must make the two means differ"
    monkeypatch.setattr(trainer.args, "per_device_eval_batch_size", size)
    monkeypatch.setattr(trainer, "micro_batch", micro_batch)
    loader = trainer.get_eval_dataloader(trainer.train_dataset)
    metrics = trainer.evaluation_loop(loader, description="", prediction_loss_only=True).metrics
    trainer.model.train()
    assert metrics["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_neftune_noise_is_scaled_by_the_row_of_each_example(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """NEFTune divides its noise by the length of a row: in one row for the whole batch it would be too small."""
    base = trainer.model.get_base_model()
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    seen: list[tuple[int, ...]] = []
    handle = base.get_input_embeddings().register_forward_hook(lambda *given: seen.append(tuple(given[2].shape[:2])))
    assert trainer._shortcuts.padding_free
    trainer.compute_loss(trainer.model, dict(batch))
    with monkeypatch.context() as noisy:
        noisy.setattr(trainer.args, "neftune_noise_alpha", 5.0)
        base.set_attn_implementation("sdpa")
        noisy.setattr(trainer, "_shortcuts", trainer._prepare_model(base))
        assert not trainer._shortcuts.padding_free
        del seen[1:]
        trainer.compute_loss(trainer.model, dict(batch))
    handle.remove()
    trainer._shortcuts = trainer._prepare_model(base)
    assert trainer._shortcuts.padding_free
    assert seen == [(1, int(batch["attention_mask"].sum())), tuple(batch["input_ids"].shape)]


def test_the_head_computes_labeled_positions_only(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.worker.training import trainer as module

    seen: list[int] = []
    own = module.head_loss
    monkeypatch.setattr(module, "head_loss", lambda hidden, *rest: (seen.append(len(hidden)), own(hidden, *rest))[1])
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    trainer.compute_loss(trainer.model, dict(batch))
    assert seen == [int((batch["labels"][:, 1:] != -100).sum())]
    head = trainer.model.get_output_embeddings()
    assert "forward" not in vars(head)  # a later forward scores every position again


def test_a_head_that_is_not_plain_also_computes_labeled_positions_only(
    trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    fused = trainer.compute_loss(trainer.model, dict(batch)).item()
    monkeypatch.setattr(trainer, "_shortcuts", replace(trainer._shortcuts, plain_head=False))
    seen: list[int] = []
    head = trainer.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda module, inputs, output: seen.append(output[..., 0].numel()))
    assert trainer.compute_loss(trainer.model, dict(batch)).item() == pytest.approx(fused, rel=1e-5)
    handle.remove()
    assert seen == [int((batch["labels"][:, 1:] != -100).sum())]
    assert not head._forward_pre_hooks


def test_a_huge_batch_uses_the_chunked_loss_of_the_library(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.worker.training import trainer as module

    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    lean = trainer.compute_loss(trainer.model, dict(batch)).item()
    monkeypatch.setattr(module, "MAX_WHOLE_LOSS_LOGITS", 1)
    monkeypatch.setattr(trainer, "_shortcuts", replace(trainer._shortcuts, plain_head=False))
    trainer._metrics["train"].clear()
    chunked = trainer.compute_loss(trainer.model, dict(batch)).item()
    assert trainer._metrics["train"]["entropy"]  # only the library's way measures it
    assert lean == pytest.approx(chunked, rel=1e-5)


def batches(lengths: list[int], size: int, processes: int, epoch: int = 0, seed: int = 0) -> list[list[list[int]]]:
    """[rank][step] -> rows."""
    from toolkit.worker.training.trainer import LengthGroupedBatches

    found = []
    for rank in range(processes):
        sampler = LengthGroupedBatches(lengths, batch_size=size, processes=processes, rank=rank, seed=seed)
        sampler.set_epoch(epoch)
        found.append(list(sampler))
        assert len(sampler) == len(found[-1])
    return found


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 50), min_size=4, max_size=120),
    size=st.integers(1, 9),
    processes=st.integers(1, 4),
    epoch=st.integers(0, 3),
)
def test_each_row_appears_once_and_processes_make_equal_steps(
    lengths: list[int], size: int, processes: int, epoch: int
) -> None:
    found = batches(lengths, size, processes, epoch)
    assert Counter(row for rank in found for batch in rank for row in batch) == Counter(range(len(lengths)))
    assert len({len(rank) for rank in found}) == 1
    assert all(batch for rank in found for batch in rank)
    assert all(len(batch) <= size + 1 for rank in found for batch in rank)


def test_batches_are_grouped_by_length_and_differ_between_epochs() -> None:
    lengths = [(i * 37) % 200 + 1 for i in range(400)]
    (first,), (second,) = batches(lengths, 8, 1), batches(lengths, 8, 1, epoch=1)
    assert first != second
    assert batches(lengths, 8, 1) == [first]
    assert max(lengths) in [lengths[row] for row in first[0]]
    padded = sum(len(batch) * max(lengths[row] for row in batch) for batch in first)
    assert sum(lengths) / padded > 0.85
    assert [max(lengths[r] for r in b) for b in first] != sorted(
        (max(lengths[r] for r in b) for b in first), reverse=True
    )


def test_fewer_rows_than_processes_are_refused() -> None:
    from toolkit.worker.training.trainer import LengthGroupedBatches

    with pytest.raises(ValueError, match="3 rows"):
        LengthGroupedBatches([1, 2, 3], batch_size=1, processes=4)


def test_the_loader_of_the_trainer_yields_these_batches(trainer: Any) -> None:
    loader = trainer.get_train_dataloader()
    sizes = [len(batch["input_ids"]) for batch in loader]
    assert sizes == [4, 4, 4]
    assert len(loader) == 3


@pytest.mark.parametrize(("steps", "ratio", "left"), [(1, 0.05, 0), (2, 0.99, 1), (1, 0.0, None), (40, 0.05, None)])
def test_a_warm_up_that_takes_all_steps_is_shortened(
    trainer: Any, monkeypatch: pytest.MonkeyPatch, steps: int, ratio: float, left: int | None
) -> None:
    """The learning rate of its first step is 0: a run of one step ended as "Finished" with an untrained adapter."""
    warnings: list[str] = []
    monkeypatch.setattr(trainer, "_warn", warnings.append)
    monkeypatch.setattr(trainer.args, "warmup_steps", ratio)
    monkeypatch.setattr(trainer, "lr_scheduler", None)
    monkeypatch.setattr(trainer, "optimizer", trainer.create_optimizer())
    scheduler = trainer.create_scheduler(steps, trainer.optimizer)
    rates = []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    assert max(rates) > 0
    assert len(warnings) == (left is not None)
    if left is not None:
        assert trainer.args.get_warmup_steps(steps) == left
        assert "warm-up (warmup_ratio) would take all of them" in warnings[0]
