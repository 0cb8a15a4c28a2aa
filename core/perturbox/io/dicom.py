"""A DICOM series as one volume through SimpleITK and GDCM, which apply the rescale slope and intercept.

Slices are placed by their positions in the patient, never by file name or instance number, and must be evenly spaced.
No message and no header carries anything about the patient.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk

from perturbox.io.checks import Stored, check_spacing
from perturbox.io.files import DICOM
from perturbox.io.itk import lps_to_ras, silence, values_of
from perturbox.types import InputError

MODALITY, FRAMES = "0008|0060", "0028|0008"
POSITION, THICKNESS, SLOPE, INTERCEPT = "0020|0032", "0018|0050", "0028|1053", "0028|1052"
BITS, SAMPLES = "0028|0100", "0028|0002"
# How much of the distance between slices one of them may be off: positions are decimal texts, often rounded.
TOLERANCE = 0.02


@dataclass(frozen=True, eq=False)
class Slice:
    """Where one image of a series lies, in ITK's LPS: the columns of direction are row, column and normal."""

    path: Path
    modality: str
    frames: int
    size: tuple[int, ...]
    spacing: tuple[float, ...]
    direction: np.ndarray
    position: np.ndarray | None
    rescale: tuple[float, float]


def is_dicom(path: Path) -> bool:
    """Whether a file starts like DICOM: "DICM" after a preamble of 128 bytes."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_folder(folder: Path) -> Stored:
    """The one series in a folder; raises InputError if there is none, or several."""
    series = _series(folder)
    if not series:
        raise InputError(f"{folder} holds no DICOM images; give the folder that holds the slices, or one image file.")
    if len(series) > 1:
        counts = sorted((len(files) for files in series.values()), reverse=True)
        listing = ", ".join(map(str, counts[:-1])) + f" and {counts[-1]}"
        raise InputError(
            f"{folder} holds {len(series)} DICOM series ({listing} images); "
            "put one in a folder of its own, or give one of its files instead of the folder."
        )
    return _read(folder, next(iter(series.values())), series)


def read_file(path: Path) -> Stored:
    """The series to which one DICOM file belongs, from all its images in the same folder."""
    series = _series(path.parent)
    for files in series.values():
        if path.absolute() in (file.absolute() for file in files):
            return _read(path, files, series)
    raise InputError(f"{path} can't be read as a DICOM image (damaged, truncated or no image); export it again.")


def _series(folder: Path) -> dict[str, list[Path]]:
    """The image files of each series in a folder, in no order."""
    with silence():
        find = sitk.ImageSeriesReader.GetGDCMSeriesFileNames
        uids = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        return {uid: [Path(name) for name in find(str(folder), uid)] for uid in uids}


def _read(source: Path, paths: list[Path], series: dict[str, list[Path]]) -> Stored:
    with silence():
        slices = [_inspect(path, lone=len(paths) == 1) for path in paths]
    _refuse_damaged(paths[0], {path.name for files in series.values() for path in files})
    slices = _in_order(source, slices)
    with silence():
        try:
            reader = sitk.ImageSeriesReader()
            reader.SetImageIO("GDCMImageIO")
            reader.SetFileNames([str(s.path) for s in slices])
            values = values_of(reader.Execute())
        except RuntimeError:
            raise InputError(f"{source} holds a damaged DICOM image; export the series again.") from None
    if values.shape[0] != 1:
        raise InputError(f"{source} holds colour DICOM images; give a grey series such as CT or MR.")
    if slices[0].position is None:  # a radiograph: a picture without a place in the patient
        values = values[..., 0]
    if values.dtype.kind in "iu" and values.min() >= -(2**15) and values.max() < 2**15:
        values = values.astype(np.int16)  # GDCM widens to hold any stored value's HU; CT's own fit
    return Stored(
        values=values,
        affine=_affine(slices),
        format=DICOM,
        header={"modality": slices[0].modality},
    )


def _refuse_damaged(image: Path, listed: set[str]) -> None:
    """Raises InputError for a neighbour of the same kind that GDCM left out of every series, for it can't be read."""
    kind = _storage_class(image)
    for path in sorted(image.parent.iterdir()):
        if path.name not in listed and path.is_file() and is_dicom(path) and _storage_class(path) == kind:
            raise InputError(f"{path} can't be read as a DICOM image (damaged or truncated); export the series again.")


def _storage_class(path: Path) -> bytes:
    """What kind of object a DICOM file says it holds: its element (0002,0002), always in explicit little endian."""
    with open(path, "rb") as file:
        head = file.read(1024)
    at = head.find(b"\x02\x00\x02\x00UI")
    return head[at + 8 : at + 8 + int.from_bytes(head[at + 6 : at + 8], "little")].rstrip(b"\0") if at > 0 else b""


def _inspect(path: Path, lone: bool) -> Slice:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("GDCMImageIO")
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        raise InputError(
            f"{path} can't be read as a DICOM image (damaged or no image); export the series again."
        ) from None

    def tag(key: str, default: str) -> str:
        return reader.GetMetaData(key).strip() if reader.HasMetaDataKey(key) else default

    columns, rows, *_ = reader.GetSize()
    frames = int(tag(FRAMES, "1") or 1)
    _require_pixels(path, columns * rows * frames * int(tag(SAMPLES, "1")) * int(tag(BITS, "16")) // 8)
    spacing = reader.GetSpacing()
    if lone:  # nothing to measure the distance to, for which GDCM says 1 mm
        spacing = (*spacing[:2], float(tag(THICKNESS, "0") or 0))
    return Slice(
        path=path,
        modality=tag(MODALITY, ""),
        frames=frames,
        size=(columns, rows),
        spacing=spacing,
        direction=np.array(reader.GetDirection()).reshape(3, 3),
        position=np.array(reader.GetOrigin()) if reader.HasMetaDataKey(POSITION) else None,
        rescale=(float(tag(SLOPE, "1") or 1), float(tag(INTERCEPT, "0") or 0)),
    )


def _require_pixels(path: Path, count: int) -> None:
    """Raises InputError unless a file holds all `count` bytes of its pixels, which GDCM doesn't notice.

    Compressed pixels (of undefined length) must be closed by a sequence delimiter (DICOM PS3.5 A.4).
    """
    raw = path.read_bytes()
    at = -1
    tags: tuple[tuple[Literal["little", "big"], bytes], ...] = (
        ("little", b"\xe0\x7f\x10\x00"),
        ("big", b"\x7f\xe0\x00\x10"),
    )
    for order, tag in tags:
        while (at := raw.find(tag, at + 1)) >= 0:  # icons and private data may hold the tag too
            start = at + (12 if raw[at + 4 : at + 6] in (b"OW", b"OB") else 8)
            length = int.from_bytes(raw[start - 4 : start], order)
            if length == 0xFFFFFFFF and raw.find(b"\xfe\xff\xdd\xe0", start) > 0:
                return
            if length in (count, count + 1) and start + length <= len(raw):
                return
    raise InputError(f"{path} lacks pixels (damaged or truncated); export the series again.")


def _in_order(source: Path, slices: list[Slice]) -> list[Slice]:
    """Slices along their common normal; raises InputError unless they make one evenly spaced block."""
    first = slices[0]
    if any(s.frames > 1 for s in slices):
        raise InputError(f"{source} is a multi-frame DICOM file; convert it to NIfTI or to single slices first.")
    for s in slices:
        check_spacing(s.path, s.spacing[:2])
    if len(slices) == 1:
        return slices
    if any(s.position is None for s in slices):
        raise InputError(f"{source} holds images without a position in the patient; give a CT or MR series.")
    alike = all(
        s.size == first.size
        and np.allclose(s.spacing[:2], first.spacing[:2], rtol=1e-4)
        and np.allclose(s.direction, first.direction, atol=1e-4)
        for s in slices
    )
    if not alike:
        raise InputError(
            f"{source} mixes images of several sizes, spacings or directions; give a folder with one block of slices."
        )
    if any(s.rescale != first.rescale for s in slices):
        raise InputError(
            f"{source} has slices with different rescale slopes or intercepts; convert the series to NIfTI first."
        )
    normal = first.direction[:, 2]
    slices = sorted(slices, key=lambda s: float(s.position @ normal))
    positions = np.array([s.position for s in slices])
    gaps = np.diff(positions @ normal)
    typical = float(np.median(gaps))
    if gaps.min() < 1e-3:
        raise InputError(
            f"{source} has several images at the same place, like phases or repeats; give a folder with one of them."
        )
    if gaps.max() > 1.5 * typical:
        missing = int(np.rint(gaps[gaps > 1.5 * typical] / typical - 1).sum())
        raise InputError(
            f"{source} lacks about {missing} slice(s): {len(slices)} images {typical:.3g} mm apart with gaps up to "
            f"{gaps.max():.3g} mm; export the complete series."
        )
    if np.abs(gaps - typical).max() > TOLERANCE * typical:
        raise InputError(
            f"{source} has slices {gaps.min():.3g} to {gaps.max():.3g} mm apart; "
            "resample the series to even spacing first."
        )
    steps = np.diff(positions, axis=0)
    if np.abs(steps - gaps[:, None] * normal).max() > TOLERANCE * typical:
        raise InputError(
            f"{source} was taken with a tilted gantry, so its slices are sheared; convert it with a tilt correction."
        )
    return slices


def _affine(slices: list[Slice]) -> np.ndarray:
    first, last = slices[0], slices[-1]
    if first.position is None:
        return lps_to_ras(np.eye(2).ravel(), first.spacing[:2], (0.0, 0.0))
    direction, thickness = first.direction.copy(), first.spacing[2]
    if len(slices) > 1:
        step = (last.position - first.position) / (len(slices) - 1)
        thickness = float(np.linalg.norm(step))
        direction[:, 2] = step / thickness
    return lps_to_ras(direction.ravel(), (*first.spacing[:2], thickness), first.position)
