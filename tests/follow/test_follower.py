"""Trackers hold each point once, whatever is killed; people are told each end once."""

from __future__ import annotations

import http.server
import json
import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.tracker_files import Point, read_mlflow_points, read_tensorboard_points, read_wandb_points
from toolkit.config import Config
from toolkit.errors import RunError
from toolkit.follow import follow_state
from toolkit.follow import follower as follower_module
from toolkit.follow.follower import Follower, hold_follower
from toolkit.follow.notifications import ADDRESS_VARIABLE, neutralize_for_messengers, read_notification_addresses
from toolkit.follow.trackers import TrackerKind, _quote_settings, choose_trackers
from toolkit.runs.events import EventWriter, collect_series, read_events
from toolkit.runs.run_dir import RunDir, create_run


class KilledError(BaseException):
    """Ends a poll as a kill would: nothing in the product catches it."""


@pytest.fixture
def run(save_dir: Path) -> RunDir:
    return create_run(Config(save_dir=str(save_dir)), None, name="two words")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """The lines that a webhook on loopback receives; its address stands in FTK_NOTIFY."""
    received: list[dict[str, Any]] = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv(ADDRESS_VARIABLE, f"http://127.0.0.1:{server.server_port}/secret")
        yield received
        server.shutdown()


def write_steps(run: RunDir, steps: range, attempt: int = 1) -> None:
    with EventWriter(run.events_path, attempt) as events:
        for step in steps:
            events.append("log", step=step, loss=2.0 / (step + attempt), grad_norm=float(step))
            if step % 5 == 0:
                events.append("eval", step=step, eval_loss=1.0 / (step + 1))


def end_run(run: RunDir, kind: str = "finished", attempt: int = 1, **fields: Any) -> None:
    with EventWriter(run.events_path, attempt) as events:
        events.append(kind, step=40, message="", hint="", **fields)


def logged_points(run: RunDir) -> list[Point]:
    series = collect_series(read_events(run.events_path)[0])
    return sorted((name, step, round(value, 5)) for name, column in series.items() for step, value in column)


def rounded(points: list[Point]) -> list[Point]:
    return sorted((name, step, round(value, 5)) for name, step, value in points if not name.startswith("scores/"))


def all_trackers(tmp_path: Path) -> dict[str, TrackerKind]:
    return choose_trackers(tmp_path / "board", str(tmp_path / "ml"), tmp_path / "wb", "project")


def assert_each_point_is_there_once(run: RunDir, tmp_path: Path) -> None:
    expected = logged_points(run)
    assert rounded(read_tensorboard_points(tmp_path / "board" / run.id)) == expected
    assert rounded(read_mlflow_points(tmp_path / "ml")) == expected
    assert rounded(read_wandb_points(tmp_path / "wb")) == expected


def test_points_arrive_while_a_run_trains_and_once_each(run: RunDir, save_dir: Path, tmp_path: Path) -> None:
    follower = Follower(save_dir, all_trackers(tmp_path), (), only=run.id)
    assert not follower.poll()  # nothing is logged yet
    for start in range(0, 40, 10):
        write_steps(run, range(start, start + 10))
        assert not follower.poll()
    assert len(read_mlflow_points(tmp_path / "ml")) == 88  # at once, not at the end
    end_run(run)
    assert follower.poll()
    assert_each_point_is_there_once(run, tmp_path)
    before = [path.stat().st_mtime_ns for path in (tmp_path / "board").rglob("*")]
    Follower(save_dir, all_trackers(tmp_path), ()).poll()  # a later process leaves what is complete alone
    assert [path.stat().st_mtime_ns for path in (tmp_path / "board").rglob("*")] == before


def test_a_hundred_kills_lose_and_double_nothing(
    run: RunDir, save_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill strikes before or after one of the calls in which a poll reads, sends or records something."""
    chance = random.Random(7)
    left = [0]

    def count_down(call: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise KilledError
            found = call(*args, **kwargs)
            left[0] -= 1
            if left[0] == 0:
                raise KilledError
            return found

        return counted

    kinds = choose_trackers(tmp_path / "board", str(tmp_path / "ml"), None, "project")
    from mlflow import MlflowClient
    from tensorboardX import SummaryWriter

    for owner, name in (
        (follower_module, "read_events"),
        (follow_state, "durable_write"),
        (SummaryWriter, "add_scalar"),
        (SummaryWriter, "close"),
        (MlflowClient, "log_batch"),
        (MlflowClient, "create_run"),
        (MlflowClient, "get_metric_history"),
        (MlflowClient, "update_run"),
    ):
        monkeypatch.setattr(owner, name, count_down(getattr(owner, name)))
    step, killed = 0, 0
    while killed < 100:
        if step < 60:
            write_steps(run, range(step, step + 2))
            step += 2
        elif step == 60:
            end_run(run)
            step += 1
        left[0] = chance.randint(1, 60 + 2 * step)
        try:
            Follower(save_dir, kinds, ()).poll()
        except KilledError:
            killed += 1
        else:
            (save_dir / "follow" / "state.json").unlink(missing_ok=True)  # it was complete: begin again
    left[0] = 0
    follower = Follower(save_dir, kinds, (), only=run.id)
    assert follower.poll()
    expected = logged_points(run)
    assert rounded(read_tensorboard_points(tmp_path / "board" / run.id)) == expected
    assert rounded(read_mlflow_points(tmp_path / "ml")) == expected


def test_a_resumed_run_replaces_the_steps_that_it_repeats(run: RunDir, save_dir: Path, tmp_path: Path) -> None:
    kinds = choose_trackers(tmp_path / "board", None, tmp_path / "wb", "project")
    follower = Follower(save_dir, kinds, ())
    write_steps(run, range(20))
    follower.poll()
    write_steps(run, range(15, 40), attempt=2)  # other values: the second attempt's are the run's
    follower.poll()
    end_run(run, attempt=2)
    follower.poll()
    assert rounded(read_tensorboard_points(tmp_path / "board" / run.id)) == logged_points(run)
    assert rounded(read_wandb_points(tmp_path / "wb")) == logged_points(run)


def test_each_end_is_told_once(run: RunDir, save_dir: Path, told: list[dict[str, Any]]) -> None:
    follower = Follower(save_dir, {}, read_notification_addresses())
    write_steps(run, range(4))
    follower.poll()
    assert told == []
    end_run(run, "failed", reason="out_of_memory")
    for _ in range(3):
        follower.poll()
    Follower(save_dir, {}, read_notification_addresses()).poll()
    assert [(line["run"], line["state"]) for line in told] == [(run.id, "failed")]
    assert told[0]["text"].startswith("two words: failed")


def test_a_run_that_waits_for_approval_is_told(run: RunDir, save_dir: Path, told: list[dict[str, Any]]) -> None:
    meta = json.loads(run.meta_path.read_text())
    run.meta_path.write_text(json.dumps({**meta, "approved": "forged"}))
    Follower(save_dir, {}, read_notification_addresses()).poll()
    assert [line["state"] for line in told] == ["waiting for approval"]


def test_ends_from_before_the_first_start_are_not_told(run: RunDir, save_dir: Path, told: list[dict[str, Any]]) -> None:
    end_run(run)
    follower = Follower(save_dir, {}, read_notification_addresses())
    follower.poll()
    assert told == []


def test_a_line_that_could_not_be_sent_names_no_address(
    run: RunDir, save_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(ADDRESS_VARIABLE, "http://127.0.0.1:9/secret")
    follower = Follower(save_dir, {}, read_notification_addresses(), only=run.id)
    end_run(run)
    assert not follower.poll()
    assert "was not sent: ConnectError" in caplog.text
    assert "secret" not in caplog.text


def test_an_unknown_address_is_refused_without_repeating_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESS_VARIABLE, "nothing://secret")
    with pytest.raises(RunError) as refused:
        read_notification_addresses()
    assert "secret" not in str(refused.value)


def test_a_password_in_the_address_of_mlflow_is_refused() -> None:
    with pytest.raises(RunError, match="MLFLOW_TRACKING_PASSWORD"):
        choose_trackers(None, "https://me:secret@example.org", None, "project")


def test_a_tracker_that_fails_is_tried_again_and_stops_nothing(
    run: RunDir, save_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "board").write_text("a file where the folder should be")
    follower = Follower(save_dir, all_trackers(tmp_path), ())
    write_steps(run, range(5))
    end_run(run)
    follower.poll()
    assert "is not in TensorBoard" in caplog.text
    assert rounded(read_mlflow_points(tmp_path / "ml")) == logged_points(run)
    (tmp_path / "board").unlink()
    monkeypatch.setattr(follower_module, "TRACKER_PAUSE_SECONDS", 0.0)
    Follower(save_dir, all_trackers(tmp_path), ()).poll()
    assert_each_point_is_there_once(run, tmp_path)


def test_one_process_follows_a_folder(save_dir: Path) -> None:
    refused = pytest.raises(RunError, match="follows the runs of this folder already")
    with hold_follower(save_dir), refused, hold_follower(save_dir):
        raise AssertionError


def test_a_damaged_record_is_made_anew(run: RunDir, save_dir: Path, tmp_path: Path) -> None:
    write_steps(run, range(5))
    end_run(run)
    (save_dir / "follow").mkdir()
    for damaged in (
        "[" * 5000,
        '{"schema": 1, "since": "x"}',
        '{"schema": 1, "since": "nan", "written": {}, "told": {}}',
        '{"schema": 1, "since": 0, "written": [], "told": 3}',
    ):
        (save_dir / "follow" / "state.json").write_text(damaged)
        assert Follower(save_dir, choose_trackers(tmp_path / "board", None, None, ""), (), only=run.id).poll()
    assert rounded(read_tensorboard_points(tmp_path / "board" / run.id)) == logged_points(run)


def test_a_message_holds_no_link_mention_or_control_character() -> None:
    evil = "<!channel> <http://evil.example|x> [x](HTTPS://evil.example) WWW.evil.example @here\x1b[2J\u202e\n\n# x"
    line = neutralize_for_messengers(f"{evil} https://huggingface.co/owner/name https://huggingface.co.evil.example/")
    assert not re.search(r"(?i)[<>\n\x1b\u202e]|https?://(?!huggingface\.co/)|www\.|@\w", line)
    assert "https://huggingface.co/owner/name" in line


def test_no_value_of_a_setting_leaves_the_code_block_of_tensorboard() -> None:
    text = _quote_settings({"run": "a\n![i](http://evil.example)", "data.prompt": "b\r# c\u2028d\x1b[2J"})
    assert all(line.startswith("    ") for line in re.split(r"[\n\r\u2028]", text)) and "\x1b" not in text
