"""The routes of the fine-tuning API below /v1/files."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from toolkit.api.api_desk import ApiDesk
from toolkit.api.files.file_store import TRAINING_PURPOSE
from toolkit.api.files.file_upload import receive_file
from toolkit.api.jobs.job_view import (
    RESULT_PURPOSE,
    describe_result_file,
    encode_result_file,
    find_result_run,
    view_job,
)
from toolkit.api.paging import cut_page, list_body
from toolkit.worker.serving.request_models import RequestError


class FileRoutes:
    """The routes below /v1/files."""

    def __init__(self, desk: ApiDesk) -> None:
        self._desk = desk

    async def create(self, request: Request) -> Response:
        record = await receive_file(request, self._desk.files)
        return JSONResponse(record.describe())

    def list_page(self, request: Request) -> Response:
        query = request.query_params
        purpose, order = query.get("purpose"), query.get("order", "desc")
        if order not in ("asc", "desc"):
            raise RequestError(f"'order' is '{order[:40]}'.", "Use asc or desc.", param="order")
        found = []
        if purpose in (None, TRAINING_PURPOSE):
            found += [record.describe() for record in self._desk.files.list_files()]
        if purpose in (None, RESULT_PURPOSE):
            views = [view_job(record, self._desk.save_dir) for record in self._desk.jobs.list_jobs()]
            found += [describe_result_file(view.run) for view in views if view.run and view.state == "succeeded"]
        found.sort(key=lambda file: (file["created_at"], file["id"]), reverse=order == "desc")
        page, more = cut_page(found, lambda file: str(file["id"]), query, 10_000, 10_000)
        return JSONResponse(list_body(page, has_more=more))

    def retrieve(self, request: Request) -> Response:
        file_id = request.path_params["file"]
        run = find_result_run(self._desk.save_dir, file_id)
        body = describe_result_file(run) if run else self._desk.files.find_file(file_id).describe()
        return JSONResponse(body)

    def content(self, request: Request) -> Response:
        file_id = request.path_params["file"]
        run = find_result_run(self._desk.save_dir, file_id)
        if run is not None:
            return Response(encode_result_file(run), media_type="application/octet-stream")
        path = self._desk.files.content_path(self._desk.files.find_file(file_id))
        return FileResponse(path, media_type="application/octet-stream")

    def delete(self, request: Request) -> Response:
        file_id = request.path_params["file"]
        if find_result_run(self._desk.save_dir, file_id) is not None:
            message = f"A file with the purpose '{RESULT_PURPOSE}' is made from its run and can't be deleted."
            raise RequestError(message, "Delete the run in the app.", status=409, code="derived_file", param="id")
        self._desk.files.delete_file(file_id)
        return JSONResponse({"id": file_id, "object": "file", "deleted": True})
