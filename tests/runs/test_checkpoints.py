"""Whatever happens while a checkpoint is written, the last committed one remains complete."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from tests.fakes.disk import Death, Disk, Fault, io_error, no_space, watched
from toolkit.config import Config
from toolkit.errors import RunError
from toolkit.runs.checkpoints import (
    checkpoint_path,
    has_checkpoint_room,
    list_kept_checkpoints,
    newest_checkpoint_step,
    newest_verified_checkpoint,
    remove_unfinished_checkpoints,
    save_checkpoint,
    verify_checkpoint,
)
from toolkit.runs.run_dir import RunDir, create_run
from toolkit.system.durable import COMMIT_NAME


@pytest.fixture(autouse=True)
def _no_real_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace fsync: the disk is simulated, and thousands of real ones would only take time."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture
def run(save_dir: Path) -> RunDir:
    return create_run(Config(save_dir=str(save_dir)), None)


def fill(folder: Path, step: int) -> None:
    """Write files like those of a worker: large, small, and one in a folder."""
    (folder / "weights.safetensors").write_bytes(bytes([step]) * 5000)
    (folder / "optimizer.json").write_text(json.dumps({"step": step}))
    (folder / "inner").mkdir()
    (folder / "inner" / "rank-0.safetensors").write_bytes(bytes([step, 1]) * 400)
    (folder / "trainer_state.json").write_text(f"state of {step}")


def write(run: RunDir, step: int, said: list[int] | None = None, best: int | None = None) -> None:
    told = said if said is not None else []
    save_checkpoint(
        run, step, lambda folder: fill(folder, step), {"attempt": 1}, lambda done: told.append(done.step), best
    )


def content(path: Path) -> dict[str, bytes]:
    return {one.relative_to(path).as_posix(): one.read_bytes() for one in path.rglob("*") if one.is_file()}


def test_the_newest_two_and_the_best_are_kept(run: RunDir) -> None:
    for step in (4, 8, 12):
        write(run, step)
    assert list(list_kept_checkpoints(run)) == [12, 8]
    for step in (16, 20, 24):
        write(run, step, best=8)
    assert list(list_kept_checkpoints(run)) == [24, 20, 8]
    assert newest_checkpoint_step(run) == 24
    assert verify_checkpoint(checkpoint_path(run, 8), run.id).bytes == 5000 + len('{"step": 8}') + 800 + len(
        "state of 8"
    )
    found, refused = newest_verified_checkpoint(run)
    assert found is not None
    assert (found.step, refused) == (24, [])


def test_a_checkpoint_of_another_run_or_step_is_refused(run: RunDir, save_dir: Path) -> None:
    other = create_run(Config(save_dir=str(save_dir)), None)
    write(other, 4)
    shutil.copytree(other.checkpoints_dir, run.checkpoints_dir)
    with pytest.raises(RunError, match="not a checkpoint of run"):
        verify_checkpoint(checkpoint_path(run, 4), run.id)
    checkpoint_path(other, 4).rename(checkpoint_path(other, 9))
    with pytest.raises(RunError, match="not a checkpoint of run"):
        verify_checkpoint(checkpoint_path(other, 9), other.id)


def survivors(tree: Path, said: list[int], expected: dict[int, dict[str, bytes]], *, again: bool) -> None:
    """Check that the checkpoint in `tree`, a run's directory after a crash, is complete and as new as the log says."""
    left = RunDir(tree)
    remove_unfinished_checkpoints(left)
    found, _ = newest_verified_checkpoint(left)
    assert (found.step if found else 0) >= (said[-1] if said else 0), f"said {said}, found {found and found.step}"
    if found is not None:
        names = set(content(found.path)) - {COMMIT_NAME}
        assert {name: content(found.path)[name] for name in names} == expected[found.step]
    if not again:
        return
    # the run can be saved again after the crash: appending to an incomplete last line once lost events
    write(left, 99)
    assert newest_checkpoint_step(left) == 99
    assert not [path for path in left.checkpoints_dir.iterdir() if path.name.startswith(".")]


def expected_files(tmp_path: Path, steps: tuple[int, ...]) -> dict[int, dict[str, bytes]]:
    found = {}
    for step in steps:
        folder = tmp_path / f"expected-{step}"
        folder.mkdir()
        fill(folder, step)
        found[step] = content(folder)
    return found


def crash_everywhere(run: RunDir, tmp_path: Path, steps: tuple[int, ...], deaf_to: int = 0) -> tuple[int, int]:
    """Save a few times; at every file operation, check what a kill and both outcomes of a power cut would leave.

    Returns the numbers of looks and of fsyncs.
    """
    expected, said, looks = expected_files(tmp_path, (*steps, 99)), [], [0]
    disk = Disk(run.path, deaf_to)

    def look(moment: str) -> None:
        if deaf_to and moment not in ("after rename", "after fsync", "said"):
            return
        for kind in ("lost", "torn") if deaf_to else ("killed", "lost", "torn"):
            looks[0] += 1
            tree = tmp_path / f"look-{looks[0]}" / run.id
            tree.parent.mkdir()
            if kind == "killed":
                shutil.copytree(run.path, tree)
            else:
                getattr(disk, kind)(tree)
            survivors(tree, said, expected, again=kind == "killed")
            shutil.rmtree(tree)

    with watched(run.path, look, disk):
        for step in steps:
            write(run, step, said)
            look("said")
    return looks[0], disk.fsyncs


def test_a_kill_or_a_power_cut_at_every_file_operation(run: RunDir, tmp_path: Path) -> None:
    looks, fsyncs = crash_everywhere(run, tmp_path, (1, 2, 3))
    assert looks > 300
    assert fsyncs == 3 * 8 + 1


def test_every_fsync_is_needed(run: RunDir, save_dir: Path, tmp_path: Path) -> None:
    """Disable each fsync of two saves in turn: the simulated power cut must then find a fault."""
    needless = []
    for number in range(1, 2 * 8 + 2):
        victim = create_run(Config(save_dir=str(save_dir)), None)
        (tmp_path / str(number)).mkdir()
        try:
            crash_everywhere(victim, tmp_path / str(number), (1, 2), deaf_to=number)
        except AssertionError:
            continue
        needless.append(number)
    assert needless == []


@pytest.mark.parametrize("error", [no_space, io_error, Death])
def test_an_error_at_every_file_operation(error, run: RunDir, tmp_path: Path) -> None:
    """Fail at the first file operation, then at the second, and so on until a save succeeds."""
    expected, number = expected_files(tmp_path, (1, 2, 3, 99)), 0
    write(run, 1)
    write(run, 2)
    while True:
        number += 1
        victim = RunDir(tmp_path / f"fault-{number}" / run.id)
        shutil.copytree(run.path, victim.path)
        said, fault = [2], Fault(number, error())
        try:
            with watched(victim.path, fault):
                write(victim, 3, said)
        except (OSError, Death):
            if not isinstance(fault.error, Death) and 3 not in said:
                assert not list(victim.checkpoints_dir.glob(".new-*")), "an incomplete checkpoint is removed"
        survivors(victim.path, said, expected, again=True)
        if not fault.came:
            break
    assert number > 50


def test_a_replaced_checkpoint_is_complete_or_absent_at_every_moment(run: RunDir) -> None:
    write(run, 5)
    states: list[str] = []

    def look(moment: str) -> None:
        if checkpoint_path(run, 5).exists():
            verify_checkpoint(checkpoint_path(run, 5), run.id)
        states.append(moment)

    with watched(run.path, look):
        write(run, 5)
    assert len(states) > 30
    assert newest_checkpoint_step(run) == 5


def test_a_thousand_kinds_of_damage_are_all_refused(run: RunDir, tmp_path: Path) -> None:
    write(run, 7)
    whole = content(checkpoint_path(run, 7))
    chance = random.Random(5)
    for _ in range(1000):
        name = chance.choice(sorted(whole))
        path = checkpoint_path(run, 7) / name
        damage(path, chance)
        found, refused = newest_verified_checkpoint(run)
        assert found is None, f"{name} was damaged and accepted"
        assert len(refused) == 1
        path.write_bytes(whole[name])
    assert newest_verified_checkpoint(run)[0] is not None


def damage(path: Path, chance: random.Random) -> None:
    raw = bytearray(path.read_bytes())
    how = chance.choice(["flip", "cut", "gone", "more", "zeros"]) if raw else chance.choice(["gone", "more"])
    if how == "gone":
        path.unlink()
        return
    if how == "flip":
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
    elif how == "cut":
        del raw[chance.randrange(len(raw)) :]
    elif how == "more":
        raw += b"x"
    else:
        start = chance.randrange(len(raw))
        raw[start] = (raw[start] + 1) % 256
        raw[start + 1 :] = bytes(len(raw) - start - 1)
    path.write_bytes(raw)


def test_free_space_is_measured_on_the_volume_of_the_run(run: RunDir) -> None:
    assert has_checkpoint_room(run, 1000)
    assert not has_checkpoint_room(run, shutil.disk_usage(run.path).free)


def test_a_key_that_can_not_be_used_is_raised_and_refuses_no_checkpoint(run: RunDir, state_dir: Path) -> None:
    """Taken for a damaged checkpoint, it made the run start again at its first step."""
    write(run, 3)
    (state_dir / "key").chmod(0o666)
    with pytest.raises(RunError, match="key at"):
        newest_verified_checkpoint(run)
    assert newest_checkpoint_step(run) == 3
    (state_dir / "key").chmod(0o600)
    found, refused = newest_verified_checkpoint(run)
    assert found is not None
    assert (found.step, refused) == (3, [])
