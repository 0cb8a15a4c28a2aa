"""Uploaded files: of their names only a known suffix is kept, and a header must not send a reader to another file."""

import shutil
import tempfile
from pathlib import Path, PurePosixPath

from fastapi import UploadFile

from lib.guard.errors import Refusal, bad, explain
from perturbox.io import formats, headers
from perturbox.types import InputError

# What the readers take in one file, label maps of volumes, and labels and regions of a job, also of photographs.
SCANS, LABELS, MASKS = formats.WHOLE, formats.VOLUMES, formats.MASKS
BLOCK = 2**20


def suffix_of(name: str | None, known: tuple[str, ...] = SCANS) -> str:
    """The known suffix of a file name, in lower case; raises a 415 for any other."""
    suffix = known_suffix(name or "")
    if suffix in known:
        return suffix
    raise Refusal(415, "The file's format can't be used, going by its name.", f"Send one of {', '.join(known)}.")


def known_suffix(name: str) -> str:
    """The known suffix of a file name, or nothing."""
    return next((suffix for suffix in SCANS if name.lower().endswith(suffix)), "")


def stem_of(name: str, suffix: str) -> str:
    """A file name without folders and suffix, for a new image's id."""
    return PurePosixPath(name.replace("\\", "/")).name[: -len(suffix)]


def check_content(path: Path, suffix: str) -> None:
    """Raises a 422 for an empty file, and for one whose header breaks the rules or says the voxels lie elsewhere."""
    if not path.stat().st_size:
        raise bad("The uploaded file is empty (0 bytes).", "Export it again.")
    if suffix not in headers.SUFFIXES:
        return
    try:
        headers.require_whole(path)
    except InputError as error:
        _, problem = explain(InputError(str(error).replace(str(path), "The uploaded file")))
        raise bad(problem.detail, problem.what_to_do) from None


def keep(upload: UploadFile, folder: Path, name: str, known: tuple[str, ...] = SCANS) -> Path:
    """Save an upload as `name` + its suffix in `folder` and check it; blocking, so call it in a thread."""
    suffix = suffix_of(upload.filename, known)
    path = folder / f"{name}{suffix}"
    with path.open("xb") as copy:
        shutil.copyfileobj(upload.file, copy, BLOCK)
    check_content(path, suffix)
    return path


def check_spooled(upload: UploadFile, known: tuple[str, ...] = SCANS) -> str:
    """Check an upload that MONAI Label will save itself; returns its suffix."""
    suffix = suffix_of(upload.filename, known)
    with tempfile.NamedTemporaryFile(suffix=suffix) as head:
        upload.file.seek(0)
        head.write(upload.file.read(headers.MOST_BYTES))
        head.flush()
        upload.file.seek(0)
        check_content(Path(head.name), suffix)
    return suffix
