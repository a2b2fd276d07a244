"""Sample outputs during training: which prompts are pinned, what is written, and that training is not affected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.training import draft, events_of, make_run, rows, train_here
from toolkit.config import Config
from toolkit.data.examples.split import plan_split
from toolkit.data.examples.templates import make_renderer
from toolkit.runs.events import Event, read_events
from toolkit.runs.run_dir import RunDir

pytestmark = pytest.mark.worker


def settings(save_dir: Path, model: Path, **training: Any) -> dict[str, Any]:
    """Return settings in which random numbers matter: dropout in the adapter, noise in the embeddings."""
    found = draft(save_dir, model, eval_steps=3)
    found["lora"]["lora_dropout"] = 0.2
    found["training"]["sft_args"]["neftune_noise_alpha"] = 5.0
    found["training"] |= training
    return found


def frames(run: RunDir) -> list[Event]:
    return read_events(run.film_path)[0]


def curve(run: RunDir) -> list[tuple[int, float, float]]:
    return [(event["step"], event["loss"], event["grad_norm"]) for event in events_of(run, "log")]


def weights(run: RunDir) -> bytes:
    return (run.adapter_dir / "adapter_model.safetensors").read_bytes()


def test_sample_outputs_do_not_change_training(tiny_model: Path, save_dir: Path) -> None:
    typed = ["tell me a story", rows(24)[0]["question"]]
    filmed = make_run(settings(save_dir / "with", tiny_model, pinned_rows=4, pinned_prompts=typed))
    dark = make_run(settings(save_dir / "without", tiny_model, pinned_rows=0))
    assert (train_here(filmed)[0], train_here(dark)[0]) == (0, 0)
    assert curve(filmed) == curve(dark)
    assert weights(filmed) == weights(dark)
    assert not dark.film_path.exists()

    pinned, *shots = frames(filmed)
    assert [pin["prompt"] for pin in pinned["pins"][:2]] == typed
    assert pinned["pins"][0]["expected"] is None
    assert pinned["pins"][1]["expected"] == rows(24)[0]["answer"]  # the prompt of a row, whose answer is known
    assert len(pinned["pins"]) == 6
    assert [shot["step"] for shot in shots] == [0, 3, 6, 8]
    assert all(len(shot["texts"]) == 6 for shot in shots)
    said = [json.loads(line) for line in (filmed.evaluation_dir / "predictions.jsonl").read_text().splitlines()]
    base, adapter = ({line["row"]: line[who] for line in said} for who in ("base", "adapter"))
    for number, pin in list(enumerate(pinned["pins"]))[2:]:
        assert base[pin["row"]].startswith(shots[0]["texts"][number][:8]), (
            "before the first step the answers are those of the base"
        )
        assert adapter[pin["row"]].startswith(shots[-1]["texts"][number][:8])
    assert len({tuple(shot["texts"]) for shot in shots}) > 1


def test_at_most_ten_prompts_are_pinned_each_once(tmp_path: Path) -> None:
    from tests.fakes.training import make_table
    from toolkit.worker.tokens.prepared_rows import RowSource
    from toolkit.worker.training.film_strip import MAX_PROMPTS_PER_SAMPLING, choose_pinned_prompts

    table = make_table(tmp_path / "t.parquet", rows(40))
    config = Config.model_validate(settings(tmp_path, Path("any"), pinned_prompts=["one", "two", "one", " "]))
    config = config.model_copy(update={"data": config.data.model_copy(update={"test_size": 20})})
    config.training.pinned_rows = 10
    plan = plan_split(table, config.data)
    source = RowSource(table, plan, make_renderer("{question}", "{answer}", table.columns))
    pins = choose_pinned_prompts(config, source)
    assert len(pins) == MAX_PROMPTS_PER_SAMPLING
    assert [pin.prompt for pin in pins[:2]] == ["one", "two"]
    assert len({pin.prompt for pin in pins}) == MAX_PROMPTS_PER_SAMPLING
    assert {pin.row for pin in pins[2:]} <= set(plan.test.tolist())


def test_failing_sample_outputs_are_only_a_warning(
    tiny_model: Path, save_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.worker.training import film_strip

    def fail(*_: Any) -> list[str]:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore")

    monkeypatch.setattr(film_strip, "generate_greedy_texts", fail)
    run = make_run(settings(save_dir, tiny_model))
    code, events = train_here(run)
    assert (code, events[-1]["kind"]) == (0, "finished")
    (warning,) = events_of(run, "warning")
    assert "CUDA out of memory" in warning["message"]
    assert "\n" not in warning["message"]
    assert [frame["kind"] for frame in frames(run)] == ["pinned"]


def test_a_prompt_longer_than_the_context_is_skipped(tiny_model: Path, save_dir: Path) -> None:
    run = make_run(settings(save_dir, tiny_model, pinned_prompts=["word " * 400, "short"], pinned_rows=0))
    assert train_here(run)[0] == 0
    pinned, *shots = frames(run)
    assert [pin["prompt"] for pin in pinned["pins"]] == ["short"]
    assert len(shots) == 4
    assert "longer than the model's context" in events_of(run, "warning")[0]["message"]
