"""Sample outputs as read from the file of a run: the answers of later attempts replace those of earlier ones."""

from __future__ import annotations

from pathlib import Path

from toolkit.runs.events import EventWriter
from toolkit.ui.runs.film import read_sample_outputs

PINS = [{"prompt": "two lamps", "expected": "2 lamps", "row": 4}, {"prompt": "hello", "expected": None, "row": None}]


def test_appended_frames_are_read_and_a_repeated_step_shows_the_later_answers(tmp_path: Path) -> None:
    path = tmp_path / "film.jsonl"
    assert read_sample_outputs(path).steps == []
    with EventWriter(path, 1) as writer:
        writer.append("pinned", pins=PINS)
        writer.append("answers", step=0, texts=["?", "hi"])
        assert read_sample_outputs(path).frames == {0: ("?", "hi")}
        writer.append("answers", step=4, texts=["2 lamps", "hi"])
        writer.append("answers", step=8, texts=["lost", "hi"])
    with EventWriter(path, 2) as writer:
        writer.append("pinned", pins=PINS)
        writer.append("answers", step=8, texts=["2 lamps ", "hi"])
        writer.append("answers", step=9, texts=["one too few"])
    outputs = read_sample_outputs(path)
    assert outputs.steps == [0, 4, 8]
    assert (outputs.previous_step(0), outputs.previous_step(8)) == (None, 4)
    assert outputs.correct_since(0, 8) == 4
    assert outputs.correct_since(0, 0) is None
    assert outputs.correct_since(1, 8) is None


def test_a_file_that_became_shorter_is_read_again_from_the_start(tmp_path: Path) -> None:
    path = tmp_path / "film.jsonl"
    with EventWriter(path, 1) as writer:
        writer.append("pinned", pins=PINS)
        writer.append("answers", step=0, texts=["?", "hi"])
        kept_bytes = path.stat().st_size
        writer.append("answers", step=4, texts=["2 lamps", "hi"])
    assert read_sample_outputs(path).steps == [0, 4]
    with path.open("r+b") as file:
        file.truncate(kept_bytes)
    assert read_sample_outputs(path).steps == [0]
