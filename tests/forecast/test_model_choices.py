"""Base models to choose from: what is on this machine, suggestions with their real sizes, and no network."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import pytest

from tests.fakes.training import make_table
from toolkit.config import Config
from toolkit.forecast import model_choices
from toolkit.forecast.costs.model_shape import read_model_shape
from toolkit.forecast.model_choices import forecast_choice, list_local_models, list_suggested_models
from toolkit.forecast.scene import NoForecast, scene_for
from toolkit.settings.form_layout import MODEL_NAMES
from toolkit.settings.model_source import DEMO_MODEL, SUGGESTED_MODELS, SuggestedModel
from toolkit.system.paths import ASSETS

PUBLISHED_PARAMETERS = {
    "google/gemma-3-270m-it": 268_098_176,
    "HuggingFaceTB/SmolLM2-360M-Instruct": 361_821_120,
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "google/gemma-3-1b-it": 999_885_952,
    "meta-llama/Llama-3.2-1B-Instruct": 1_235_814_400,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "HuggingFaceTB/SmolLM3-3B": 3_075_098_624,
    "meta-llama/Llama-3.2-3B-Instruct": 3_212_749_824,
    "Qwen/Qwen3-4B-Instruct-2507": 4_022_468_096,
}
"""As the Hub counts them in the safetensors files."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub, and no network."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the picker asked the network")

    folder = tmp_path / "hub"
    folder.mkdir()
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(huggingface_hub.constants, name, str(folder), raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return folder


def put_model(folder: Path, *, weights: int = 4_000_000, card: str = "", config: str | None = None) -> Path:
    """Write a model folder with the demo model's shape."""
    folder.mkdir(parents=True)
    shape = (ASSETS / "demo-model" / "config.json").read_text() if config is None else config
    (folder / "config.json").write_text(shape)
    (folder / "tokenizer.json").write_text("{}")
    if weights:
        (folder / "model.safetensors").write_bytes(bytes(weights))
    if card:
        (folder / "README.md").write_text(card)
    return folder


def cached_model(cache: Path, name: str, **more: object) -> None:
    folder = cache / f"models--{name.replace('/', '--')}"
    put_model(folder / "snapshots" / "abc", **more)  # type: ignore[arg-type]
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")


@pytest.mark.parametrize("model", SUGGESTED_MODELS, ids=lambda model: model.name)
def test_suggestions_have_the_sizes_that_the_hub_counts(model: SuggestedModel) -> None:
    assert read_model_shape(model.sizes).parameters == PUBLISHED_PARAMETERS[model.name]
    assert model.license and model.name in MODEL_NAMES


def test_models_on_this_machine_are_listed_with_size_and_license(cache: Path, tmp_path: Path) -> None:
    cached_model(cache, "someone/small-one", card="---\nlicense: mit\ntags: [x]\n---\n# Card\n")
    cached_model(cache, "Qwen/Qwen3-0.6B", weights=6_000_000)
    cached_model(cache, "broken/card", weights=7_000_000, card="---\nlicense: [a, b]\n---\n")
    cached_model(cache, "deep/card", weights=7_500_000, card=f"---\nlicense: mit\nx: {'[' * 20_000}\n---\n")
    cached_model(cache, "long/card", weights=8_000_000, card="---\nlicense: mit\n---\n" + "x" * 100_000)
    cached_model(cache, "only/tokenizer", weights=0)
    cached_model(cache, "damaged/config", config="{not json")
    (cache / "models--no-snapshot--x").mkdir()
    (cache / "datasets--a--b").mkdir()
    mine = put_model(tmp_path / "my model", weights=9_000_000)
    found = list_local_models([str(mine), str(tmp_path / "gone"), "", "never/downloaded"])
    assert [(choice.name, choice.file_bytes, choice.license) for choice in found] == [
        ("someone/small-one", 4_000_000, "mit"),
        (DEMO_MODEL, (ASSETS / "demo-model" / "model.safetensors").stat().st_size, "part of this app"),
        ("Qwen/Qwen3-0.6B", 6_000_000, "Apache 2.0"),
        ("broken/card", 7_000_000, ""),
        ("deep/card", 7_500_000, ""),
        ("long/card", 8_000_000, "mit"),
        (str(mine), 9_000_000, ""),
    ]
    assert all(choice.on_disk and choice.shape is not None for choice in found)
    assert "Qwen/Qwen3-0.6B" not in [choice.name for choice in list_suggested_models(found)]


def test_suggestions_say_what_they_need(cache: Path) -> None:
    found = {choice.name: choice for choice in list_suggested_models([])}
    assert list(found) == list(PUBLISHED_PARAMETERS), "the smallest first"
    gated = {name for name, choice in found.items() if choice.gated}
    assert gated == {name for name in found if name.startswith(("google/", "meta-llama/"))}
    assert found["Qwen/Qwen3-0.6B"].file_bytes == 2 * PUBLISHED_PARAMETERS["Qwen/Qwen3-0.6B"]


def test_whether_a_model_fits_follows_the_memory(cache: Path, tmp_path: Path) -> None:
    table = make_table(tmp_path / "t.parquet", [{"message": f"order {i}", "answer": "yes"} for i in range(20)])
    config = Config(save_dir=str(tmp_path))
    scene = scene_for(config, table, None)
    assert not isinstance(scene, NoForecast)
    small, *_, large = list_suggested_models([])
    for gibibytes, fits in ((1, ["too large", "too large"]), (6, ["fits", "too large"]), (64, ["fits", "fits"])):
        memory = float(gibibytes * 2**30)
        roomy = replace(scene, memory_bytes=memory, free_bytes=memory)
        forecasts = [forecast_choice(choice, config, roomy, None, tmp_path) for choice in (small, large)]
        assert [forecast.fit for forecast in forecasts if forecast] == fits
    unknown = model_choices.ModelChoice("x/y", None, 1, "", on_disk=True)
    assert forecast_choice(unknown, config, scene, None, tmp_path) is None


def test_a_suggested_model_has_a_forecast_without_the_network(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    table = make_table(tmp_path / "t.parquet", [{"message": f"order {i}", "answer": "yes"} for i in range(20)])
    config = Config.model_validate({"save_dir": str(tmp_path), "model": {"hf_model_ckpt": "Qwen/Qwen3-0.6B"}})
    scene = scene_for(config, table, None)
    assert not isinstance(scene, NoForecast)
    assert scene.shape.parameters == PUBLISHED_PARAMETERS["Qwen/Qwen3-0.6B"]
    assert scene.download_bytes == 2 * scene.shape.parameters
