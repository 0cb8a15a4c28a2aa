"""The routes of the job API: submit, watch, cancel, fetch, delete. None of them computes, none blocks another."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request, Response
from fastapi import Path as InPath
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from monailabel.config import settings
from starlette.datastructures import FormData, UploadFile

from lib import tasks
from lib.api import answers, files, requests, sources, studies
from lib.api.answers import PREFIX, REFUSALS
from lib.api.requests import Cancel, Submission
from lib.api.schema import API, HEADER, Offer, check_handshake
from lib.guard import errors
from perturbox.jobs import Problem, Queue, Refused
from perturbox.report.comparison import compare_folders
from perturbox.types import InputError

JSON_LIMIT = 2**20
UNPACKED = 4  # times the upload limit: what a zip may grow to
PAGE = 100  # jobs in one answer
AT_ONCE = 4  # uploads, conversions and hashes at work together; what is quick never waits for them
Id = Annotated[str, InPath(description="Id of a job.", max_length=64, examples=["3f0c…"])]
UPLOADS = ("image", "label", "roi")
MOST_CHANNELS = 16
SCAN_FILE = "The scan; DICOM as one .zip. Of several channels one part for each, in the model's order."
BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": Submission.model_json_schema()},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["request"],
                "properties": {
                    "request": {"type": "string", "description": "The JSON object, as text."},
                    "image": {"type": "string", "format": "binary", "description": SCAN_FILE},
                    "label": {"type": "string", "format": "binary", "description": "Reference label map."},
                    "roi": {
                        "type": "string",
                        "format": "binary",
                        "description": "Mask of what may change, or is certified.",
                    },
                },
                "additionalProperties": False,
            }
        },
    },
}


class Route(APIRoute):
    """A route that says which API it speaks and whose refusals are all JSON with a sentence."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                response = await handle(request)
            except Exception as error:
                response = errors.response(error)
            response.headers[HEADER] = API
            return response

        return answer


def handshake(
    version: Annotated[
        str | None, Header(alias=HEADER, description="The API version the client was written for.")
    ] = None,
) -> None:
    check_handshake(version)


def install(app: FastAPI, instance: Any, queue: Queue) -> None:
    """Add the job API to MONAI Label's server; instance: the app, whose datastore, sessions and victims it uses."""
    uploads = queue.home / "uploads"
    shutil.rmtree(uploads, ignore_errors=True)  # of a server that died
    uploads.mkdir(parents=True)
    options = instance.options
    limits = {
        "upload_bytes": options.upload_limit,
        "waiting": queue.waiting,
        "keep_days": queue.keep_days,
        "keep_bytes": queue.keep_bytes,
    }
    offer = Offer(instance.victims, options.device, limits)
    app.include_router(router(offer, instance, queue, uploads))
    app.openapi_schema = None  # to be made again, with these routes in it


def router(offer: Offer, instance: Any, queue: Queue, uploads: Path) -> APIRouter:
    """All routes under /perturbox."""
    needed = [Depends(handshake)]
    if settings.MONAI_LABEL_AUTH_ENABLE:
        from monailabel.endpoints.user.auth import RBAC  # slow to import, and needed nowhere else

        needed.append(Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER)))
    routes = APIRouter(prefix=PREFIX, tags=["Perturbox"], route_class=Route, dependencies=needed)
    limiter = CapacityLimiter(AT_ONCE)

    async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
        """Run something long in a thread, a few at once."""
        return await to_thread.run_sync(partial(function, *arguments), limiter=limiter)

    def status_json(record, since: int | None = 0) -> dict[str, Any]:
        return answers.status(record, offer, since)

    def refusals(*codes: int) -> dict[int | str, dict[str, Any]]:
        return {code: REFUSALS[code] for code in (401, 409, 422, *codes)}

    @routes.get("/schema", summary="What this server offers: victims, attacks, forms, limits", responses=refusals())
    def schema() -> JSONResponse:
        return JSONResponse(offer.document())

    @routes.get("/health", summary="Workers and queue", response_model=answers.Health, responses=refusals())
    def health() -> JSONResponse:
        return JSONResponse({"api": API, **queue.health()})

    @routes.post(
        "/jobs",
        status_code=202,
        summary="Submit a job: segment, attack, margin, certify or detect",
        response_model=answers.Status,
        responses=refusals(404, 413, 415, 429, 503),
        openapi_extra={"requestBody": BODY},
    )
    async def submit(request: Request) -> JSONResponse:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            async with request.form(max_files=len(UPLOADS) + MOST_CHANNELS, max_fields=1) as form:
                record = await in_thread(take, *parts(form))
        elif kind in ("application/json", ""):
            record = await in_thread(take, await short_body(request), {})
        else:
            detail = f"The body is of type {kind[:80]}."
            raise Refused(415, Problem("other-type", detail, "Send application/json or multipart/form-data."))
        if (task := request.headers.get(tasks.HEADER)) is not None:
            await in_thread(instance.background.submitted, task, record.id)
        place = f"{PREFIX}/jobs/{record.id}"
        return JSONResponse(status_json(record), 202, {"Location": place})

    def take(document: bytes | str, sent: dict[str, UploadFile]):
        """Check everything, then hand it to the queue, which makes its own copies."""
        submission = requests.parse(document)
        requests.require_one_source(submission, "image" in sent)
        requests.check_files(submission, set(sent))
        job = requests.check(submission, offer)
        detectors = offer.detectors(submission.victim or offer.default, submission.detector)
        channels = [field for field in sent if field.startswith("image")]
        requests.check_channels(len(channels), submission.victim or offer.default, offer)
        folder = Path(tempfile.mkdtemp(dir=uploads))
        try:
            local = {
                field: files.receive(upload, field, folder, UNPACKED * offer.limits["upload_bytes"])
                for field, upload in sent.items()
            }
            if len(channels) > 1:
                local["image"] = files.together([local[field] for field in channels], folder)
            structures = offer.structures(submission.victim or offer.default)
            found = sources.locate(instance, submission, local, sent, structures)
            return queue.submit(requests.order(submission, job, found, detectors))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @routes.get("/jobs", summary="Jobs, newest first", response_model=answers.Jobs, responses=refusals())
    def jobs(
        offset: Annotated[int, Query(ge=0, le=10**9, description="Leave out so many of the newest.")] = 0,
        limit: Annotated[int, Query(ge=1, le=PAGE, description="At most so many.")] = PAGE,
    ) -> JSONResponse:
        found = queue.list()
        end = offset + limit
        page = [status_json(record, None) for record in found[offset:end]]
        return JSONResponse({"jobs": page, "total": len(found), "next": end if end < len(found) else None})

    @routes.get("/jobs/{id}", summary="State and progress", response_model=answers.Status, responses=refusals(404))
    def job(
        id: Id,
        since: Annotated[int, Query(ge=0, le=10**9, description="Leave out this many trace entries: trace_next.")] = 0,
    ) -> JSONResponse:
        return JSONResponse(status_json(queue.get(id), since))

    @routes.post(
        "/jobs/{id}/cancel",
        status_code=202,
        summary="Stop: drop it, or keep the best so far",
        response_model=answers.Status,
        responses=refusals(404),
        openapi_extra={"requestBody": {"content": {"application/json": {"schema": Cancel.model_json_schema()}}}},
    )
    async def cancel(id: Id, request: Request) -> JSONResponse:
        document = await short_body(request)
        wish = requests.parse_as(Cancel, document) if document.strip() else Cancel()
        return JSONResponse(status_json(await to_thread.run_sync(queue.cancel, id, wish.keep)), 202)

    @routes.post(
        "/jobs/{id}/resubmit",
        status_code=202,
        summary="The same again, as a new job",
        response_model=answers.Status,
        responses=refusals(404, 429, 503),
    )
    async def resubmit(id: Id) -> JSONResponse:
        return JSONResponse(status_json(await in_thread(queue.resubmit, id)), 202)

    @routes.delete("/jobs/{id}", status_code=204, summary="Forget a job and its files", responses=refusals(404))
    def delete(id: Id) -> Response:
        queue.delete(id)
        return Response(status_code=204)

    @routes.get("/jobs/{id}/files", summary="The result's files", response_model=answers.Files, responses=refusals(404))
    async def listing(id: Id) -> JSONResponse:
        return JSONResponse({"files": await in_thread(lambda: files.listing(queue.result(id)))})

    @routes.get(
        "/jobs/{id}/files/{name:path}",
        summary="One file of the result",
        response_class=Response,
        responses={200: {"content": {"application/octet-stream": {}}, "description": "The file."}, **refusals(404)},
    )
    async def download(
        id: Id,
        name: str,
        request: Request,
        format: Annotated[Literal["nrrd"] | None, Query(description="nrrd: a volume as raw NRRD.")] = None,
    ) -> Response:
        return await in_thread(fetch, id, name, format, request.headers.get("if-none-match", ""))

    def fetch(id: str, name: str, format: str | None, known: str) -> Response:
        path = files.find(queue.result(id), name)
        etag = f'"{files.sha256(path)}{"-nrrd" if format else ""}"'
        headers = {"ETag": etag, "X-Content-Type-Options": "nosniff", "Cache-Control": "private, no-cache"}
        if etag in known:
            return Response(status_code=304, headers=headers)
        if format is None:
            return FileResponse(path, media_type=files.media_type(name), filename=path.name, headers=headers)
        converted = files.as_nrrd(path, uploads)
        headers["Content-Length"] = str(converted.tell())
        headers["Content-Disposition"] = f'attachment; filename="{files.stem(path.name)}.nrrd"'
        return StreamingResponse(blocks(converted), media_type="application/octet-stream", headers=headers)

    @routes.get(
        "/jobs/{id}/result.zip",
        summary="The whole result folder",
        response_class=Response,
        responses={200: {"content": {"application/zip": {}}, "description": "All files."}, **refusals(404)},
    )
    def archive(id: Id) -> Response:
        top = f"perturbox-{id[:8]}"
        headers = {"Content-Disposition": f'attachment; filename="{top}.zip"'}
        return StreamingResponse(files.zipped(queue.result(id), top), media_type="application/zip", headers=headers)

    @routes.get(
        "/compare",
        summary="Results on one scan side by side: a page, or its numbers",
        response_class=Response,
        responses={
            200: {"content": {"text/html": {}, "application/json": {}}, "description": "Both."},
            **refusals(404),
        },
    )
    async def compare(
        job: Annotated[list[str], Query(description="Id of an attack's job; two to six of them.", max_length=6)],
        format: Annotated[Literal["html", "json"], Query(description="json: comparison.json.")] = "html",
    ) -> Response:
        document, page = await in_thread(compared, job)
        if format == "json":
            return JSONResponse(document)
        return HTMLResponse(page, headers={"X-Content-Type-Options": "nosniff", "Cache-Control": "private, no-cache"})

    def compared(ids: list[str]) -> tuple[dict[str, Any], str]:
        for id in ids:
            if (kind := queue.get(id).order.kind) != "attack":
                raise InputError(f"Job {id[:64]} is of kind {kind}; give those of attacks.")
        return compare_folders([queue.result(id) for id in ids], ids)

    studies.add(routes, studies.shelf(instance.options.study_results), in_thread, refusals)
    return routes


def parts(form: FormData) -> tuple[str, dict[str, UploadFile]]:
    """(request, files) of a multipart body. Raises InputError for parts that are missing, odd or given twice."""
    sent: dict[str, UploadFile] = {}
    document = ""
    for field, value in form.multi_items():
        if isinstance(value, UploadFile) and field in UPLOADS and field not in sent:
            sent[field] = value
        elif isinstance(value, UploadFile) and field == "image" and (count := _channels(sent)) < MOST_CHANNELS:
            sent[f"image_{count:04d}"] = value
        elif isinstance(value, str) and field == "request":
            document = value
        else:
            raise InputError(
                f"The part '{field[:80]}' isn't understood; "
                "send `request` as text and image, label and roi as files, each once, image once per channel."
            )
    if not document:
        raise InputError("The part `request` with the JSON object is missing; send it as a text field.")
    return document, sent


def _channels(sent: dict[str, UploadFile]) -> int:
    return sum(field.startswith("image") for field in sent)


async def short_body(request: Request) -> bytes:
    """The body of a request that needs none of the upload limit."""
    body = bytearray()
    async for block in request.stream():
        body += block
        if len(body) > JSON_LIMIT:
            detail = "The JSON body is larger than 1 MiB."
            raise Refused(413, Problem("too-large", detail, "Send files as multipart/form-data."))
    return bytes(body)


def blocks(file: BinaryIO) -> Iterator[bytes]:
    """A file's content from its start, closed at the end."""
    with file:
        file.seek(0)
        while block := file.read(files.BLOCK):
            yield block
