"""PUT /session/: an upload that stays for a while, unpacked safely; MONAI Label's own writes wherever it is told to."""

import json
import shutil
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from fastapi import APIRouter, Depends, Request
from monailabel.config import RBAC_USER, settings
from monailabel.endpoints.user.auth import RBAC, User

from lib.guard import archive, multipart, uploads
from lib.guard.errors import Refusal, bad
from lib.guard.multipart import Received

MOST_UPLOADS = 5000  # slices of a series sent one by one
UNPACKED_TIMES = 4  # how much larger than the upload limit an archive may become
BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["files"],
                "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
            }
        }
    },
}


def router(app: Any, upload_limit: int) -> APIRouter:
    """The route that creates sessions."""
    made = APIRouter(prefix="/session", tags=["Session"])

    @made.put("/", summary=f"{RBAC_USER}Create new session with Image", openapi_extra={"requestBody": BODY})
    async def api_create_session(
        request: Request,
        uncompress: bool = False,
        expiry: int = 0,
        user: User = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER)),
    ) -> dict[str, Any]:
        if app.sessions() is None:
            raise Refusal(406, "This server keeps no sessions.")
        if not 0 <= expiry <= 10**9:
            raise bad("'expiry' is not a number of seconds.", "Send seconds, or 0 for the server's own limit.")
        with tempfile.TemporaryDirectory(prefix="perturbox-session-") as scratch:
            came = Path(scratch) / "came"
            came.mkdir()
            files = await multipart.receive(request, "files", came, MOST_UPLOADS)
            if uncompress and len(files) > 1:
                raise bad("Only one archive can be unpacked into a session.", "Send one zip or tar.")
            work = partial(create, app.sessions(), Path(scratch), files, uncompress, expiry, upload_limit)
            return await anyio.to_thread.run_sync(work)

    return made


def create(
    sessions: Any, scratch: Path, files: list[Received], uncompress: bool, expiry: int, upload_limit: int
) -> dict[str, Any]:
    """Keep the files as a new session; blocking. Raises 413, 415 or 422 for what can't be kept."""
    image = _image(scratch, files, uncompress, upload_limit)
    id, info = sessions.add_session(str(image), expiry, uncompress=False)
    return {"session_id": id, "session_info": info.to_json()}


def _image(scratch: Path, files: list[Received], uncompress: bool, upload_limit: int) -> Path:
    """The image in `scratch`: one file, or a folder of several."""
    folder = scratch / "image"
    folder.mkdir()
    if uncompress:
        found = archive.unpack(files[0].path, folder, UNPACKED_TIMES * upload_limit)
    elif len(files) == 1:
        suffix = uploads.suffix_of(files[0].filename)
        found = [files[0].path.rename(folder / f"scan{suffix}")]
    else:  # as a rule DICOM slices, whose names say nothing
        found = [file.path.rename(folder / f"{file.path.name}{uploads.known_suffix(file.filename)}") for file in files]
    for path in found:
        uploads.check_content(path, uploads.known_suffix(path.name))
    if len(found) == 1 and (suffix := uploads.known_suffix(found[0].name)):
        return found[0].rename(scratch / f"scan{suffix}")
    return folder


def sweep(sessions: Any) -> None:
    """Remove what a server that was killed left half made: MONAI Label would not start with it."""
    if sessions is None or not Path(sessions.store_path).is_dir():
        return
    for folder in Path(sessions.store_path).iterdir():
        if not folder.is_dir():
            continue
        try:
            told = json.loads((folder / "meta.info").read_text(encoding="utf-8"))
            sound = Path(told["image"]).exists() and told["last_access_ts"] <= time.time() + 86400
        except (OSError, ValueError, KeyError, TypeError):
            sound = False
        if not sound:
            with suppress(OSError):
                shutil.rmtree(folder)
