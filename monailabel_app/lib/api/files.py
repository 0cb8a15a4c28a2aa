"""Files of a job: what a client uploads, what it may download, as they are, as raw NRRD, or all in one zip.

Nothing here trusts a name: an upload keeps only the suffix of its own, and a download must be one of the files that
the result folder holds.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO

from starlette.datastructures import UploadFile

from lib.guard import archive, uploads
from lib.guard.errors import Refusal
from lib.nrrd import CONVERTIBLE, write_nrrd
from lib.packing import zip_of
from perturbox import io
from perturbox.io import formats
from perturbox.jobs import Problem, Refused

MEDIA = formats.MEDIA | {
    ".json": "application/json",
    ".html": "text/html; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
}
BLOCK = 2**20


# ---------------------------------------------------------------- up


def receive(upload: UploadFile, field: str, folder: Path, most_bytes: int) -> Path:
    """Keep an uploaded file in `folder`, a zip unpacked to at most `most_bytes`; the file, or a folder of DICOM files.

    Raises Refusal for a file that is empty, of no known format, or an archive that isn't safe to unpack.
    """
    known = (*uploads.SCANS, ".dcm", ".zip") if field.startswith("image") else uploads.MASKS
    suffix = io.suffix(PurePosixPath((upload.filename or "").replace("\\", "/")))
    if suffix not in known:
        detail = f"The file '{field}' is in no format that can be used, going by its name."
        raise Refusal(415, detail, f"Send one of {', '.join(known)}.")
    path = folder / f"{field}{suffix}"
    with path.open("xb") as copy:
        shutil.copyfileobj(upload.file, copy, BLOCK)
    uploads.check_content(path, suffix)
    if suffix != ".zip":
        return path
    place = folder / f"{field}-unpacked"
    place.mkdir()
    members = archive.unpack(path, place, most_bytes)
    path.unlink()
    if len(members) > 1 or io.suffix(members[0]) not in uploads.SCANS:
        return place
    uploads.check_content(members[0], io.suffix(members[0]))
    return members[0]


def together(paths: list[Path], folder: Path) -> Path:
    """A folder of a scan's channels, from files that were received one by one."""
    place = folder / "channels"
    place.mkdir()
    for number, path in enumerate(paths):
        if path.is_dir():
            raise Refusal(
                415, "A channel of the scan is a DICOM series.", "Send each channel as one file, e.g. .nii.gz."
            )
        path.rename(place / f"scan_{number:04d}{io.suffix(path)}")
    return place


# ---------------------------------------------------------------- down


def names(folder: Path) -> list[str]:
    """The files of a result folder, by their path in it."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and not path.name.startswith(".")
    )


def find(folder: Path, name: str) -> Path:
    """The file of that name in a result folder; raises Refused(404) for anything else, so no path leads outside."""
    if name not in names(folder):
        detail = f"This job's result has no file '{name[:200]}'."
        raise Refused(404, Problem("no-such-file", detail, "Choose one that GET …/files lists."))
    return folder / name


def stem(name: str) -> str:
    """A file's name without its suffix, both parts of .nii.gz."""
    return name[: len(name) - len(io.suffix(name))]


def media_type(name: str) -> str:
    return MEDIA.get(io.suffix(name), "application/octet-stream")


def sha256(path: Path) -> str:
    """Hash of a file's content; computed once for as long as the file stays as it is."""
    told = path.stat()
    return _sha256(path, told.st_size, told.st_mtime_ns)


@lru_cache(maxsize=4096)
def _sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listing(folder: Path) -> list[dict[str, object]]:
    """What the result folder holds: name, bytes, sha256, media type and the formats each file can be had in."""
    return [
        {
            "name": name,
            "bytes": (folder / name).stat().st_size,
            "sha256": sha256(folder / name),
            "media_type": media_type(name),
            "formats": ["nrrd"] if io.suffix(name) in CONVERTIBLE else [],
        }
        for name in names(folder)
    ]


def zipped(folder: Path, top: str) -> Iterator[bytes]:
    """All files of a folder as a zip under the folder name `top`."""
    return zip_of((f"{top}/{name}", folder / name) for name in names(folder))


def as_nrrd(source: Path, scratch: Path) -> IO[bytes]:
    """`write_nrrd` to a file without a name, so that it is gone once it is closed, whatever happens."""
    target = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - the caller closes it
    try:
        write_nrrd(source, target)
    except BaseException:
        target.close()
        raise
    return target
