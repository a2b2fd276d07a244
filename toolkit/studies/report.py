"""A study as one HTML file without references to others: the verdict, a picture of each setting, and the trials."""

from __future__ import annotations

import html
import math
from datetime import datetime

from toolkit.settings.form_layout import describe_value, name_setting
from toolkit.studies.outcomes import Study
from toolkit.studies.verdict import AxisFinding, StudyVerdict
from toolkit.studies.words import describe_objective, describe_verdict, format_result, name_objective, tabulate_study
from toolkit.system.printable import strip_control_characters

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }
.verdict { border-left: 4px solid #3b6fd4; padding: .2rem 1rem; font-size: 1.1rem }
table { border-collapse: collapse } td, th { padding: .2rem .7rem; text-align: left; border-bottom: 1px solid #d5d9df }
svg text { font: 13px system-ui, sans-serif }
"""
_POLICY = """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">"""
_LABEL_WIDTH, _BAR_WIDTH, _LINE = 200, 420, 26  # pixels of a picture


def format_study_html(study: Study, verdict: StudyVerdict) -> str:
    """Return the report."""
    name = html.escape(study.question.name)
    pictures = "\n".join(_draw_means(study, finding) for finding in verdict.findings)
    rows = tabulate_study(study)
    head = "".join(f"<th>{html.escape(str(title))}</th>" for title in (rows[0] if rows else ()))
    body = "\n".join(f"<tr>{''.join(f'<td>{_format_cell(cell)}</td>' for cell in row.values())}</tr>" for row in rows)
    return strip_control_characters(
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{_POLICY}<title>Study {name}</title>'
        f"<style>{_STYLE}</style></head><body>\n<h1>Study {name}</h1>\n"
        f'<p class="verdict">{html.escape(describe_verdict(study, verdict))}</p>\n'
        f"<p>{html.escape(describe_objective(study))}</p>\n{pictures}\n"
        f"<h2>Trials</h2>\n<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>\n"
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
        label = html.escape(describe_value(finding.path, value)[:30])
        lines.append(f'<text x="{_LABEL_WIDTH - 8}" y="{top + 17}" text-anchor="end">{label}</text>')
        if math.isnan(mean):
            lines.append(f'<text x="{_LABEL_WIDTH}" y="{top + 17}" fill="#6a737d">no result</text>')
            continue
        width = round(_BAR_WIDTH * max(0.0, min(1.0, mean / largest)), 1)
        lines.append(f'<rect x="{_LABEL_WIDTH}" y="{top + 4}" width="{width}" height="18" fill="#3b6fd4"/>')
        shown = format_result(study, mean)
        lines.append(f'<text x="{_LABEL_WIDTH + width + 6}" y="{top + 17}">{shown}</text>')
    title = f"{name_setting(finding.path)}: mean {name_objective(study)}"
    size = f'width="{_LABEL_WIDTH + _BAR_WIDTH + 80}" height="{_LINE * len(shown_pairs)}"'
    picture = f'<svg {size} role="img" aria-label="{html.escape(title)}">{"".join(lines)}</svg>'
    return f"<h2>{html.escape(title)}</h2>\n{picture}"


def _format_cell(cell: object) -> str:
    return "–" if cell is None else html.escape(f"{cell:.4g}" if isinstance(cell, float) else str(cell))
