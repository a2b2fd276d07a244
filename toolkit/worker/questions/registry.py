"""The questions that the background worker answers. A new question is one line here and one function.

The function is called as `answer(body, job) -> value`; body and value are JSON objects, described in the docstring of
its module. It reports progress with `job.report_progress(phase, done, total)`, which also ends a canceled job, and
raises ToolkitError for what a user can act on.

    xray      one row as the trainer sees it: tokens, ids, what is trained (`xray.py`)
    faults    the blocking problems in the rows of a table (`hard_stops.py`)
    lengths   tokens of prompt and completion of every row of a table (`lengths.py`)
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WarmQuestion:
    """answers: dotted name of the function. quick: takes milliseconds; quick questions do not wait for long ones."""

    answers: str
    quick: bool = False


WARM_QUESTIONS: dict[str, WarmQuestion] = {
    "xray": WarmQuestion("toolkit.worker.questions.xray.answer_token_view", quick=True),
    "faults": WarmQuestion("toolkit.worker.questions.hard_stops.answer_hard_stops"),
    "lengths": WarmQuestion("toolkit.worker.questions.lengths.answer_lengths"),
}
