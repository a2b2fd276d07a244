"""The campaign of hostile probes against a freshly started app and engine: `python -m benchmarks.probes`.

Prints for each kind how many probes were tried and how many came through (goal: none), and each that did. `--kinds yaml
rules` tries some of them, `--json FILE` keeps the outcome of every kind and skips those that it has already, and
`--part 2/5` tries every fifth probe from the second on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from benchmarks.probing import (
    arguments,
    configs,
    engine,
    folders,
    malformed,
    model_siblings,
    models,
    network,
    plain_page,
    strangers,
    tables,
    texts,
    uploads,
)
from benchmarks.probing.probe import Outcome, Probe, run_probe
from benchmarks.probing.server import Target, open_session, probe_environment, target_of
from tests.browser.server import start_server, stop_everything
from toolkit.services.service_process import end_service

Group = Callable[[Path], Iterable[Probe]]


NETWORK: dict[str, Callable[[Target], Iterable[Probe]]] = {
    "origins": network.origin_probes,
    "hosts": network.host_probes,
    "headers": network.header_probes,
    "traversal": network.traversal_probes,
    "methods": network.method_probes,
}
"""Requests that are made with the access token and without it."""
ONCE: dict[str, Callable[[Target], Iterable[Probe]]] = {
    "malformed": malformed.malformed_probes,
    "no-token": lambda target: network.bare_probes(replace(target, token="")),
}
HELD = ("uploads", "hold")


GROUPS: dict[str, Group] = {
    "csv": lambda _: texts.formula_probes(),
    "terminal": lambda _: texts.terminal_probes(),
    "plain": plain_page.plain_probes,
    "yaml": configs.yaml_probes,
    "rules": lambda _: configs.rule_probes(),
    "file-name": uploads.name_probes,
    "savedir": folders.folder_probes,
    "tables": tables.table_probes,
    "argv": arguments.argument_probes,
    "strangers": strangers.stranger_probes,
    "told": strangers.text_probes,
    "keys": lambda folder: chain(
        folders.key_probes(folder), folders.address_probes(folder), folders.sweep_probes(folder)
    ),
    "model-files": partial(models.model_probes, models.damaged_files),
    "model-settings": partial(models.model_probes, models.hostile_settings),
    "tokenizers": partial(models.model_probes, models.hostile_tokenizers),
    "templates": partial(models.model_probes, models.hostile_templates),
    "model-folder": model_siblings.forbidden_probes,
    "model-siblings": partial(models.model_probes, model_siblings.sibling_files),
    "engine": lambda _: (),
    **dict.fromkeys((*NETWORK, *ONCE, *HELD), lambda _: ()),
}


@contextmanager
def prepare(group: str, folder: Path) -> Iterator[Iterable[Probe]]:
    """Provide the probes of a group, and what they are aimed at while the block runs."""
    folder.mkdir(parents=True)
    save_dir = folder / "experiments"
    if group == "engine":
        info = engine.start_engine(save_dir)
        try:
            yield engine.engine_probes(info)
        finally:
            end_service(info, grace_seconds=0.0)
    elif group in (*NETWORK, *ONCE, *HELD):
        save_dir.mkdir()
        (save_dir / "canary").write_bytes(network.CANARY)
        server = start_server(save_dir)
        try:
            yield _served_probes(group, target_of(server), server.process.pid)
        finally:
            stop_everything(server)
    else:
        yield GROUPS[group](folder)


def _served_probes(group: str, target: Target, pid: int) -> Iterator[Probe]:
    if group in NETWORK:
        yield from NETWORK[group](target)
        yield from NETWORK[group](replace(target, token=""))
        return
    if group in ONCE:
        yield from ONCE[group](target)
        return
    session = open_session(target)
    if group == "uploads":
        yield from uploads.upload_probes(target, session)
        return
    yield from arguments.process_probes(target, pid)
    yield from uploads.hold_probes(target, session)
    yield from uploads.memory_probes(target, session, pid)
    yield from folders.permission_probes(target.save_dir)


def try_probes(probes: Iterable[Probe]) -> list[Outcome]:
    found = []
    for probe in probes:
        outcome = run_probe(probe)
        if outcome.came_through:
            print(f"  {probe.kind} · {probe.name} · {outcome.came_through} ({outcome.seconds} s)", flush=True)
        found.append(outcome)
    return found


def summarize(outcomes: list[Outcome]) -> dict[str, dict[str, Any]]:
    """Return kind -> tried, let through, and the names of those that came through."""
    table: dict[str, dict[str, Any]] = {}
    for one in outcomes:
        row = table.setdefault(one.probe.kind, {"tried": 0, "through": 0, "slowest_s": 0.0, "names": []})
        row["tried"] += 1
        row["through"] += bool(one.came_through)
        row["slowest_s"] = max(row["slowest_s"], one.seconds)
        row["names"] += [f"{one.probe.name} · {one.came_through}"] if one.came_through else []
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="+", choices=sorted(GROUPS), default=sorted(GROUPS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--part", default="1/1", metavar="N/M")
    given = parser.parse_args()
    first, parts = map(int, given.part.split("/"))
    done: dict[str, Any] = json.loads(given.json.read_text()) if given.json and given.json.exists() else {}
    with tempfile.TemporaryDirectory(prefix="probes-") as folder:
        probe_environment(Path(folder))
        for group in given.kinds:
            if group in done:
                continue
            began = time.monotonic()
            with prepare(group, Path(folder) / group) as probes:
                table = summarize(try_probes(islice(probes, first - 1, None, parts)))
            done[group] = {"seconds": round(time.monotonic() - began, 1), "kinds": table}
            if given.json:
                given.json.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n")
            print_table(table)
    total: dict[str, Any] = {kind: row for group in given.kinds for kind, row in done[group]["kinds"].items()}
    print_table(total)
    tried, through = (sum(row[name] for row in total.values()) for name in ("tried", "through"))
    print(f"{through} of {tried:,} probes came through")
    return 1 if through else 0


def print_table(table: dict[str, Any]) -> None:
    for kind, row in sorted(table.items()):
        print(
            f"{kind:20}{row['tried']:7,} tried{row['through']:6} through{row['slowest_s']:8.1f} s at most", flush=True
        )


if __name__ == "__main__":
    raise SystemExit(main())
