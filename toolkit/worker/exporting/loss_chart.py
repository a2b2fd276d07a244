"""A run's loss curves as a PNG for its model card, drawn with Pillow: no browser and no plotting library needed."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from toolkit.runs.events import read_events, series
from toolkit.runs.run_dir import RunDir

Point = tuple[int, float]
WIDTH, HEIGHT, SHARP = 1200, 520, 2
LEFT, RIGHT, TOP, BOTTOM = 96, 32, 56, 64
INK, GRID, TRAIN, TEST = "#3a3f45", "#e4e7ea", "#0B6E63", "#C2571A"
TICKS, MOST_POINTS = 4, 1000


def curves_png(run: RunDir) -> bytes | None:
    """Training and test loss by step; None for a run that logged fewer than two points."""
    found = series(read_events(run.events_path)[0])
    train, test = found.get("loss", []), found.get("eval_loss", [])
    if len(train) < 2:
        return None
    return draw({"training loss": (train, TRAIN), "test loss": (test, TEST)})


def draw(curves: dict[str, tuple[Sequence[Point], str]]) -> bytes:
    """PNG bytes, WIDTH x HEIGHT; points are (step, value), the value axis begins at zero."""
    points = [point for line, _ in curves.values() for point in line]
    steps, top = max(step for step, _ in points), max(value for _, value in points) * 1.05 or 1.0
    first = min(step for step, _ in points)
    image = Image.new("RGB", (WIDTH * SHARP, HEIGHT * SHARP), "white")
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(20 * SHARP)

    def at(step: float, value: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * (step - first) / max(1, steps - first)
        y = TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top)
        return x * SHARP, y * SHARP

    for i in range(TICKS + 1):
        value, step = top * i / TICKS, first + (steps - first) * i / TICKS
        pen.line([at(first, value), at(steps, value)], fill=GRID, width=SHARP)
        x, y = at(first, value)
        pen.text((x - 12 * SHARP, y), f"{value:.3g}", fill=INK, font=font, anchor="rm")
        x, y = at(step, 0)
        pen.text((x, y + 14 * SHARP), f"{step:.0f}", fill=INK, font=font, anchor="mt")
    x = LEFT * SHARP
    for name, (line, colour) in curves.items():
        if not line:
            continue
        thin = line[:: max(1, len(line) // MOST_POINTS)]
        pen.line([at(*point) for point in thin], fill=colour, width=3 * SHARP, joint="curve")
        pen.text((x, 16 * SHARP), name, fill=colour, font=font)
        x += int(pen.textlength(name, font=font)) + 32 * SHARP
    buffer = io.BytesIO()
    image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
