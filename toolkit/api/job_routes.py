"""The routes of the fine-tuning API below /v1/fine_tuning/jobs."""

from __future__ import annotations

import time
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from toolkit.api.api_desk import ApiDesk
from toolkit.api.files.file_store import FileStore
from toolkit.api.jobs.job_events import list_job_events
from toolkit.api.jobs.job_requests import JobRequest, build_job_config, resolve_base_model
from toolkit.api.jobs.job_store import JobRecord
from toolkit.api.jobs.job_view import JobView, view_job
from toolkit.api.paging import cut_page, list_body
from toolkit.lifecycle.resume_policy import can_resume, request_resume
from toolkit.runs.preflight import preflight_problems
from toolkit.runs.run_dir import open_run, request_run_stop
from toolkit.worker.serving.guard import read_request_body
from toolkit.worker.serving.request_models import RequestError, parse_request


class JobRoutes:
    """The routes below /v1/fine_tuning/jobs."""

    def __init__(self, desk: ApiDesk) -> None:
        self._desk = desk

    async def create(self, request: Request) -> Response:
        asked = parse_request(JobRequest, await read_request_body(request))
        record = await run_in_threadpool(self._create, asked)
        return JSONResponse(JobView(record).describe())

    def _create(self, asked: JobRequest) -> JobRecord:
        """Store a job and have it taken in. Raises RequestError for what can be judged without reading the file."""
        asked.check_offered()
        desk = self._desk
        for param in ("training_file", "validation_file"):
            file_id = getattr(asked, param)
            if file_id is not None:
                _find_given_file(desk.files, file_id, param)
        path = desk.files.content_path(desk.files.find_file(asked.training_file))
        model = resolve_base_model(asked.model, desk.stand_in)
        config = build_job_config(asked, model, {"path": str(path)}, str(desk.save_dir))
        for problem in preflight_problems(config, None, None):
            if problem.severity == "error" and problem.path.startswith("model."):
                raise RequestError(problem.message, problem.hint, code="model_not_available", param="model")
        record = desk.jobs.create_job(asked, model)
        desk.intake.submit(record.id)
        return record

    def list_page(self, request: Request) -> Response:
        records = [record for record in self._desk.jobs.list_jobs() if _matches(record, request.query_params)]
        page, more = cut_page(records, lambda record: record.id, request.query_params)
        views = [view_job(record, self._desk.save_dir) for record in page]
        return JSONResponse(list_body([view.describe() for view in views], has_more=more))

    def retrieve(self, request: Request) -> Response:
        return JSONResponse(self._view(request).describe())

    def cancel(self, request: Request) -> Response:
        view = self._view(request)
        if view.state not in ("validating_files", "queued", "running", "paused"):
            raise _wrong_state(view, "cancelled")
        record = self._desk.jobs.note_cancel(view.record.id, time.time())
        if record.run:  # the checks may have ended a moment ago
            request_run_stop(open_run(self._desk.save_dir, record.run))
            self._desk.wake()
        return self.retrieve(request)

    def pause(self, request: Request) -> Response:
        view = self._view(request)
        if view.run is None or view.status is None or not view.status.is_active or view.state != "running":
            raise _wrong_state(view, "paused")
        request_run_stop(view.run, pause=True)
        return self.retrieve(request)

    def resume(self, request: Request) -> Response:
        view = self._view(request)
        if view.run is None or view.status is None or not can_resume(view.status):
            raise _wrong_state(view, "resumed")
        self._desk.jobs.note_cancel(view.record.id, None)
        request_resume(view.run)
        self._desk.wake()
        return self.retrieve(request)

    def events(self, request: Request) -> Response:
        page, more = cut_page(
            list_job_events(self._view(request)), lambda event: str(event["id"]), request.query_params
        )
        return JSONResponse(list_body(page, has_more=more))

    def checkpoints(self, request: Request) -> Response:
        found = self._view(request).describe_checkpoints()
        page, more = cut_page(found, lambda one: str(one["id"]), request.query_params, 10)
        return JSONResponse(list_body(page, has_more=more))

    def _view(self, request: Request) -> JobView:
        return view_job(self._desk.jobs.find_job(request.path_params["job"]), self._desk.save_dir)


def _find_given_file(files: FileStore, file_id: str, param: str) -> None:
    try:
        files.find_file(file_id)
    except RequestError as error:
        raise RequestError(error.message, error.hint, code="file_not_found", param=param) from error


def _wrong_state(view: JobView, wanted: str) -> RequestError:
    message = f"The job is {view.state} and can't be {wanted}."
    return RequestError(message, "", code="invalid_state", param="fine_tuning_job_id")


def _matches(record: JobRecord, query: QueryParams) -> bool:
    """Return whether a job has the metadata that a query names (`metadata[key]=value`, or `metadata=null`)."""
    own: dict[str, Any] = record.asked.metadata or {}
    if query.get("metadata") == "null" and own:
        return False
    wanted = {key[9:-1]: value for key, value in query.items() if key.startswith("metadata[") and key.endswith("]")}
    return all(own.get(key) == value for key, value in wanted.items())
