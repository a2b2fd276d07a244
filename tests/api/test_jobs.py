"""Fine-tuning jobs: what is asked, the checks before the run, and the fold over the run's directory."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from openai.pagination import SyncCursorPage
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint

from tests.fakes.fine_tuning_api import GOOD_LINES, STAND_IN, ApiWithoutProcesses, chat_line, write_attempt
from toolkit.config import Config
from toolkit.runs.events import EventWriter
from toolkit.runs.run_dir import PAUSE_REQUEST, delete_run, list_runs, read_run_config, read_run_meta


def refused(api: ApiWithoutProcesses, **asked: Any) -> dict[str, Any]:
    """Return the error of a job that is not even created."""
    before = len(api.jobs.list_jobs())
    reply = api.http.post("/v1/fine_tuning/jobs", json={"model": STAND_IN, **asked})
    assert reply.status_code in (400, 404) and len(api.jobs.list_jobs()) == before, reply.text
    error: dict[str, Any] = reply.json()["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    return error


def failed(api: ApiWithoutProcesses, lines: list[str], **asked: Any) -> dict[str, Any]:
    """Return the error of a job whose file does not pass the checks."""
    job = api.create(training_file=api.upload(lines), **asked)
    assert job["status"] == "failed" and job["finished_at"], job
    assert not list_runs(api.save_dir)
    error: dict[str, Any] = job["error"]
    newest = api.read(job["id"], "/events")["data"][0]
    assert (newest["level"], newest["message"]) == ("error", error["message"])
    return error


def test_hyperparameters_become_settings_and_auto_our_defaults(api: ApiWithoutProcesses) -> None:
    usual = Config().training.training_args
    assert usual.learning_rate is not None
    training = api.upload(GOOD_LINES)
    plain = api.create(training_file=training, hyperparameters={"n_epochs": "auto", "batch_size": 2}, seed=None)
    newer = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 5, "learning_rate_multiplier": 0.5}}}
    asked = {"hyperparameters": {"n_epochs": 3, "batch_size": 4}, "method": newer, "seed": 7, "suffix": "My Bot 2!"}
    other = api.create(training_file=training, metadata={"team": "a"}, **asked)
    first, second = (read_run_config(api.run_of(job["id"])).training.training_args for job in (plain, other))
    assert (first.num_train_epochs, first.per_device_train_batch_size) == (usual.num_train_epochs, 2)
    assert (first.learning_rate, first.seed) == (usual.learning_rate, usual.seed)
    assert (second.num_train_epochs, second.per_device_train_batch_size, second.seed) == (5, 4, 7)
    assert second.learning_rate == pytest.approx(usual.learning_rate / 2)
    assert read_run_meta(api.run_of(other["id"]))["name"] == "My Bot 2!" and other["metadata"] == {"team": "a"}
    assert other["hyperparameters"] == {"n_epochs": 5, "batch_size": 4, "learning_rate_multiplier": 0.5}
    assert other["method"]["supervised"]["hyperparameters"] == other["hyperparameters"]
    assert other["seed"] == 7 and other["status"] == "queued" and api.woken == 2


def test_openais_own_models_are_replaced_and_said_so(api: ApiWithoutProcesses) -> None:
    job = api.create(training_file=api.upload(GOOD_LINES), model="gpt-4.1-nano-2025-04-14")
    assert job["model"] == STAND_IN == read_run_config(api.run_of(job["id"])).model.hf_model_ckpt


def test_validation_rows_become_the_test_set(api: ApiWithoutProcesses) -> None:
    job = api.create(training_file=api.upload(GOOD_LINES), validation_file=api.upload(GOOD_LINES[:3], "test.jsonl"))
    run = api.run_of(job["id"])
    assert read_run_config(run).data.test_path and read_run_meta(run)["dataset"]["rows"] == 13
    notes = [event["message"] for event in api.read(job["id"], "/events")["data"]]
    assert not any("held out" in note for note in notes)
    alone = api.create(training_file=job["training_file"])
    notes = [event["message"] for event in api.read(alone["id"], "/events")["data"]]
    assert any(note.startswith("8 rows are trained on, 2 are held out") for note in notes)


def test_long_examples_raise_the_length_and_older_formats_are_read(api: ApiWithoutProcesses) -> None:
    api.longest = 700
    lines = [json.dumps({"prompt": f"q{number}", "completion": f"a{number}"}) for number in range(8)]
    job = api.create(training_file=api.upload(lines))
    config = read_run_config(api.run_of(job["id"]))
    assert (config.data.prompt, config.data.prompt_stub, config.data.messages) == ("{prompt}", "{completion}", None)
    assert config.training.sft_args.max_seq_length == 704
    answers = [{"role": "assistant", "content": "b", "weight": weight} for weight in (0, 1)]
    question = {"role": "user", "content": "a"}
    weighted = {"messages": [question, answers[0], question, answers[1]]}
    tool = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}
    calls = [{"id": "1", "type": "function", "function": {"name": "find", "arguments": "{}"}}]
    called = {"messages": [question, {"role": "assistant", "tool_calls": calls}], "tools": [tool]}
    lines = [json.dumps(line) for line in (weighted, {**called, "parallel_tool_calls": False})] * 3
    assert api.create(training_file=api.upload(lines))["status"] == "queued"


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ('{"messages": [}', "not valid JSON"),
        ("[1, 2]", "is a list"),
        (json.dumps({"messages": [{"role": "user", "content": "hi"}]}), "no assistant message"),
        (json.dumps({"messages": [{"role": "robot", "content": "hi"}]}), "unknown role 'robot'"),
        (chat_line("a", "b").replace('"b"}', '"b", "weight": 2}'), "weight 2"),
        (json.dumps({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}), "image_url"),
    ],
)
def test_the_error_names_the_line(api: ApiWithoutProcesses, bad: str, words: str) -> None:
    error = failed(api, [*GOOD_LINES[:3], "", bad, *GOOD_LINES[3:]])
    assert error["param"] == "training_file" and words in error["message"], error
    assert "line 5" in error["message"].casefold(), error


def test_a_bad_validation_file_is_named(api: ApiWithoutProcesses) -> None:
    bad = [*GOOD_LINES[:2], json.dumps({"messages": [{"role": "user", "content": "hi"}]})]
    error = failed(api, GOOD_LINES, validation_file=api.upload(bad))
    assert error["param"] == "validation_file" and error["message"].startswith("Line 3")
    other = [json.dumps({"prompt": "a", "completion": "b"})] * 3
    assert "another format" in failed(api, GOOD_LINES, validation_file=api.upload(other))["message"]


def test_blocking_problems_of_tokens_fail_the_job_with_their_lines(api: ApiWithoutProcesses) -> None:
    fault = {"kind": "nothing_trained", "message": "In 2 rows nothing is trained.", "hint": "Shorten them.", "count": 2}
    api.faults = [{**fault, "rows": [1, 4], "repairs": []}]
    error = failed(api, ["", *GOOD_LINES])
    assert error["code"] == "blocking_nothing_trained"
    assert error["message"] == "In 2 rows nothing is trained. It concerns lines 3, 6. Shorten them."
    api.faults = [{**fault, "rows": [11], "repairs": []}]
    error = failed(api, GOOD_LINES, validation_file=api.upload(GOOD_LINES[:3]))
    assert error["param"] == "validation_file" and "line 2" in error["message"]


def test_files_of_another_kind_and_too_few_rows_are_refused_in_words(api: ApiWithoutProcesses) -> None:
    assert "no 'messages'" in failed(api, ['{"text": "a"}', '{"text": "b"}'])["message"]
    assert "at least 2" in failed(api, GOOD_LINES[:1])["message"]
    assert failed(api, ["\x00\x01"])["param"] == "training_file"


def test_skipped_lines_and_findings_are_events(api: ApiWithoutProcesses) -> None:
    job = api.create(training_file=api.upload([*GOOD_LINES, '{"note": "x"}', GOOD_LINES[0]]))
    assert job["status"] == "queued"
    notes = {event["message"] for event in api.read(job["id"], "/events")["data"] if event["level"] == "warn"}
    assert "1 row without a value in 'messages' or its templates will be skipped (line 11)." in notes
    assert any("repeat" in note and "12" in note for note in notes), notes


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"method": {"type": "dpo", "dpo": {}}}, "method.type"),
        ({"method": {"type": "reinforcement", "reinforcement": {"grader": {}}}}, "method.type"),
        ({"method": {"type": "magic"}}, "method.type"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "integrations"),
        ({"model": "no such folder/at/all"}, "model"),
        ({"model": "bundled:nothing"}, "model"),
        ({"model": "ft:demo-model:local::20261130-104227-eq01"}, "model"),
        ({"training_file": "file-missing"}, "training_file"),
        ({"training_file": "../../runs"}, "training_file"),
        ({"validation_file": "file-missing"}, "validation_file"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": "many"}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"learning_rate_multiplier": 1e9}}, "learning_rate_multiplier"),
        ({"hyperparameters": {"beta": 1}}, "hyperparameters.beta"),
        ({"suffix": "x" * 65}, "suffix"),
        ({"seed": -1}, "seed"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"n_epochs": 3}, "n_epochs"),
    ],
)
def test_what_is_not_offered_is_refused_by_its_parameter(
    api: ApiWithoutProcesses, asked: dict[str, Any], param: str
) -> None:
    error = refused(api, **{"training_file": api.upload(GOOD_LINES), **asked})
    assert error["param"].startswith(param), error
    assert (error["message"] and error["type"] == "invalid_request_error") or error["code"] == "file_not_found"


def test_a_job_is_a_fold_over_its_run(api: ApiWithoutProcesses) -> None:
    job = api.create(training_file=api.upload(GOOD_LINES), suffix="Bot")
    run = api.run_of(job["id"])
    run.claim_path.touch()
    write_attempt(run, 1, range(1, 3), None)
    assert api.read(job["id"])["status"] == "running"  # its worker is dead, and nobody has said so yet
    with EventWriter(run.events_path, 1) as events:
        events.append("interrupted", reason="killed", message="The worker was killed.")
    assert api.read(job["id"])["status"] == "queued"
    before = [event["id"] for event in api.read(job["id"], "/events")["data"]]
    write_attempt(run, 2, range(2, 4), "finished", step=3)
    done = api.read(job["id"])
    assert done["status"] == "succeeded" and done["error"] is None and done["trained_tokens"] == 300
    assert done["fine_tuned_model"] == f"ft:demo-model:local:bot:{run.id}"
    assert done["finished_at"] >= done["created_at"]
    FineTuningJob.model_validate(done, strict=True)
    events = api.read(job["id"], "/events")["data"]
    assert [event["id"] for event in events][-len(before) :] == before  # nothing changes or goes
    messages = [FineTuningJobEvent.model_validate(event, strict=True).message for event in events]
    steps = [event["data"]["step"] for event in events if "train_loss" in event["data"]]
    assert steps == [3, 2, 1]  # each once, the replayed one too
    assert messages[0] == "The job has successfully completed" and "Fine-tuning job resumed (attempt 2)" in messages
    # another server on the same folder says the same
    again = ApiWithoutProcesses(api.save_dir)
    assert again.read(job["id"]) == done and again.read(job["id"], "/events")["data"] == events
    assert len(list_runs(api.save_dir)) == 1


def test_checkpoints_results_and_pages(api: ApiWithoutProcesses) -> None:
    job = api.create(training_file=api.upload(GOOD_LINES))
    run = api.run_of(job["id"])
    assert api.read(job["id"], "/checkpoints")["data"] == [] and job["result_files"] == []
    write_attempt(run, 1, range(1, 4), "finished", step=3)
    page = api.http.get(f"/v1/fine_tuning/jobs/{job['id']}/checkpoints", params={"limit": 2}).json()
    newest, older = (FineTuningJobCheckpoint.model_validate(one, strict=True) for one in page["data"])
    assert (newest.step_number, newest.metrics.train_loss, newest.metrics.valid_loss) == (3, 1.25, 1.5)
    assert newest.fine_tuned_model_checkpoint == f"ft:demo-model:local::{run.id}:ckpt-step-3"
    assert older.metrics.valid_loss is None and page["has_more"]
    (result,) = api.read(job["id"])["result_files"]
    content = base64.b64decode(api.http.get(f"/v1/files/{result}/content").content).decode()
    assert content.splitlines() == ["step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy",
                                    "1,3,,,", "2,2.5,,,", "3,1.25,,1.5,"]  # fmt: skip
    listed = api.http.get("/v1/files", params={"purpose": "fine-tune-results"}).json()["data"]
    assert [file["id"] for file in listed] == [result] and listed[0]["filename"] == "step_metrics.csv"
    assert api.http.get(f"/v1/files/{result}").json() == listed[0]
    assert api.http.delete(f"/v1/files/{result}").status_code == 409
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 3}
    while True:
        events = api.http.get(f"/v1/fine_tuning/jobs/{job['id']}/events", params=query).json()
        SyncCursorPage[FineTuningJobEvent].model_validate(events)
        seen += [event["id"] for event in events["data"]]
        if not events["has_more"]:
            break
        query["after"] = seen[-1]
    assert len(seen) == len(set(seen)) > 8


def test_jobs_are_listed_newest_first_and_by_metadata(api: ApiWithoutProcesses) -> None:
    training = api.upload(GOOD_LINES)
    made = [api.create(training_file=training, metadata={"n": str(number)})["id"] for number in range(3)]
    first = api.http.get("/v1/fine_tuning/jobs", params={"limit": 2}).json()
    assert [job["id"] for job in first["data"]] == made[:0:-1] and first["has_more"]
    rest = api.http.get("/v1/fine_tuning/jobs", params={"after": first["last_id"]}).json()
    assert [job["id"] for job in rest["data"]] == made[:1] and not rest["has_more"]
    chosen = api.http.get("/v1/fine_tuning/jobs", params={"metadata[n]": "1"}).json()["data"]
    assert [job["id"] for job in chosen] == [made[1]]
    assert api.http.get("/v1/fine_tuning/jobs", params={"metadata": "null"}).json()["data"] == []
    for job_id in ("ftjob-none", "..", "ftjob-..%2F..%2Fkey"):
        assert api.http.get(f"/v1/fine_tuning/jobs/{job_id}").status_code == 404


def test_cancel_pause_and_resume(api: ApiWithoutProcesses) -> None:
    training = api.upload(GOOD_LINES)
    job = api.create(training_file=training)
    run = api.run_of(job["id"])
    assert api.post(job["id"], "pause").status_code == 400  # it waits
    assert api.post(job["id"], "cancel").json()["status"] == "cancelled"
    assert api.post(job["id"], "cancel").json()["error"]["code"] == "invalid_state"
    assert api.post(job["id"], "resume").json()["status"] == "queued" and not run.stop_path.exists()
    run.claim_path.touch()
    write_attempt(run, 1, range(1, 2), "stopped", step=1, paused=True)
    run.stop_path.write_text(PAUSE_REQUEST)
    paused = api.read(job["id"])
    assert paused["status"] == "paused" and paused["finished_at"] is None
    assert api.post(job["id"], "cancel").json()["status"] == "cancelled"
    assert api.post(job["id"], "resume").json()["status"] == "queued"
    write_attempt(run, 2, range(2, 4), "failed", reason="out_of_memory", message="Too large.", hint="Shrink it.")
    lost = api.read(job["id"])
    assert (lost["status"], lost["error"]) == (
        "failed", {"code": "out_of_memory", "message": "Too large. Shrink it.", "param": None})  # fmt: skip
    run.config_path.write_text("[" * 5_000)
    listed = api.http.get("/v1/fine_tuning/jobs").json()["data"]
    assert [one["error"]["code"] for one in listed] == ["run_unreadable"]
    delete_run(run)
    assert api.read(job["id"])["error"]["code"] == "run_unreadable"


def test_a_cancel_during_the_checks_leaves_no_run(api: ApiWithoutProcesses) -> None:
    body = {"model": STAND_IN, "training_file": api.upload(GOOD_LINES)}
    job_id = api.http.post("/v1/fine_tuning/jobs", json=body).json()["id"]
    assert api.post(job_id, "cancel").json()["status"] == "cancelled"
    api.intake.take_in(job_id)
    assert not list_runs(api.save_dir) and api.read(job_id)["status"] == "cancelled" and api.woken == 0


def test_a_server_that_died_while_taking_a_job_in_makes_no_second_run(
    api: ApiWithoutProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = api.upload(GOOD_LINES)
    body = {"model": STAND_IN, "training_file": training}
    waiting = api.http.post("/v1/fine_tuning/jobs", json=body).json()["id"]
    made = api.create(training_file=training)["id"]
    path = api.save_dir / "api" / "jobs" / f"{made}.json"
    run = json.loads(path.read_text())["run"]
    path.write_text(path.read_text().replace(run, ""))  # killed between creating the run and noting it
    again = ApiWithoutProcesses(api.save_dir)
    assert [record.id for record in again.jobs.recover_open_jobs()] == [waiting]
    assert again.jobs.find_job(made).run == run and again.read(made)["status"] == "queued"
    assert len(list_runs(api.save_dir)) == 1


def test_models_are_the_runs_with_an_adapter(api: ApiWithoutProcesses) -> None:
    job = api.create(training_file=api.upload(GOOD_LINES), suffix="Bot")
    run = api.run_of(job["id"])
    assert [model["id"] for model in api.http.get("/v1/models").json()["data"]] == [STAND_IN]
    assert api.http.get("/v1/models/gpt-4o-mini").json()["object"] == "model"
    reply = api.http.post("/v1/chat/completions", json={"model": "gpt-4o-mini", "messages": []})
    assert reply.status_code == 404 and "once a run was trained on it" in reply.json()["error"]["message"]
    name = f"ft:demo-model:local:bot:{run.id}"
    assert api.http.get(f"/v1/models/{name}").json()["error"]["code"] == "model_not_found"
    write_attempt(run, 1, range(1, 4), "finished", step=3)
    assert [model["id"] for model in api.http.get("/v1/models").json()["data"]] == [STAND_IN, name]
    assert api.http.get(f"/v1/models/{name}").json()["object"] == "model"
    assert api.http.get(f"/v1/models/{name}:ckpt-step-2").status_code == 200
    for wrong in (f"{name}:ckpt-step-9", "ft:a:b:c:..", "ft:a:b:c:20990101-000000-aaaa", "gemma", "..%2F..%2Fkey"):
        assert api.http.get(f"/v1/models/{wrong}").status_code == 404, wrong
        reply = api.http.post("/v1/chat/completions", json={"model": wrong, "messages": []})
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
    for body in (b"{", b"[]", b'{"messages": []}'):
        assert api.http.post("/v1/chat/completions", content=body).status_code == 400


def test_the_key_is_made_once_and_kept_private(tmp_path: Path) -> None:
    from toolkit.api.api_process import load_api_key
    from toolkit.errors import RunError

    key = load_api_key(tmp_path)
    path = tmp_path / "api" / "key"
    assert load_api_key(tmp_path) == key and path.stat().st_mode & 0o077 == 0
    path.chmod(0o644)
    with pytest.raises(RunError, match="accessible to other users"):
        load_api_key(tmp_path)
    path.unlink()
    path.symlink_to("/etc/hostname")
    with pytest.raises(RunError, match="not a regular file"):
        load_api_key(tmp_path)
