"""What the warm worker can be asked: kind -> the function that answers. A new kind is one line here and one function.

The function gets the body and the job, `answer(body, job) -> value` (both JSON objects); it says what it is doing
through `job.tell(phase, done, total)`, which also ends it when nobody wants the answer any more, and raises
ToolkitError for what a user can act on. Each kind's docstring says what body and value hold.

    xray      one row as the trainer will see it: tokens, ids, what is learned (`xray.py`)
    faults    the hard stops in a table's rows (`hard_stops.py`)
    lengths   tokens of prompt and completion of every row of a table (`lengths.py`)
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WarmQuestion:
    """answers: dotted name of the function. quick: milliseconds; quick ones never wait for long ones."""

    answers: str
    quick: bool = False


WARM_QUESTIONS: dict[str, WarmQuestion] = {
    "xray": WarmQuestion("toolkit.worker.questions.xray.answer_token_view", quick=True),
    "faults": WarmQuestion("toolkit.worker.questions.hard_stops.answer_hard_stops"),
    "lengths": WarmQuestion("toolkit.worker.questions.lengths.answer_lengths"),
}
