"""Evaluations with a real model: known flips, no effect, a continued one, and rows that can't be asked."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.engine_runs import make_config, write_adapter
from tests.fakes.training import make_table, own_signals
from toolkit.config import Config
from toolkit.evaluation import evaluation_dir, progress
from toolkit.evaluation.answers import read_recorded_answers
from toolkit.evaluation.evaluation_dir import Evaluation, EvaluationSpec
from toolkit.evaluation.row_table import read_row_table
from toolkit.evaluation.statistics.pass_rules import parse_pass_rules
from toolkit.evaluation.statistics.results import EvaluationResults, FlipCounts, read_evaluation_results
from toolkit.runs.events import read_events
from toolkit.runs.model_names import BASE
from toolkit.runs.run_dir import RunDir, create_run

pytestmark = pytest.mark.worker

PROMPTS = [f"{word} {i}" for i in range(5) for word in ("order", "please order a lamp and", "one two", "how many?")]


def make_run(save_dir: Path, model: Path, scale: float = 1.0) -> RunDir:
    """A run with a random adapter; with scale 0 one that changes nothing. It was trained on none of the prompts."""
    config = make_config(save_dir, model)
    data = {"prompt": "{q}", "prompt_stub": "{a}", "train_size": 4, "test_size": 4}
    config = Config.model_validate(
        {
            **config.model_dump(),
            "data": data,
        }
    )
    save_dir.mkdir(parents=True, exist_ok=True)
    run = create_run(config, make_table(save_dir / "t.parquet", [{"q": f"trained: {p}", "a": "x"} for p in PROMPTS]))
    write_adapter(run, config, seed=1, scale=scale)
    return run


def ask(run: RunDir, cells: list[dict[str, str | None]], **spec: Any) -> Evaluation:
    table = make_table(run.save_dir / "asked.parquet", cells)
    wanted = EvaluationSpec(**{"source": "file", "max_new_tokens": 2, "probe": False, **spec})
    return evaluation_dir.create_evaluation(run, wanted, table=table)


def carry_out(evaluation: Evaluation) -> int:
    from toolkit.worker.evaluate import main

    os.environ["FTK_SAVE_DIR"] = str(evaluation.run.save_dir)
    with own_signals():
        return main(evaluation.run.id, evaluation.id)


def results_of(evaluation: Evaluation) -> EvaluationResults:
    found = read_evaluation_results(evaluation.results_path)
    assert found is not None
    return found


def answers_of(evaluation: Evaluation, model: str) -> list[str]:
    found = read_recorded_answers(evaluation.answers_path).answers
    return [found[model, at].text for at in range(len(PROMPTS))]


def test_known_flips_of_a_real_adapter(save_dir: Path, tiny_model: Path) -> None:
    run = make_run(save_dir, tiny_model)
    first = ask(run, [{"q": prompt, "a": None} for prompt in PROMPTS])
    assert carry_out(first) == 0
    base, adapter = answers_of(first, BASE), answers_of(first, run.id)
    differing = [at for at in range(len(PROMPTS)) if base[at].strip() != adapter[at].strip()]
    assert len(differing) >= 12, "the random adapter changes most answers"
    # the data now says that the adapter is right in these rows, the base in those, and neither in the rest
    fixed, broke = set(differing[:9]), set(differing[9:11])
    cells: list[dict[str, str | None]] = [
        {"q": prompt, "a": adapter[at] if at in fixed else base[at] if at in broke else "none of these"}
        for at, prompt in enumerate(PROMPTS)
    ]
    planted = ask(run, cells)
    assert carry_out(planted) == 0
    results = results_of(planted)
    assert results.flips[run.id] == FlipCounts(fixed=9, broke=2, same=0, both_wrong=len(PROMPTS) - 11)
    assert answers_of(planted, BASE) == base
    loss = results.figure("loss")
    assert loss is not None
    assert loss.rows == len(PROMPTS)


def test_an_adapter_without_effect_is_within_noise(save_dir: Path, tiny_model: Path) -> None:
    run = make_run(save_dir, tiny_model, scale=0)
    evaluation = ask(run, [{"q": prompt, "a": "x"} for prompt in PROMPTS], probe=True)
    assert carry_out(evaluation) == 0
    results = results_of(evaluation)
    assert answers_of(evaluation, BASE) == answers_of(evaluation, run.id)
    assert {figure.differences[run.id].verdict for figure in results.figures} == {"noise"}
    assert results.probe is not None
    assert results.probe.differences[run.id].verdict == "noise"
    assert results.sentences[run.id][0].startswith("These rows show no significant difference")


def test_a_killed_evaluation_continues_and_ends_with_the_same_results(
    save_dir: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.worker.answering import evaluation_asker

    monkeypatch.setattr(evaluation_asker, "MAX_BATCH_ROWS", 4)
    run = make_run(save_dir, tiny_model)
    cells: list[dict[str, str | None]] = [{"q": prompt, "a": "please"} for prompt in PROMPTS]
    whole, killed = ask(run, cells), ask(run, cells)
    assert carry_out(whole) == 0

    class Killed(BaseException):
        """Nothing catches it, as nothing catches SIGKILL."""

    answered = evaluation_asker._answer_batch
    asked: list[int] = []

    def dies(engine: Any, model: str, batch: Any, stop: Any) -> Any:
        asked.append(len(batch))
        if len(asked) == 4:
            raise Killed
        return answered(engine, model, batch, stop)

    monkeypatch.setattr(evaluation_asker, "_answer_batch", dies)
    with pytest.raises(Killed):
        carry_out(killed)
    with killed.answers_path.open("ab") as log:
        log.write(b'{"kind":"answer","model":"base","posi')  # torn by the death
    assert progress.read_evaluation_progress(killed).state == "interrupted"
    before = len(read_recorded_answers(killed.answers_path).answers)
    assert 0 < before < 2 * len(PROMPTS)
    asked.append(0)
    assert carry_out(killed) == 0
    assert progress.read_evaluation_progress(killed).state == "finished"
    assert sum(asked[5:]) == 2 * len(PROMPTS) - before, "what was answered is not asked again"
    assert read_row_table(killed.rows_path).equals(read_row_table(whole.rows_path))


def test_a_stopped_evaluation_scores_the_answers_so_far(save_dir: Path, tiny_model: Path) -> None:
    run = make_run(save_dir, tiny_model)
    evaluation = ask(run, [{"q": prompt, "a": "x"} for prompt in PROMPTS])
    evaluation_dir.request_evaluation_stop(evaluation)
    assert carry_out(evaluation) == 0
    assert progress.read_evaluation_progress(evaluation).state == "stopped"
    results = results_of(evaluation)
    assert (results.answered, results.complete) == (0, False)
    evaluation.stop_path.unlink()
    assert carry_out(evaluation) == 0
    assert results_of(evaluation).complete


def test_a_row_that_can_not_be_asked_stays_with_its_reason(save_dir: Path, tiny_model: Path) -> None:
    run = make_run(save_dir, tiny_model)
    cells: list[dict[str, str | None]] = [
        {"q": "order", "a": "x"},
        {"q": "far too long " * 200, "a": "x"},
        {"q": None, "a": "y"},
    ]
    evaluation = ask(run, cells)
    assert carry_out(evaluation) == 0
    results, rows = results_of(evaluation), read_row_table(evaluation.rows_path)
    assert (results.asked, results.answered) == (3, 3)
    assert "context length is 256 tokens" in rows["error_1"].to_pylist()[1]
    assert "no value for column 'q'" in rows["error_0"].to_pylist()[2]
    exact = results.figure("exact_match")
    assert exact is not None
    assert exact.rows == 3


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError(), "memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 9 GiB"), "GPU memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: "), "memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:80] DefaultCPUAllocator: not enough memory: you"), "memory"),
    ],
)
def test_a_row_without_enough_memory_is_explained(error: Exception, memory: str) -> None:
    from toolkit.worker.answering.evaluation_asker import _describe_failure

    assert _describe_failure(error) == f"There is not enough {memory} for this row."


def test_another_error_of_a_row_is_named() -> None:
    from toolkit.worker.answering.evaluation_asker import _describe_failure

    assert _describe_failure(ValueError("no such token\nand more")) == "ValueError: no such token"


def test_a_batch_that_fails_is_halved_until_the_row_is_alone(
    save_dir: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.worker.answering import evaluation_asker, greedy

    run = make_run(save_dir, tiny_model)
    say = greedy.generate_greedy_answers

    def fails(model: Any, tokenizer: Any, prompts: Any, limit: int, stop: Any) -> Any:
        if any(len(tokenizer.decode(list(ids))) > 70 for ids in prompts):
            raise RuntimeError("CUDA out of memory. Tried to allocate 9 GiB")
        return say(model, tokenizer, prompts, limit, stop)

    monkeypatch.setattr(evaluation_asker.greedy, "generate_greedy_answers", fails)
    cells: list[dict[str, str | None]] = [{"q": "order", "a": "x"} for _ in range(5)]
    evaluation = ask(run, [*cells, {"q": "long " * 30, "a": "x"}])
    assert carry_out(evaluation) == 0
    errors = read_row_table(evaluation.rows_path)["error_1"].to_pylist()
    assert errors == [""] * 5 + ["There is not enough GPU memory for this row."]


def test_a_change_of_rules_needs_no_model(save_dir: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.worker.answering import evaluation_asker

    run = make_run(save_dir, tiny_model)
    evaluation = ask(run, [{"q": prompt, "a": "x"} for prompt in PROMPTS])
    assert carry_out(evaluation) == 0

    def never(*_: Any) -> None:
        raise AssertionError("it loaded a model")

    monkeypatch.setattr(evaluation_asker, "load_evaluation_engine", never)
    evaluation_dir.replace_evaluation_rules(
        evaluation, parse_pass_rules({"rules": [{"kind": "length", "most": 1_000}], "gate": {"improves": None}})
    )
    assert carry_out(evaluation) == 0
    assert results_of(evaluation).gate[run.id].passed


def test_an_adapter_that_changed_since_the_start_is_refused(save_dir: Path, tiny_model: Path) -> None:
    run = make_run(save_dir, tiny_model)
    evaluation = ask(run, [{"q": prompt, "a": "x"} for prompt in PROMPTS[:4]])
    assert carry_out(evaluation) == 0
    lines = evaluation.answers_path.read_bytes().splitlines(keepends=True)
    evaluation.answers_path.write_bytes(b"".join(lines[:-1]))
    write_adapter(run, make_config(save_dir, tiny_model), seed=2)
    assert carry_out(evaluation) == 1
    assert "has changed" in read_events(evaluation.events_path)[0][-1]["message"]


def test_two_runs_are_compared_on_one_base(save_dir: Path, tiny_model: Path) -> None:
    first, second = make_run(save_dir, tiny_model), make_run(save_dir, tiny_model, scale=0)
    evaluation = ask(first, [{"q": prompt, "a": "x"} for prompt in PROMPTS], compared=(second.id,))
    assert carry_out(evaluation) == 0
    results = results_of(evaluation)
    assert results.models == (BASE, first.id, second.id)
    assert answers_of(evaluation, second.id) == answers_of(evaluation, BASE)


def test_a_checkpoint_is_evaluated_next_to_the_adapter(save_dir: Path, tiny_model: Path) -> None:
    from tests.scenarios.worker.test_checkpoint_answers import trained

    run = trained(save_dir, tiny_model)
    names = (f"{run.id}@4", f"{run.id}@3")
    evaluation = evaluation_dir.create_evaluation(run, EvaluationSpec(compared=names, probe=False))
    assert carry_out(evaluation) == 0
    results = results_of(evaluation)
    assert results.models == (BASE, run.id, *names)
    loss = results.figure("loss")
    assert loss is not None
    last, before = (loss.difference_from(run.id, name) for name in names)
    assert last.value == 0, "the last checkpoint is the adapter"
    assert before.value != 0
    assert results.flips_of(run.id, names[0]).broke == 0


def test_the_process_is_detached_and_is_started_once(save_dir: Path, tiny_model: Path) -> None:
    run = make_run(save_dir, tiny_model)
    evaluation = ask(run, [{"q": prompt, "a": "x"} for prompt in PROMPTS])
    progress.start_evaluation(evaluation)
    progress.start_evaluation(evaluation)  # a second press does nothing
    deadline = time.monotonic() + 120
    while progress.read_evaluation_progress(evaluation).is_running:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert progress.read_evaluation_progress(evaluation).state == "finished", evaluation.log_path.read_text()
    assert [event["kind"] for event in read_events(evaluation.events_path)[0]].count("started") == 1
