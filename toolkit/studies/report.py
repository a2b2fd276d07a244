"""A study as one HTML file without references to others: its verdict, a picture of each setting, curves and trials."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np

from toolkit.runs.event_facts import read_run_curves
from toolkit.settings.form_layout import describe_value, name_setting
from toolkit.studies.outcomes import Study
from toolkit.studies.verdict import AxisFinding, StudyVerdict
from toolkit.studies.words import (
    INTERVALS_HOLD,
    describe_objective,
    describe_verdict,
    format_result,
    name_objective,
    tabulate_study,
)
from toolkit.system.printable import strip_control_characters

_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }
.verdict { border-left: 4px solid #3b6fd4; padding: .2rem 1rem; font-size: 1.1rem }
.trials { overflow-x: auto }
table { border-collapse: collapse; white-space: nowrap }
td, th { padding: .2rem .7rem; text-align: left; border-bottom: 1px solid #8886 }
svg { max-width: 100%; height: auto } svg text { font: 15px system-ui, sans-serif; fill: currentColor }
"""
_POLICY = """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">"""
_HEAD = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width">{_POLICY}'
_LABEL_WIDTH, _BAR_WIDTH, _LINE = 190, 220, 28  # pixels of a picture
_CURVES_WIDTH, _CURVES_HEIGHT, _CURVES_LEFT = 640, 260, 64
_MAX_POINTS, _MAX_NAMED_CURVES = 300, 12


def format_study_html(study: Study, verdict: StudyVerdict) -> str:
    """Return the report."""
    name = html.escape(study.question.name)
    pictures = "\n".join(_draw_means(study, finding) for finding in verdict.findings)
    rows = tabulate_study(study)
    head = "".join(f"<th>{html.escape(str(title))}</th>" for title in (rows[0] if rows else ()))
    body = "\n".join(
        f"<tr>{''.join(f'<td>{_format_cell(study, cell)}</td>' for cell in row.values())}</tr>" for row in rows
    )
    return strip_control_characters(
        f'<!doctype html>\n<html lang="en"><head>{_HEAD}<title>Study {name}</title>'
        f"<style>{_STYLE}</style></head><body>\n<h1>Study {name}</h1>\n"
        f'<p class="verdict">{html.escape(describe_verdict(study, verdict))}</p>\n'
        f"<p>{html.escape(describe_objective(study))} {INTERVALS_HOLD}</p>\n{pictures}\n{_draw_curves(study)}\n"
        f'<h2>Trials</h2>\n<div class="trials"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>\n"
        f"<p>Written on {datetime.now().astimezone():%d %B %Y, %H:%M}.</p>\n</body></html>\n"
    )


def _draw_means(study: Study, finding: AxisFinding) -> str:
    """Return a bar for each value of a setting: the mean of its finished trials."""
    known = [mean for mean in finding.means if not math.isnan(mean)]
    largest = 1.0 if study.measured.is_share else max(known, default=1.0) or 1.0
    lines = []
    pairs = zip(finding.values, finding.means, strict=True)
    shown_pairs = [(value, mean) for value, mean in pairs if not (finding.is_searched and math.isnan(mean))]
    for at, (value, mean) in enumerate(shown_pairs):
        top = at * _LINE
        label = html.escape(describe_value(finding.path, value)[:24])
        lines.append(f'<text x="{_LABEL_WIDTH - 8}" y="{top + 19}" text-anchor="end">{label}</text>')
        if math.isnan(mean):
            lines.append(f'<text x="{_LABEL_WIDTH}" y="{top + 19}">no result</text>')
            continue
        bar = round(_BAR_WIDTH * max(0.0, min(1.0, mean / largest)), 1)
        lines.append(f'<rect x="{_LABEL_WIDTH}" y="{top + 4}" width="{bar}" height="20" fill="#3b6fd4"/>')
        shown = format_result(study, mean)
        lines.append(f'<text x="{_LABEL_WIDTH + bar + 6}" y="{top + 19}">{shown}</text>')
    title = f"{name_setting(finding.path)}: mean {name_objective(study)}"
    width, height = _LABEL_WIDTH + _BAR_WIDTH + 70, _LINE * len(shown_pairs)
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    picture = f'<svg {size} role="img" aria-label="{html.escape(title)}">{"".join(lines)}</svg>'
    return f"<h2>{html.escape(title)}</h2>\n{picture}"


def _draw_curves(study: Study) -> str:
    """Return the test loss of each trial by step, with a color for each combination; "" while there is no curve."""
    curves = []
    for outcome in study.outcomes:
        curve = None if outcome.run is None else read_run_curves(outcome.run.events_path).get("eval_loss")
        points = [] if curve is None else [(step, loss) for step, loss in curve if math.isfinite(loss)]
        if len(points) > 1:
            curves.append((_name_trial(outcome.asked.settings), outcome.asked.seed, np.array(points, dtype=float)))
    if not curves:
        return ""
    every = np.concatenate([points for _, _, points in curves])
    last, lowest, highest = every[:, 0].max(), every[:, 1].min(), every[:, 1].max()
    width, height = _CURVES_WIDTH - _CURVES_LEFT - 20, _CURVES_HEIGHT - 48
    names = list(dict.fromkeys(name for name, _, _ in curves))
    colors = {name: f"hsl({round(360 * at / len(names))} 70% 50%)" for at, name in enumerate(names)}
    lines = []
    for name, seed, found in curves:
        shown = found[:: math.ceil(len(found) / _MAX_POINTS)]
        x = _CURVES_LEFT + width * shown[:, 0] / last
        y = 12 + height * (highest - shown[:, 1]) / ((highest - lowest) or 1.0)
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
        lines.append(
            f'<polyline points="{path}" fill="none" stroke="{colors[name]}" stroke-width="2">'
            f"<title>{html.escape(name)}, seed {seed}</title></polyline>"
        )
    for text, top in ((f"{highest:.3g}", 17), (f"{lowest:.3g}", height + 17)):
        lines.append(f'<text x="{_CURVES_LEFT - 8}" y="{top}" text-anchor="end">{text}</text>')
    for text, left, anchor in (("step 0", _CURVES_LEFT, "start"), (f"{int(last):,}", _CURVES_LEFT + width, "end")):
        lines.append(f'<text x="{left}" y="{_CURVES_HEIGHT - 8}" text-anchor="{anchor}">{text}</text>')
    size = f'width="{_CURVES_WIDTH}" height="{_CURVES_HEIGHT}" viewBox="0 0 {_CURVES_WIDTH} {_CURVES_HEIGHT}"'
    named = names if len(names) <= _MAX_NAMED_CURVES else []
    legend = "".join(f'<br><span style="color:{colors[name]}">━</span> {html.escape(name)}' for name in named)
    picture = f'<svg {size} role="img" aria-label="Test loss of each trial by step">{"".join(lines)}</svg>'
    return f"<h2>Test loss by step</h2>\n<p>{picture}{legend}</p>"


def _name_trial(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name_setting(path)} {describe_value(path, value)[:60]}" for path, value in settings.items())


def _format_cell(study: Study, cell: object) -> str:
    return "–" if cell is None else html.escape(format_result(study, cell) if isinstance(cell, float) else str(cell))
