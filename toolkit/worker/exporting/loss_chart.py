"""A run's loss curves as a PNG for its model card, drawn with Pillow, so that no plotting library is needed."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from toolkit.runs.events import collect_series, read_events
from toolkit.runs.run_dir import RunDir

ChartPoint = tuple[int, float]
"""(step, value)"""
CHART_WIDTH, CHART_HEIGHT = 1200, 520  # pixels
OVERSAMPLING = 2  # drawn larger and reduced: Pillow draws lines without antialiasing
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 96, 32, 56, 64  # pixels, for tick labels and legend
TEXT_COLOR, GRID_COLOR, TRAIN_COLOR, TEST_COLOR = "#3a3f45", "#e4e7ea", "#0B6E63", "#C2571A"
AXIS_TICKS = 4
MAX_CHART_POINTS = 1000  # per curve: about one per pixel


def draw_loss_chart(run: RunDir) -> bytes | None:
    """Return training and test loss by step as PNG bytes, None for a run that logged fewer than two points."""
    series = collect_series(read_events(run.events_path)[0])
    train, test = series.get("loss", []), series.get("eval_loss", [])
    if len(train) < 2:
        return None
    return draw_curves({"training loss": (train, TRAIN_COLOR), "test loss": (test, TEST_COLOR)})


def draw_curves(curves: dict[str, tuple[Sequence[ChartPoint], str]]) -> bytes:
    """Return a PNG of CHART_WIDTH x CHART_HEIGHT. curves: name -> (points, color). The value axis begins at zero."""
    points = [point for line, _ in curves.values() for point in line]
    first, last = min(step for step, _ in points), max(step for step, _ in points)
    top = max(value for _, value in points) * 1.05 or 1.0
    image = Image.new("RGB", (CHART_WIDTH * OVERSAMPLING, CHART_HEIGHT * OVERSAMPLING), "white")
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(20 * OVERSAMPLING)

    def position(step: float, value: float) -> tuple[float, float]:
        x = MARGIN_LEFT + (CHART_WIDTH - MARGIN_LEFT - MARGIN_RIGHT) * (step - first) / max(1, last - first)
        y = MARGIN_TOP + (CHART_HEIGHT - MARGIN_TOP - MARGIN_BOTTOM) * (1 - value / top)
        return x * OVERSAMPLING, y * OVERSAMPLING

    for i in range(AXIS_TICKS + 1):
        value, step = top * i / AXIS_TICKS, first + (last - first) * i / AXIS_TICKS
        pen.line([position(first, value), position(last, value)], fill=GRID_COLOR, width=OVERSAMPLING)
        x, y = position(first, value)
        pen.text((x - 12 * OVERSAMPLING, y), f"{value:.3g}", fill=TEXT_COLOR, font=font, anchor="rm")
        x, y = position(step, 0)
        pen.text((x, y + 14 * OVERSAMPLING), f"{step:.0f}", fill=TEXT_COLOR, font=font, anchor="mt")
    x = MARGIN_LEFT * OVERSAMPLING
    for name, (line, color) in curves.items():
        if not line:
            continue
        thinned = line[:: max(1, len(line) // MAX_CHART_POINTS)]
        pen.line([position(*point) for point in thinned], fill=color, width=3 * OVERSAMPLING, joint="curve")
        pen.text((x, 16 * OVERSAMPLING), name, fill=color, font=font)
        x += int(pen.textlength(name, font=font)) + 32 * OVERSAMPLING
    buffer = io.BytesIO()
    image.resize((CHART_WIDTH, CHART_HEIGHT), Image.Resampling.LANCZOS).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
