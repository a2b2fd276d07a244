"""A study as one HTML file without references to others: the verdict, a picture of each setting, and the trials."""

from __future__ import annotations

import html
import math
from datetime import datetime

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
        f"<p>{html.escape(describe_objective(study))} {INTERVALS_HOLD}</p>\n{pictures}\n"
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


def _format_cell(study: Study, cell: object) -> str:
    return "–" if cell is None else html.escape(format_result(study, cell) if isinstance(cell, float) else str(cell))
