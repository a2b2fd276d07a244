"""python -m toolkit.evaluation.rule_process: compile pass rules and apply them, in a process with limits.

A pattern or a schema may come from a file of unknown origin, and may take exponential time or memory, already when it
is compiled. The process reads {"rules", "answers"} from standard input and writes a JSON line for each result:
[rule, -1, why it can't be compiled or null], then [rule, answer, why the answer fails it or null]. Each step has
RULE_SECONDS of CPU time; a step that does not notice is ended with the process, after STALLED_RULE_SECONDS.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from toolkit.errors import ToolkitError
from toolkit.evaluation.statistics.pass_rules import (
    JsonSchemaRule,
    PassRule,
    RegexRule,
    RuleSet,
    parse_pass_rules,
    rule_title,
)
from toolkit.system.paths import PROJECT_ROOT
from toolkit.system.private_files import restrict_new_files

RULE_SECONDS = 1.0
"""CPU time of one step: compiling a rule, or applying it to one answer."""
STALLED_RULE_SECONDS = 30.0
RULE_MEMORY_BYTES = 1 << 30
MAX_SLOW_ANSWERS = 3
"""After so many answers on which a rule took too long, the others are not tried."""
COMPILED = -1
UNDECIDED = "undecided: "
TOO_SLOW = f"{UNDECIDED}the rule took longer than {RULE_SECONDS:.0f} s"
TOO_LARGE = f"{UNDECIDED}the rule needs too much memory"
ENDED = f"{UNDECIDED}the rule took too long or too much memory, and was ended"

_Result = tuple[int, int, str | None]


def parse_checked_rules(value: Any) -> RuleSet:
    """Return the rules in plain data after compiling them. Raises ToolkitError, which names the first mistake."""
    rules = parse_pass_rules(value)
    foreign = [rule for rule in rules.rules if _is_foreign(rule)]
    for number, _, problem in _run_rules(foreign, []):
        if problem is not None:
            reason = problem.removeprefix(UNDECIDED)
            message = f"The rule “{rule_title(foreign[number])[:100]}” can't be used: {reason}."
            raise ToolkitError(message, "Correct or simplify it.")
    return rules


def find_rule_violations(rules: Sequence[PassRule], answers: Sequence[str]) -> list[list[str | None]]:
    """Return for each rule why each answer fails it, None where it passes."""
    from toolkit.evaluation.statistics.rule_matching import find_rule_violation  # not when the app starts

    found: list[list[str | None]] = [
        [ENDED if _is_foreign(rule) else find_rule_violation(rule, answer) for answer in answers] for rule in rules
    ]
    places = [place for place, rule in enumerate(rules) if _is_foreign(rule)]
    for number, answer, reason in _run_rules([rules[place] for place in places], answers):
        if answer != COMPILED:
            found[places[number]][answer] = reason
        elif reason is not None:
            found[places[number]] = [UNDECIDED + reason.removeprefix(UNDECIDED)] * len(answers)
    return found


def _is_foreign(rule: PassRule) -> bool:
    return isinstance(rule, RegexRule | JsonSchemaRule)


def _run_rules(rules: Sequence[PassRule], answers: Sequence[str]) -> Iterator[_Result]:
    """Yield the results of one process after the other: each goes on behind the rule at which the last one ended."""
    first = 0
    while first < len(rules):
        last = first
        compiled = False
        for number, answer, reason in _run_process(rules[first:], answers):
            last, compiled = first + number, True
            yield first + number, answer, reason
            if answer + 1 == len(answers) or (answer == COMPILED and reason is not None):
                last, compiled = first + number + 1, False
        if last < len(rules) and not compiled:
            yield last, COMPILED, ENDED
        first = last + 1


def _run_process(rules: Sequence[PassRule], answers: Sequence[str]) -> Iterator[_Result]:
    environment = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT") if name in os.environ}
    request = {"rules": [rule.model_dump() for rule in rules], "answers": list(answers)}
    with tempfile.TemporaryFile() as given:
        given.write(json.dumps(request).encode())
        given.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=PROJECT_ROOT,
            env={**environment, "PYTHONUTF8": "1"},
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    assert process.stdout is not None
    received = b""
    with process.stdout as output:
        while select.select([output], [], [], STALLED_RULE_SECONDS)[0] and (part := os.read(output.fileno(), 1 << 16)):
            *lines, received = (received + part).split(b"\n")
            yield from (tuple(json.loads(line)) for line in lines)
    process.kill()
    process.wait()


class RuleTimeout(BaseException):
    """A step took RULE_SECONDS of CPU time. No library catches it."""


def _apply_rules(rules: Sequence[PassRule], answers: Sequence[str]) -> Iterator[_Result]:
    from toolkit.evaluation.statistics.rule_matching import compile_rule, find_rule_violation

    for number, rule in enumerate(rules):
        problem = _bounded(lambda rule=rule: compile_rule(rule))  # type: ignore[misc]
        yield number, COMPILED, problem
        slow = 0
        for at, answer in enumerate(answers if problem is None else ()):
            reason = TOO_SLOW
            if slow < MAX_SLOW_ANSWERS:
                reason = _bounded(lambda rule=rule, answer=answer: find_rule_violation(rule, answer))  # type: ignore
                slow += reason == TOO_SLOW
            yield number, at, reason


def _bounded(step: Callable[[], str | None]) -> str | None:
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, RULE_SECONDS)
        return step()
    except RuleTimeout:
        return TOO_SLOW
    except MemoryError:
        return TOO_LARGE
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _end_step(*_: object) -> None:
    raise RuleTimeout


def main() -> int:
    """Read the request, and write the results as they come."""
    restrict_new_files()
    resource.setrlimit(resource.RLIMIT_AS, (RULE_MEMORY_BYTES, RULE_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGVTALRM, _end_step)
    request = json.load(sys.stdin)
    rules = parse_pass_rules({"rules": request["rules"]}).rules
    for result in _apply_rules(rules, request["answers"]):
        print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
