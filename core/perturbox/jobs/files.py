"""Where an order's files lie: its own copies of what it reads, and its result, in one folder per order; and memory."""

import ctypes
import dataclasses
import io as streams
import shutil
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from perturbox import io
from perturbox.jobs.records import Order
from perturbox.types import InputError

INPUTS = ("image", "label", "roi")
CHANNELS = ".channels"  # how the folder of a scan's channels ends, beside .folder of a DICOM series


def take_in(order: Order, folder: Path) -> Order:
    """Copy what the order reads into `folder`, under names that tell nothing of a patient; the order with those paths.

    Raises InputError where something isn't there.
    """
    paths = {}
    for field in INPUTS:
        source = getattr(order.job, field)
        if source is None:
            continue
        parts = io.sources(source) if field == "image" else (Path(source),)
        if not all(path.exists() for path in parts):
            raise InputError(f"The {field} is no longer there; send it again.")
        if len(parts) != 1:
            paths[field] = str(_take_channels(parts, folder / field / f"scan{CHANNELS}"))
            continue
        (path,) = parts
        place = folder / field / ("scan.folder" if path.is_dir() else f"scan{io.suffix(path)}")
        place.parent.mkdir(parents=True)
        if path.is_dir():
            shutil.copytree(path, place)
        else:
            place = io.copy_scan(path, place)
        paths[field] = str(place)
    return dataclasses.replace(order, job=dataclasses.replace(order.job, **paths))


def _take_channels(parts: Sequence[Path], place: Path) -> Path:
    """Copy the files of a scan's channels as scan_0000…; folders can't be."""
    place.mkdir(parents=True)
    for number, path in enumerate(parts):
        if path.is_dir():
            raise InputError(
                "A channel is a folder, such as a DICOM series; convert it to one file (NIfTI, NRRD) and send that."
            )
        io.copy_scan(path, place / f"scan_{number:04d}{io.suffix(path)}")
    return place


def as_content(order: Order) -> dict[str, tuple[str, bytes]]:
    """{field: (name, bytes)} of what the order reads, for a worker that doesn't see these files; folders as zip."""
    files = {}
    for field in INPUTS:
        source = getattr(order.job, field)
        if source is not None:
            path = Path(source)
            files[field] = (path.name, pack(path) if path.is_dir() else path.read_bytes())
    return files


def pack(folder: Path) -> bytes:
    """A folder's files as an uncompressed zip."""
    buffer = streams.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return buffer.getvalue()


def unpack(content: bytes, folder: Path) -> None:
    """Write a zip of our own making to a folder."""
    with zipfile.ZipFile(streams.BytesIO(content)) as archive:
        archive.extractall(folder)


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def trim_memory() -> None:
    """Give freed memory back to the system, which glibc keeps in its many threads' arenas otherwise."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
