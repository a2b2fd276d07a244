"""After running out of memory a run continues with fewer rows at a time and the same result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fakes.training import draft, events_of, make_run, rows, train_here
from toolkit.runs.run_dir import RunDir
from toolkit.runs.status import read_run_status

pytestmark = pytest.mark.worker
Seen = dict[int, tuple[tuple[tuple[int, ...], ...], int]]


def settings(save_dir: Path, model: Path) -> dict[str, Any]:
    """Return settings for 19 rows in batches of 8, two a step: the last batch and step of an epoch are short."""
    found = draft(save_dir, model, per_device_train_batch_size=8, gradient_accumulation_steps=2, eval_steps=2,
                  num_train_epochs=3, save_steps=3)  # fmt: skip
    found["data"]["train_size"] = 19
    return found


def train(run: RunDir, attempt: int, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("FTK_ATTEMPT", str(attempt))
    return train_here(run)[0]


def curve(run: RunDir, name: str, kind: str = "log") -> dict[int, float]:
    return {event["step"]: event[name] for event in events_of(run, kind)}


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> Any:
    """small_memory(rows, from_step): raise out of memory for more rows at once, from that step on.

    Returns what is trained from then on: step -> (tokens of each row in order, rows computed at once).
    """
    import torch

    from toolkit.worker.training.trainer import PreparedTrainer

    whole = PreparedTrainer.compute_loss

    def limit(most: int, from_step: int = 0) -> Seen:
        seen: Seen = {}

        def compute_loss(self: Any, model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
            if len(inputs["labels"]) > most and self.state.global_step >= from_step and self.model.training:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            if self.model.training:
                lengths = inputs["attention_mask"].sum(dim=1)
                rows = [tuple(row[:n].tolist()) for row, n in zip(inputs["input_ids"], lengths, strict=True)]
                before, most_at_once = seen.get(self.state.global_step, ((), 0))
                seen[self.state.global_step] = ((*before, *rows), max(most_at_once, len(rows)))
            return whole(self, model, inputs, *args, **more)

        monkeypatch.setattr(PreparedTrainer, "compute_loss", compute_loss)
        return seen

    return limit


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_curve(
    tiny_model: Path, save_dir: Path, monkeypatch: pytest.MonkeyPatch, small_memory: Any
) -> None:
    import torch
    from safetensors.torch import load_file

    whole, cut = (make_run(settings(save_dir / name, tiny_model), rows(40)) for name in ("whole", "cut"))
    of_whole = small_memory(1000)
    assert train(whole, 1, monkeypatch) == 0
    small_memory(2, from_step=4)
    assert train(cut, 1, monkeypatch) == 1
    status = read_run_status(cut)
    assert (status.state, status.reason) == ("queued", "out_of_memory_gpu")
    assert "4 rows at a time" in status.message
    assert events_of(cut, "interrupted")[-1]["micro_batch"] == 4
    # a second failure at the same step does not end the run: the next attempt has smaller micro-batches
    assert train(cut, 2, monkeypatch) == 1
    assert read_run_status(cut).state == "queued"
    of_cut = small_memory(2, from_step=4)
    assert train(cut, 3, monkeypatch) == 0, events_of(cut)[-1]
    # how many rows are computed at once changes neither the rows of a batch nor their order
    assert {step: rows for step, (rows, _) in of_cut.items()} == {step: of_whole[step][0] for step in of_cut}
    assert (min(of_cut), max(of_cut)) == (4, max(of_whole))
    assert (max(at_once for _, at_once in of_whole.values()), max(at_once for _, at_once in of_cut.values())) == (8, 2)
    assert len({len(row) for rows, _ in of_cut.values() for row in rows}) > 1, "of different lengths"

    assert [event["micro_batch"] for event in events_of(cut, "plan")] == [8, 4, 2]
    assert [event["step"] for event in events_of(cut, "resumed")] == [3, 4]
    assert events_of(cut, "plan")[-1]["batch_size"] == events_of(whole, "plan")[0]["batch_size"] == 16
    assert "with the same result" in events_of(cut, "warning")[-1]["message"]
    verified = events_of(cut, "verified")[-1]
    assert verified["exact"] is False
    for name, kind in (("loss", "log"), ("grad_norm", "log"), ("learning_rate", "log"), ("eval_loss", "eval")):
        before, after = curve(whole, name, kind), curve(cut, name, kind)
        assert set(before) == set(after)
        assert all(after[step] == pytest.approx(before[step], rel=1e-4) for step in before), (name, before, after)
    first, second = (load_file(run.adapter_dir / "adapter_model.safetensors") for run in (whole, cut))
    assert all(torch.allclose(first[name], second[name], rtol=1e-3, atol=1e-4) for name in first)


def test_a_run_whose_single_row_does_not_fit_fails_with_a_hint(
    tiny_model: Path, save_dir: Path, monkeypatch: pytest.MonkeyPatch, small_memory: Any
) -> None:
    run = make_run(settings(save_dir, tiny_model), rows(40))
    small_memory(0)
    for attempt in range(1, 5):
        assert read_run_status(run).state == "queued"
        assert train(run, attempt, monkeypatch) == 1
    assert [event["micro_batch"] for event in events_of(run, "interrupted") if "micro_batch" in event] == [4, 2, 1]
    assert train(run, 5, monkeypatch) == 1
    status = read_run_status(run)
    assert (status.state, status.reason) == ("failed", "out_of_memory_gpu")
    assert "max_seq_length" in status.hint


def test_without_auto_recovery_an_out_of_memory_run_fails_at_once(
    tiny_model: Path, save_dir: Path, monkeypatch: pytest.MonkeyPatch, small_memory: Any
) -> None:
    run = make_run({**settings(save_dir, tiny_model), "autopilot": False}, rows(40))
    small_memory(2)
    assert train(run, 1, monkeypatch) == 1
    status = read_run_status(run)
    assert status.state == "failed"
    assert "Auto-recovery is off" in status.hint


def test_micro_batches_hold_each_row_once_without_extra_padding() -> None:
    import torch

    from toolkit.worker.training.micro_batches import count_trained_tokens, split_into_micro_batches

    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    batch = {
        "input_ids": torch.arange(12).reshape(3, 4),
        "attention_mask": mask,
        "labels": torch.where(mask > 0, 5, -100),
    }
    assert [len(part["labels"]) for part in split_into_micro_batches(batch, 2)] == [2, 1]
    assert [part["input_ids"].shape[1] for part in split_into_micro_batches(batch, 1)] == [4, 2, 1]
    assert (
        sum(int(count_trained_tokens(part)) for part in split_into_micro_batches(batch, 1))
        == int(count_trained_tokens(batch))
        == 4
    )
    assert len(list(split_into_micro_batches(batch, None))) == len(list(split_into_micro_batches(batch, 3))) == 1
