"""POST /infer/{model} without holding up the server: the job goes through the queue, the answer is MONAI Label's.

MONAI Label's own route computes on the event loop, so that nothing else is answered meanwhile, and computes on for a
client that has left.
"""

import asyncio
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import anyio
from fastapi import APIRouter, Depends, File, Form, Request, UploadFile
from fastapi.background import BackgroundTasks
from fastapi.responses import FileResponse, JSONResponse, Response
from monailabel.config import RBAC_USER, settings
from monailabel.endpoints.infer import router as original
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.datastore import DefaultLabelTag
from monailabel.utils.others.generic import get_mime_type, remove_file
from requests_toolbelt import MultipartEncoder

from lib import backend, results
from lib.guard import names, parameters, store, uploads
from lib.guard.errors import Refusal, bad, missing, plain
from perturbox.jobs import Order, Queue, Record

POLL_SECONDS = 0.1
# A job that failed for a reason of its own; what isn't listed is the server's fault.
STATUS = {
    "bad-input": 422,
    "cancelled": 409,
    "worker-died": 503,
    "out-of-memory": 503,
    "stuck": 503,
    "interrupted": 503,
    "disk-full": 503,
}


class Output(StrEnum):
    """What to answer: the label map, the JSON, or both in one multipart body."""

    image = "image"
    json = "json"
    all = "all"
    dicom_seg = "dicom_seg"


@dataclass(frozen=True)
class Source:
    """The scan an inference reads: a local path, and what to call it."""

    path: str
    name: str
    in_datastore: bool


def router(app: Any, queue: Queue) -> APIRouter:
    """The route, with MONAI Label's own address, fields and answers."""
    made = APIRouter(prefix="/infer", tags=["Infer"], responses=original.responses)

    @made.post("/{model}", summary=f"{RBAC_USER}Run Inference for supported model")
    async def api_run_inference(
        request: Request,
        background_tasks: BackgroundTasks,
        model: str,
        image: str = "",
        session_id: str = "",
        params: str = Form("{}"),
        file: UploadFile | None = File(None),
        label: UploadFile | None = File(None),
        output: Output | None = None,
        user: User = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER)),
    ) -> Any:
        names.check_all({"model": model, "session_id": session_id})
        asked = parameters.parse(params)
        parameters.check_request(asked)
        wanted = results.wanted(asked)
        if model not in app._infers:
            raise missing(f"There is no model '{model}' here.", "GET /info/ lists them.")
        if asked.get("save_label") is True:
            store.check_tag_for(model, asked.get("label_tag"))
        if output is Output.dicom_seg:
            raise bad("DICOM SEG is not written by this server.", "Ask for output=image, which is NIfTI.")
        if label is not None:
            uploads.suffix_of(label.filename, uploads.LABELS)  # scribbles: nothing here uses them
        with tempfile.TemporaryDirectory(prefix="perturbox-infer-") as scratch:
            source = await anyio.to_thread.run_sync(_source, app, Path(scratch), image, session_id, file)
            order = await anyio.to_thread.run_sync(_order, app, model, asked, source)
            record = await anyio.to_thread.run_sync(queue.submit, order)
        record = await _finish(queue, record, request)
        found, told = await anyio.to_thread.run_sync(_answer, app, queue, order, record, model, asked, source)
        found = await anyio.to_thread.run_sync(results.converted, found, wanted)
        return await anyio.to_thread.run_sync(_respond, found, told, output, background_tasks)

    return made


def _source(app: Any, scratch: Path, image: str, session_id: str, file: UploadFile | None) -> Source:
    """The scan that is meant: a session, an upload, or an image of the datastore, whichever comes first."""
    if session_id:
        session = app.sessions().get_session(names.check_session(session_id)) if app.sessions() is not None else None
        if session is None:
            raise missing("There is no session of this id, or it has expired.", "Create one: PUT /session/.")
        return Source(session.image, session.name, False)
    if file is not None:
        return Source(str(uploads.keep(file, scratch, "upload")), "upload", False)
    if not image:
        raise bad("No scan was given.", "Name an 'image' of the datastore or a 'session_id', or send a 'file'.")
    image = store.resolve(app.datastore(), image)
    store.check_image(app, image)
    return Source(store.scan_of(app.datastore(), image), image, True)


def _order(app: Any, model: str, asked: Mapping[str, Any], source: Source) -> Order:
    datastore = app.datastore() if source.in_datastore else None
    return backend.order_for(model, dict(asked), source.path, source.name, datastore=datastore)


async def _finish(queue: Queue, record: Record, request: Request) -> Record:
    """Wait for a job to be over without holding anything up; a job whose client has gone is cancelled."""
    try:
        while not record.over:
            await asyncio.sleep(POLL_SECONDS)
            if await request.is_disconnected():
                raise Refusal(409, "The client has gone, so its job was cancelled.")
            record = await anyio.to_thread.run_sync(queue.get, record.id)
        return record
    finally:
        if not record.over:
            with anyio.CancelScope(shield=True), suppress(Exception):
                await anyio.to_thread.run_sync(queue.cancel, record.id)


def _answer(
    app: Any, queue: Queue, order: Order, record: Record, model: str, asked: Mapping[str, Any], source: Source
) -> tuple[str, dict[str, Any]]:
    """(a fresh copy of the label map, JSON); keeps the label and the perturbed scan where that is asked for."""
    if record.state != "done":
        problem = backend.Unfinished(record).problem
        detail = problem.detail.replace(record.order.job.image, source.name)  # no path of the server's
        raise Refusal(STATUS.get(problem.error, 500), detail, problem.what_to_do, problem.error)
    file, told = backend.answer(order, record, queue.result(record.id), app.datastore())
    try:
        if asked.get("save_label") is True and source.in_datastore:
            tag = asked.get("label_tag") or DefaultLabelTag.ORIGINAL.value
            store.check_place(app, source.name, tag, ".nii.gz")
            with tempfile.TemporaryDirectory() as scratch:
                copy = Path(scratch) / "label.nii.gz"  # the store takes the suffix from the first dot on
                copy.write_bytes(Path(file).read_bytes())
                app.datastore().save_label(source.name, str(copy), tag, plain({"model": model, "params": told}))
    except BaseException:
        remove_file(file)
        raise
    return file, plain(told)


def _respond(file: str, told: dict[str, Any], output: Output | None, background_tasks: BackgroundTasks) -> Response:
    """MONAI Label's answer for each kind of output; the file goes once it is sent."""
    background_tasks.add_task(remove_file, file)
    if output is Output.json:
        return JSONResponse(told)
    if output is Output.image:
        return FileResponse(file, media_type=get_mime_type(file), filename=os.path.basename(file))
    with open(file, "rb") as voxels:
        fields = {
            "params": (None, json.dumps(told), "application/json"),
            "image": (os.path.basename(file), voxels, get_mime_type(file)),
        }
        encoder = MultipartEncoder(fields=fields)
        return Response(encoder.to_string(), media_type=encoder.content_type)
