"""/proxy/dicom/…: what OHIF asks of the DICOM server behind this one, and only that.

MONAI Label's own waits on the event loop, and passes the client's headers on, its token for this server among them.
"""

import re
from typing import Any

import requests
from fastapi import APIRouter, Depends, Request
from fastapi.responses import StreamingResponse
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC
from starlette.concurrency import run_in_threadpool

from lib.dicomweb import DicomServer
from lib.guard.errors import Refusal, bad, missing

PREFIXES = {
    "wado": lambda: settings.MONAI_LABEL_WADO_PREFIX,
    "qido": lambda: settings.MONAI_LABEL_QIDO_PREFIX,
    "stow": lambda: settings.MONAI_LABEL_STOW_PREFIX,
}
# What DICOMweb addresses are made of: resource words, UIDs and numbers.
PATH = re.compile(r"[A-Za-z0-9][\w.,-]*(/[A-Za-z0-9][\w.,-]*)*/?", re.ASCII)
PASSED_ON = ("accept", "content-type")
PASSED_BACK = ("content-type", "content-length", "content-encoding")
BLOCK = 2**18


def router(app: Any) -> APIRouter:
    """GET and POST to the DICOM server."""
    made = APIRouter(prefix="/proxy", dependencies=[Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))])

    @made.get("/dicom/{path:path}", include_in_schema=False)
    @made.post("/dicom/{path:path}", include_in_schema=False)
    async def proxy(request: Request, path: str) -> StreamingResponse:
        if not isinstance(app.datastore(), DicomServer):
            raise missing("There is no DICOM server behind this one.", "Use the routes under /datastore/.")
        url = f"{str(settings.MONAI_LABEL_STUDIES).rstrip('/')}/{address(path)}"
        headers = {key: request.headers[key] for key in PASSED_ON if key in request.headers}
        body = await request.body() if request.method == "POST" else None
        query = request.url.query
        got = await run_in_threadpool(_ask, request.method, f"{url}?{query}" if query else url, headers, body)
        back = {key: got.headers[key] for key in PASSED_BACK if key in got.headers}
        return StreamingResponse(_pieces(got), got.status_code, back)

    return made


def address(path: str) -> str:
    """The path on the DICOM server; raises a 422 for one that no DICOMweb resource has."""
    if not PATH.fullmatch(path) or ".." in path:
        raise bad("This is not a path of a DICOM server.", "Use paths like qido/studies.")
    word, _, rest = path.partition("/")
    if word not in PREFIXES:
        return path
    # Some versions of OHIF ask for metadata by the wrong service.
    prefix = PREFIXES["wado" if word == "qido" and rest.rstrip("/").endswith("metadata") else word]()
    return f"{prefix}/{rest}" if prefix else rest


def _ask(method: str, url: str, headers: dict[str, str], body: bytes | None) -> requests.Response:
    if "googleapis.com" in url:
        raise Refusal(409, "Google's DICOM stores are not reached through this proxy.", "Let OHIF ask them itself.")
    name, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
    return requests.request(
        method,
        url,
        headers=headers,
        data=body,
        auth=(name, password) if name and password else None,
        stream=True,
        timeout=settings.MONAI_LABEL_DICOMWEB_PROXY_TIMEOUT,
        allow_redirects=False,
    )


def _pieces(got: requests.Response) -> Any:
    try:
        yield from got.raw.stream(BLOCK, decode_content=False)
    finally:
        got.close()
