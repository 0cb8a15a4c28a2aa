"""NRRD and MetaImage through SimpleITK, writing pictures, and the one place where ITK's LPS axes become RAS."""

import errno
import os
import re
import shutil
import tempfile
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike

from perturbox.io import headers, voxels
from perturbox.io.checks import Stored, check_size, check_spacing
from perturbox.io.files import damaged, suffix
from perturbox.io.formats import BY_SUFFIX
from perturbox.types import ADVERSARIAL_NOTICE, InputError, Volume

COMPRESSION = 3
# What is said of a file that leaves open which way its axes run; {} is how.
NO_ORIENTATION = (
    "The file states no orientation ({}): i was taken to run to the left and j to the back, as SimpleITK and Slicer do."
)


def read(path: Path) -> Stored:
    """The numbers in a NRRD or MetaImage file; raises InputError for damaged or unusable ones.

    ITK reads a header of our own making, for the geometry; the voxels behind the file's own are read here.
    """
    header = headers.read(path)
    format = suffix(path)
    with tempfile.TemporaryDirectory(prefix="perturbox-") as scratch, silence():
        place = Path(scratch) / f"header{'.nrrd' if format in ('.nrrd', '.nhdr') else '.mha'}"
        place.write_text(header.text, encoding="ascii", newline="")
        reader = _reader(place, format)
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            raise damaged(path) from None
        _check_place(path, reader)
    spatial = tuple(n for axis, n in enumerate(header.shape) if axis != header.channel_axis)
    channels = 1 if header.channel_axis is None else header.shape[header.channel_axis]
    if spatial != reader.GetSize() or channels != reader.GetNumberOfComponents():
        raise InputError(f"{path} says in several ways which of its axes are in space; export it again as .nii.gz.")
    _require_one_value(path, channels, len(spatial), header.remarks)
    values = voxels.read(header)
    values = values[None] if header.channel_axis is None else np.moveaxis(values, header.channel_axis, 0)
    metadata, oriented = _metadata(reader) | dict(header.remarks), _oriented(header.text)
    return Stored(
        values=values,
        affine=affine_of(reader),
        format=format,
        header={"metadata": metadata},
        geometry="patient" if oriented else "spacing",
        notes=() if oriented or len(spatial) < 3 else (NO_ORIENTATION.format("no space, directions or transform"),),
    )


def _oriented(header: str) -> bool:
    """Whether a NRRD or MetaImage header says which way its axes run."""
    keys = {re.split("[:=]", line, maxsplit=1)[0].strip() for line in header.splitlines()}
    return bool(keys & {"space", "space dimension", "TransformMatrix", "Rotation", "Orientation"})


def _reader(path: Path, format: str) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(BY_SUFFIX[format].itk)
    return reader


def _check_place(path: Path, reader: sitk.ImageFileReader) -> None:
    """Raises InputError for sizes, spacing or directions that no image has; `path`: what the user calls it."""
    dims = reader.GetDimension()
    check_size(path, reader.GetSize())
    check_spacing(path, reader.GetSpacing())
    axes = np.array(reader.GetDirection()).reshape(dims, dims)
    if abs(np.linalg.det(axes)) < 1e-6:
        raise InputError(f"{path} has two axes along the same direction (a singular affine); export the scan again.")


def _metadata(image: sitk.Image | sitk.ImageFileReader) -> dict[str, str]:
    """What a file says of itself, without what ITK can't put into words."""
    found = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys() if not key.startswith("ITK_")}
    return {key: value for key, value in found.items() if "UNKNOWN_PRINT_CHARACTERISTICS" not in value}


def write(path: Path, volume: Volume, adversarial: bool, description: str) -> None:
    """Write a volume with its metadata; NRRD and MetaImage carry the notice as a key, PNG as a comment."""
    format = suffix(path)
    stored = np.moveaxis(volume.stored(), 0, -1) if volume.data.shape[0] > 1 else volume.stored()[0]
    spatial = tuple(range(volume.dims))[::-1]
    image = sitk.GetImageFromArray(
        np.ascontiguousarray(stored.transpose(*spatial, *range(volume.dims, stored.ndim))),
        isVector=stored.ndim > volume.dims,
    )
    _place(image, volume)
    notice = ({"notice": ADVERSARIAL_NOTICE} if adversarial else {}) | (
        {"description": description} if description else {}
    )
    if not BY_SUFFIX[format].photograph:
        kept = volume.header.get("metadata", {})
        for key, value in {**(kept if isinstance(kept, dict) else {}), **notice}.items():
            image.SetMetaData(key, str(value))
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(path))
    writer.SetImageIO(BY_SUFFIX[format].itk)
    writer.SetUseCompression(format != ".bmp")
    writer.SetCompressionLevel(COMPRESSION)
    with silence():
        try:
            writer.Execute(image)
        except RuntimeError:
            full = shutil.disk_usage(path.parent).free < volume.data.nbytes
            reason = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) if full else OSError("the writer gave up")
            raise reason from None
    if format == ".png" and notice:
        _comment_png(path, ". ".join(notice.values()))


def require_room(path: Path, format: str, volume: Volume) -> None:
    """Raises InputError if this format can't hold the volume exactly."""
    if (volume.slope, volume.intercept) != (1.0, 0.0):
        raise InputError(f"{path} can't keep the scan's slope and intercept; write .nii.gz.")
    holds = BY_SUFFIX[format].holds
    if holds and (volume.dims != 2 or volume.dtype.name not in holds.split()):
        raise InputError(f"{path} can't hold {volume.dims}D images of {volume.dtype.name}; write .nii.gz or .nrrd.")
    if volume.dtype.name == "float16":
        raise InputError(f"{path} can't hold float16; write it as float32.")


def geometry(path: Path, reader_name: str) -> tuple[tuple[int, ...], np.ndarray] | None:
    """(sizes, ijk -> RAS) of a file as ITK's own reader of that name understands it; None if it can't."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(reader_name)
    with silence():
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            return None
    return reader.GetSize(), affine_of(reader)


def values_of(image: sitk.Image) -> np.ndarray:
    """An image's pixels as "c *s" with spatial axes (i, j, k); ITK's arrays come slice first and channel last."""
    array = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() == 1:
        return array.T[None]
    return np.moveaxis(array, -1, 0).transpose(0, *range(image.GetDimension(), 0, -1))


def affine_of(image: sitk.Image | sitk.ImageFileReader) -> np.ndarray:
    """ijk -> RAS in mm of an ITK image, whose own axes are LPS."""
    return lps_to_ras(image.GetDirection(), image.GetSpacing(), image.GetOrigin())


def lps_to_ras(direction: ArrayLike, spacing: Sequence[float], origin: ArrayLike) -> np.ndarray:
    """ijk -> RAS from ITK's direction cosines, spacing (mm) and origin (mm); the inverse is `_place`."""
    dims = len(spacing)
    affine = np.eye(4)
    affine[:dims, :dims] = np.array(direction).reshape(dims, dims) * np.array(spacing)
    affine[:dims, 3] = origin
    return FLIP @ affine


FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # left, posterior -> right, anterior; its own inverse


def _place(image: sitk.Image, volume: Volume) -> None:
    dims = volume.dims
    affine = FLIP @ volume.affine
    image.SetSpacing(volume.spacing)
    image.SetDirection((affine[:dims, :dims] / np.array(volume.spacing)).ravel().tolist())
    image.SetOrigin(affine[:dims, 3].tolist())


def _require_one_value(path: Path, channels: int, dims: int, remarks: Mapping[str, str]) -> None:
    """Raises InputError for anything but one value per voxel, or red, green and blue of a 2D image."""
    if channels > 1 and any(key.startswith("Segment") for key in remarks):
        raise InputError(
            f"{path} holds {channels} layers of segments that overlap; in Slicer, export the segments as a label map."
        )
    if channels not in (1, 3):
        raise InputError(f"{path} holds {channels} values per voxel, like a time series; save one of them.")
    if channels == 3 and dims == 3:
        raise InputError(f"{path} is a colour or vector volume; save one channel of it.")


def _comment_png(path: Path, text: str) -> None:
    """Put a comment behind the header of a PNG file (RFC 2083, 4.2.7), for which SimpleITK has no way."""
    raw = path.read_bytes()
    body = b"tEXtComment\0" + text.encode("latin-1", "replace")
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    header_end = 8 + 25  # signature, then IHDR
    path.write_bytes(raw[:header_end] + chunk + raw[header_end:])


@contextmanager
def silence() -> Iterator[None]:
    """Keep ITK's C libraries from writing to stderr, where a refusal is one line of ours; one thread at a time."""
    with _one_at_a_time:  # else the thread that comes second would take silence for the stderr to restore
        warned = sitk.ProcessObject.GetGlobalWarningDisplay()
        sitk.ProcessObject.SetGlobalWarningDisplay(False)
        try:
            kept = os.dup(2)
        except OSError:  # no stderr at all, as in a windowed process
            kept = None
        try:
            if kept is not None:
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, 2)
                os.close(null)
            yield
        finally:
            if kept is not None:
                os.dup2(kept, 2)
                os.close(kept)
            sitk.ProcessObject.SetGlobalWarningDisplay(warned)


_one_at_a_time = threading.RLock()
