"""Routes of MONAI Label that are answered here instead: made cheap, made safe, or closed with a reason."""

import os
import shutil
import subprocess
import threading
from collections import deque
from pathlib import Path
from typing import Any

import anyio
from fastapi import APIRouter, Depends, UploadFile
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from monailabel import endpoints
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.utils.others.generic import get_mime_type

from lib.guard import names, store
from lib.guard.errors import Refusal, missing, plain
from lib.packing import zip_of

USER, ADMIN = settings.MONAI_LABEL_AUTH_ROLE_USER, settings.MONAI_LABEL_AUTH_ROLE_ADMIN
MOST_LOG_LINES = 10_000
PATIENCE_SECONDS = 0.05
OHIF = Path(endpoints.__file__).parent / "static" / "ohif"


class Info:
    """What the app says of itself: tasks and their settings stay as they are, only numbers of images change.

    Those are told as they were where the datastore is at work for longer than a client likes to wait.
    """

    def __init__(self, app: Any):
        self.app, self.fresh = app, type(app).info
        self.lock = threading.Lock()
        self.told: dict[str, Any] | None = None
        self.counted: dict[str, Any] = {}

    def __call__(self) -> dict[str, Any]:
        with self.lock:
            if self.told is None:
                self.told = plain(self.fresh(self.app))
            told = dict(self.told)
        lock = store.lock_of(self.app.datastore())
        if lock.acquire(timeout=PATIENCE_SECONDS if self.counted else -1):
            try:
                self.counted = plain(self.app.datastore().status())
            finally:
                lock.release()
        told["datastore"] = self.counted
        told["train_stats"] = plain({name: task.stats() for name, task in self.app._trainers.items()})
        return told

    def forget(self) -> None:
        with self.lock:
            self.told = None


def router(app: Any, info: Info) -> APIRouter:
    """The replaced routes."""
    made = APIRouter()
    user, admin = [Depends(RBAC(USER))], [Depends(RBAC(ADMIN))]

    @made.get("/info/", tags=["App"], summary="Get App Info", dependencies=user)
    async def api_app_info() -> JSONResponse:
        return JSONResponse(await anyio.to_thread.run_sync(info))

    @made.post("/reload", include_in_schema=False, dependencies=admin)
    def reload() -> dict[str, Any]:
        # MONAI Label would build the whole app again beside this one, with a second queue.
        app.reload()
        info.forget()
        return {}

    @made.get("/datastore/dataset", tags=["Datastore"], summary="Download full dataset as ZIP archive")
    def api_download_dataset(
        limit_cases: int | None = None, _: User = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))
    ) -> StreamingResponse:
        # MONAI Label's own leaves a copy of all scans in the temporary folder.
        headers = {"Content-Disposition": 'attachment; filename="dataset.zip"'}
        return StreamingResponse(zip_of(_dataset(app.datastore(), limit_cases)), 200, headers, "application/zip")

    @made.put("/model/{model}", tags=["Model"], summary="Closed: models are not uploaded", dependencies=admin)
    def api_update_model(model: str, file: UploadFile) -> None:
        _check_model(app, model)
        detail = "Models are not taken from clients: loading one may run its code."
        raise Refusal(409, detail, "Start the server with it.")

    @made.delete("/model/{model}", tags=["Model"], summary="Closed: models are not deleted", dependencies=admin)
    def api_delete_model(model: str) -> None:
        _check_model(app, model)
        raise Refusal(409, "Models are not deleted by clients.", "Start the server without it.")

    @made.post("/infer/wsi/{model}", include_in_schema=False, dependencies=user)
    @made.post("/infer/wsi_v2/{model}", tags=["Infer"], summary="Closed: no whole-slide models", dependencies=user)
    def api_run_wsi(model: str) -> None:
        names.check("model", model)
        raise missing("This server has no models for whole-slide images.", "Use POST /infer/{model} for scans.")

    @made.get("/logs/", tags=["Others"], summary="Get Logs", dependencies=admin)
    def api_get_logs(lines: int = 300) -> PlainTextResponse:
        return PlainTextResponse(_last_lines(Path(settings.MONAI_LABEL_APP_DIR) / "logs" / "app.log", lines))

    @made.get("/logs/gpu", tags=["Others"], summary="Get GPU Info (nvidia-smi)", dependencies=admin)
    def gpu_info() -> PlainTextResponse:
        if shutil.which("nvidia-smi") is None:
            raise missing("This server has no NVIDIA GPU, or nvidia-smi is missing.", "Nothing need be done.")
        try:
            told = subprocess.run(["nvidia-smi"], capture_output=True, timeout=20, check=False).stdout
        except subprocess.TimeoutExpired:
            raise Refusal(503, "nvidia-smi gave no answer in 20 seconds.") from None
        return PlainTextResponse(told.decode("utf-8", "replace"))

    @made.get("/ohif/{path:path}", include_in_schema=False, dependencies=user)
    def api_get_ohif(path: str) -> FileResponse:
        return _page(OHIF, path)

    return made


def _dataset(datastore: Any, limit: int | None) -> list[tuple[str, Path | bytes]]:
    """Images and their final labels as (name in the archive, file), and what the datastore notes of them."""
    cases = datastore.datalist()
    if not cases:
        raise missing("No image of this datastore has a final label.", "Save a label with the tag 'final' first.")
    cases = cases[:limit] if limit and limit > 0 else cases
    files = [(f"{kind}/{Path(file).name}", Path(file)) for case in cases for kind, file in case.items()]
    notes = datastore._datastore.model_dump_json(exclude={"base_path"})
    return [*files, ("metadata.json", notes.encode())]


def _check_model(app: Any, model: str) -> None:
    names.check("model", model)
    if model not in app._infers and model not in app._trainers:
        raise missing(f"There is no model '{model}' here.", "GET /info/ lists them.")


def _last_lines(file: Path, lines: int) -> str:
    if not file.is_file():
        raise missing("This server keeps no log file.", "Look at what it prints.")
    with file.open(encoding="utf-8", errors="replace") as opened:
        return "".join(deque(opened, min(max(lines, 1), MOST_LOG_LINES)))


def _page(folder: Path, path: str) -> FileResponse:
    """A file of a web application; its start page for any other path, which it resolves itself."""
    start = folder / "index.html"
    if "\0" in path or not start.is_file():
        raise missing("This server does not carry the OHIF viewer.", "Run OHIF elsewhere and point it to this server.")
    asked = Path(os.path.realpath(folder / path.lstrip("/")))
    file = asked if asked.is_file() and asked.is_relative_to(folder.resolve()) else start
    return FileResponse(file, media_type=get_mime_type(str(file)))
