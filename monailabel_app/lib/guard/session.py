"""PUT /session/: an upload that stays for a while, unpacked safely; MONAI Label's own writes wherever it is told to."""

import json
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
from fastapi import APIRouter, Depends, File, UploadFile
from monailabel.config import RBAC_USER, settings
from monailabel.endpoints.user.auth import RBAC, User

from lib.guard import archive, uploads
from lib.guard.errors import Refusal, bad

MOST_UPLOADS = 5000  # slices of a series sent one by one
UNPACKED_TIMES = 8  # how much larger than the upload limit an archive may become


def router(app: Any, upload_limit: int) -> APIRouter:
    """The route that creates sessions."""
    made = APIRouter(prefix="/session", tags=["Session"])

    @made.put("/", summary=f"{RBAC_USER}Create new session with Image")
    async def api_create_session(
        uncompress: bool = False,
        expiry: int = 0,
        files: list[UploadFile] = File(...),
        user: User = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER)),
    ) -> dict[str, Any]:
        if app.sessions() is None:
            raise Refusal(406, "This server keeps no sessions.")
        if len(files) > MOST_UPLOADS:
            raise Refusal(413, f"A session takes at most {MOST_UPLOADS} files.", "Send them as one zip.")
        if uncompress and len(files) > 1:
            raise bad("Only one archive can be unpacked into a session.", "Send one zip or tar.")
        if not 0 <= expiry <= 10**9:
            raise bad("'expiry' is no number of seconds.", "Send seconds, or 0 for the server's own limit.")
        return await anyio.to_thread.run_sync(create, app.sessions(), files, uncompress, expiry, upload_limit)

    return made


def create(sessions: Any, files: list[UploadFile], uncompress: bool, expiry: int, upload_limit: int) -> dict[str, Any]:
    """Keep the files as a new session; blocking. Raises 413, 415 or 422 for what can't be kept."""
    with tempfile.TemporaryDirectory(prefix="perturbox-session-") as scratch:
        image = _receive(Path(scratch), files, uncompress, upload_limit)
        id, info = sessions.add_session(str(image), expiry, uncompress=False)
    return {"session_id": id, "session_info": info.to_json()}


def _receive(scratch: Path, files: list[UploadFile], uncompress: bool, upload_limit: int) -> Path:
    """The image in `scratch`: one file, or a folder of several."""
    folder = scratch / "image"
    folder.mkdir()
    if uncompress:
        packed = scratch / "packed"
        with packed.open("xb") as copy:
            shutil.copyfileobj(files[0].file, copy, uploads.BLOCK)
        found = archive.unpack(packed, folder, UNPACKED_TIMES * upload_limit)
    elif len(files) == 1:
        return uploads.keep(files[0], scratch, "scan")
    else:
        found = [_keep(file, folder, number) for number, file in enumerate(files, 1)]
    for path in found:
        uploads.check_content(path, uploads.known_suffix(path.name))
    if len(found) == 1 and uploads.known_suffix(found[0].name):
        return found[0].rename(scratch / f"scan{uploads.known_suffix(found[0].name)}")
    return folder


def _keep(upload: UploadFile, folder: Path, number: int) -> Path:
    """One of several files, as a rule a DICOM slice, whose name says nothing."""
    path = folder / f"{number:05d}{uploads.known_suffix(upload.filename or '')}"
    with path.open("xb") as copy:
        shutil.copyfileobj(upload.file, copy, uploads.BLOCK)
    return path


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
