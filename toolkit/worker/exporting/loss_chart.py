"""A run's loss curves as a PNG for its model card, drawn with Pillow: no browser and no plotting library needed."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from toolkit.runs.events import collect_series, read_events
from toolkit.runs.run_dir import RunDir

ChartPoint = tuple[int, float]
CHART_WIDTH, CHART_HEIGHT, OVERSAMPLING = 1200, 520, 2
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 96, 32, 56, 64
TEXT_COLOR, GRID_COLOR, TRAIN_COLOR, TEST_COLOR = "#3a3f45", "#e4e7ea", "#0B6E63", "#C2571A"
AXIS_TICKS, MAX_CHART_POINTS = 4, 1000


def draw_loss_chart(run: RunDir) -> bytes | None:
    """Training and test loss by step; None for a run that logged fewer than two points."""
    found = collect_series(read_events(run.events_path)[0])
    train, test = found.get("loss", []), found.get("eval_loss", [])
    if len(train) < 2:
        return None
    return draw_curves({"training loss": (train, TRAIN_COLOR), "test loss": (test, TEST_COLOR)})


def draw_curves(curves: dict[str, tuple[Sequence[ChartPoint], str]]) -> bytes:
    """PNG bytes, WIDTH x HEIGHT; points are (step, value), the value axis begins at zero."""
    points = [point for line, _ in curves.values() for point in line]
    steps, top = max(step for step, _ in points), max(value for _, value in points) * 1.05 or 1.0
    first = min(step for step, _ in points)
    image = Image.new("RGB", (CHART_WIDTH * OVERSAMPLING, CHART_HEIGHT * OVERSAMPLING), "white")
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(20 * OVERSAMPLING)

    def at(step: float, value: float) -> tuple[float, float]:
        x = MARGIN_LEFT + (CHART_WIDTH - MARGIN_LEFT - MARGIN_RIGHT) * (step - first) / max(1, steps - first)
        y = MARGIN_TOP + (CHART_HEIGHT - MARGIN_TOP - MARGIN_BOTTOM) * (1 - value / top)
        return x * OVERSAMPLING, y * OVERSAMPLING

    for i in range(AXIS_TICKS + 1):
        value, step = top * i / AXIS_TICKS, first + (steps - first) * i / AXIS_TICKS
        pen.line([at(first, value), at(steps, value)], fill=GRID_COLOR, width=OVERSAMPLING)
        x, y = at(first, value)
        pen.text((x - 12 * OVERSAMPLING, y), f"{value:.3g}", fill=TEXT_COLOR, font=font, anchor="rm")
        x, y = at(step, 0)
        pen.text((x, y + 14 * OVERSAMPLING), f"{step:.0f}", fill=TEXT_COLOR, font=font, anchor="mt")
    x = MARGIN_LEFT * OVERSAMPLING
    for name, (line, colour) in curves.items():
        if not line:
            continue
        thin = line[:: max(1, len(line) // MAX_CHART_POINTS)]
        pen.line([at(*point) for point in thin], fill=colour, width=3 * OVERSAMPLING, joint="curve")
        pen.text((x, 16 * OVERSAMPLING), name, fill=colour, font=font)
        x += int(pen.textlength(name, font=font)) + 32 * OVERSAMPLING
    buffer = io.BytesIO()
    image.resize((CHART_WIDTH, CHART_HEIGHT), Image.Resampling.LANCZOS).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
