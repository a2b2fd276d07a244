"""The campaign of hostile probes: it generates what its table counts, and what needs no server is tried here."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.probing import configs, engine, folders, models, network, texts, uploads
from benchmarks.probing.probe import Probe, run_probe
from benchmarks.probing.server import Target
from toolkit.services.engine_process import EngineInfo


def test_the_campaign_has_thousands_of_probes_with_names_of_their_own(tmp_path: Path) -> None:
    target, info = Target(8501, tmp_path), EngineInfo(tmp_path, 8502, 1, 0.0, "t", "r")
    makers = (
        texts.formula_probes(), texts.terminal_probes(), configs.yaml_probes(tmp_path), configs.rule_probes(),
        uploads.name_probes(tmp_path), folders.folder_probes(tmp_path), folders.key_probes(tmp_path),
        folders.address_probes(tmp_path), network.origin_probes(target), network.host_probes(target),
        network.header_probes(target), network.traversal_probes(target), network.method_probes(target),
        network.bare_probes(target), engine.engine_probes(info),
    )  # fmt: skip
    counts = Counter(probe.kind for maker in makers for probe in maker)
    cases = (models.damaged_files, models.hostile_settings, models.hostile_tokenizers, models.hostile_templates)
    assert sum(counts.values()) + sum(len(list(make())) for make in cases) > 8_000
    assert min(counts.values()) > 20, counts


def test_formulas_control_characters_and_names_are_stopped(tmp_path: Path) -> None:
    probes = [*texts.formula_probes(), *texts.terminal_probes(), *uploads.name_probes(tmp_path)][::5]
    assert not [
        (outcome.probe.name, outcome.came_through) for outcome in map(run_probe, probes) if outcome.came_through
    ]


def hang() -> str:
    while True:
        pass


@pytest.mark.parametrize(
    ("attempt", "says"),
    [
        (lambda: "", ""), (lambda: "it got in", "it got in"), (lambda: 1 / 0, "ZeroDivisionError"), (hang, "no answer"),
        (lambda: len("x" * 10**11), "MemoryError"),
    ],
)  # fmt: skip
def test_what_a_probe_reports(attempt: object, says: str) -> None:
    seconds = 0.1 if attempt is hang else 120.0
    found = run_probe(Probe("kind", "name", attempt, seconds)).came_through  # type: ignore[arg-type]
    assert found.startswith(says) and bool(found) == bool(says)
