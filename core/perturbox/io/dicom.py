"""A DICOM series as one volume: pydicom reads what the headers say, SimpleITK with GDCM decodes the pixels.

Slices are placed by their positions in the patient, never by file name or instance number, and must be evenly spaced.
No message and no header carries anything about the patient.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from perturbox.io import dicom_files
from perturbox.io.checks import RIGHT_ANGLE, Stored, check_spacing
from perturbox.io.dicom_files import Image, is_dicom
from perturbox.io.formats import DICOM
from perturbox.io.itk import lps_to_ras, silence, values_of
from perturbox.types import InputError

__all__ = ["is_dicom", "read_file", "read_folder"]

# How much of the distance between slices one of them may be off: positions are decimal texts, often rounded.
TOLERANCE = 0.02


@dataclass(frozen=True, eq=False)
class Slice:
    """Where one image of a series lies, in LPS: the columns of direction are row, column and normal.

    spacing: mm along a row and along a column, None where the file doesn't say. position: None of a radiograph, a
    picture without a place in the patient. inverted: of an image whose greys run from white to black, the sum of the
    smallest and the largest number it can store.
    """

    path: Path
    modality: str
    size: tuple[int, int]
    spacing: tuple[float, float] | None
    thickness: float
    direction: np.ndarray
    position: np.ndarray | None
    rescale: tuple[float, float]
    inverted: float | None = None


def read_folder(folder: Path) -> Stored:
    """The one scan in a folder; raises InputError if there is none, or several."""
    images, damaged = dicom_files.find(folder)
    series = dicom_files.scans(images)
    if not series:
        if damaged:
            raise _unreadable(damaged[0])
        raise dicom_files.nothing_to_read(folder, images)
    if len(series) > 1:
        raise InputError(
            f"{folder} holds {len(series)} DICOM series ({dicom_files.listed(series.values())}); "
            "put one in a folder of its own, or give one of its files instead of the folder."
        )
    return _read(folder, next(iter(series.values())), images, damaged)


def read_file(path: Path) -> Stored:
    """The series to which one DICOM file belongs, from all its images in the same folder."""
    image = dicom_files.inspect(path)
    if image is None or "Rows" not in image.header or image.kind not in ("", dicom_files.CAPTURE, dicom_files.SCOUT):
        raise _unreadable(path) if image is None else dicom_files.no_scan(image)
    images, damaged = dicom_files.find(path.parent)
    own = [other for other in images if other.series == image.series and other.kind == image.kind]
    return _read(path, own, images, damaged)


def _unreadable(path: Path) -> InputError:
    return InputError(
        f"{path} can't be read as a DICOM image (damaged, truncated or no image); export the series again."
    )


def _read(source: Path, images: list[Image], beside: list[Image], damaged: list[Path]) -> Stored:
    _refuse_damaged(images, beside, damaged)
    slices = _in_order(source, [_slice(image) for image in images])
    with silence():
        try:
            reader = sitk.ImageSeriesReader()
            reader.SetImageIO("GDCMImageIO")
            reader.SetFileNames([str(s.path) for s in slices])
            values = values_of(reader.Execute())
        except RuntimeError:
            raise InputError(f"{source} holds a damaged DICOM image; export the series again.") from None
    first = slices[0]
    if values.shape[0] != 1:
        raise InputError(f"{source} holds colour DICOM images; give a grey series such as CT or MR.")
    if values.shape[1:3] != first.size or values.shape[3:] not in ((), (len(slices),)):
        raise InputError(f"{source} holds a damaged DICOM image; export the series again.")
    if first.position is None:
        values = values.reshape(1, *first.size)
    elif first.inverted is not None:
        values = _upright(values, first.inverted, *first.rescale)
    values, slope, intercept = _as_stored(values, *first.rescale)
    return Stored(
        values=values,
        affine=_affine(slices),
        format=DICOM,
        slope=slope,
        intercept=intercept,
        header={"modality": first.modality},
        geometry="none" if first.spacing is None else "spacing" if first.position is None else "patient",
        notes=dicom_files.left_out(beside, images),
    )


def _refuse_damaged(images: list[Image], beside: list[Image], damaged: list[Path]) -> None:
    """Raises InputError for a neighbour that may be a slice of this series and can't be read."""
    kind = images[0].storage
    for path in damaged:
        if dicom_files.storage_class(path) == kind:
            raise _unreadable(path)
    known = {image.path for image in beside} | set(damaged)
    for path in sorted(images[0].path.parent.iterdir()):
        if path in known or not path.is_file() or not is_dicom(path):
            continue
        if dicom_files.storage_class(path) == kind:  # says that it is an image of this kind, and has no size
            raise _unreadable(path)


def _upright(values: np.ndarray, ends: float, slope: float, intercept: float) -> np.ndarray:
    """What a scan measured, whichever way its greys are shown: GDCM turns MONOCHROME1 around before it rescales."""
    turned = slope * ends + 2 * intercept - values.astype(np.float64)
    return np.rint(turned).astype(np.int64) if values.dtype.kind in "iu" else turned


def _as_stored(values: np.ndarray, slope: float, intercept: float) -> tuple[np.ndarray, float, float]:
    """The numbers of the file itself with their slope and intercept, because they are the steps it can hold.

    GDCM applies both. Where the slope is 1 the values in their unit are whole as well, and need neither.
    """
    if slope != 1 or intercept != round(intercept):
        stored = np.rint((values.astype(np.float64) - intercept) / slope)
        if np.allclose(slope * stored + intercept, values, rtol=1e-6, atol=1e-6 * abs(slope)):
            # In single precision, as dcm2niix does: that is what the header of a NIfTI file holds.
            return _narrow(stored.astype(np.int64)), float(np.float32(slope)), float(np.float32(intercept))
    return _narrow(values), 1.0, 0.0


def _narrow(values: np.ndarray) -> np.ndarray:
    """GDCM widens to hold any stored value's HU; CT's own fit into 16 bits."""
    if values.dtype.kind not in "iu":
        return values
    for dtype in (np.int16, np.int32):
        if values.min() >= np.iinfo(dtype).min and values.max() <= np.iinfo(dtype).max:
            return values.astype(dtype)
    return values


def _slice(image: Image) -> Slice:
    path = image.path
    if dicom_files.mosaic(image):
        raise InputError(
            f"{path} is a Siemens mosaic (the slices of a volume as tiles of one picture); "
            "convert the series to NIfTI with dcm2niix first."
        )
    if image.number("NumberOfFrames", 1) > 1:
        raise InputError(f"{path} is a multi-frame DICOM file; convert it to NIfTI or to single slices first.")
    columns, rows = (int(image.number(name, 0)) for name in ("Columns", "Rows"))
    samples, bits = image.number("SamplesPerPixel", 1), image.number("BitsAllocated", 16)
    if min(columns, rows, samples, bits) < 1:
        raise InputError(f"{path} has a damaged header (it says it holds no pixels); export the series again.")
    if samples != 1:
        raise InputError(f"{path} is a colour DICOM image; give a grey series such as CT or MR.")
    _require_pixels(path, (int(columns * rows * bits) + 7) // 8)
    between = image.numbers("PixelSpacing", 2) or image.numbers("ImagerPixelSpacing", 2)
    cosines, position = image.numbers("ImageOrientationPatient", 6), image.numbers("ImagePositionPatient", 3)
    slope = image.number("RescaleSlope", 1) or 1.0
    ends = -1.0 if image.number("PixelRepresentation", 0) else 2.0 ** image.number("BitsStored", bits) - 1
    return Slice(
        path=path,
        modality=image.text("Modality"),
        size=(columns, rows),
        spacing=None if between is None else (between[1], between[0]),  # between rows comes first in DICOM
        thickness=image.number("SliceThickness", 0),
        direction=np.eye(3) if cosines is None else _direction(path, np.array(cosines).reshape(2, 3)),
        position=None if position is None or cosines is None else np.array(position),
        rescale=(slope, image.number("RescaleIntercept", 0)),
        inverted=ends if image.text("PhotometricInterpretation") == "MONOCHROME1" else None,
    )


def _direction(path: Path, cosines: np.ndarray) -> np.ndarray:
    """Row, column and normal as columns; raises InputError unless the first two are unit vectors at right angles."""
    lengths = np.linalg.norm(cosines, axis=1)
    if np.abs(lengths - 1).max() > 0.01 or abs(cosines[0] @ cosines[1]) > 0.01:
        raise InputError(
            f"{path} has a damaged header (its image orientation isn't two directions at right angles); "
            "export the series again."
        )
    row = cosines[0] / lengths[0]
    normal = np.cross(row, cosines[1])
    normal /= np.linalg.norm(normal)
    return np.stack([row, np.cross(normal, row), normal], axis=1)


def _require_pixels(path: Path, count: int) -> None:
    """Raises InputError unless a file holds all `count` bytes of its pixels, which GDCM doesn't notice; more are
    padding.

    Compressed pixels (of undefined length) are whole if their sequence is closed (DICOM PS3.5 A.4).
    """
    found = dicom_files.pixels(path)
    if found is None or not (found.is_undefined_length or len(found.value) >= count):
        raise InputError(f"{path} lacks pixels (damaged or truncated); export the series again.")


def _in_order(source: Path, slices: list[Slice]) -> list[Slice]:
    """Slices along their common normal; raises InputError unless they make one evenly spaced block."""
    first = slices[0]
    for s in slices:
        check_spacing(s.path, s.spacing or (1.0, 1.0))
    if len(slices) == 1:
        return slices
    if any(s.position is None for s in slices):
        raise InputError(f"{source} holds images without a position in the patient; give a CT or MR series.")
    if first.spacing is None or any(s.spacing is None for s in slices):
        raise InputError(
            f"{source} holds images that don't say how far their pixels are apart; give a CT or MR series."
        )
    alike = all(
        s.size == first.size
        and np.allclose(s.spacing or 0.0, first.spacing, rtol=1e-4)
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
    _require_even(source, np.array([s.position for s in slices]), normal)
    return slices


def _require_even(source: Path, positions: np.ndarray, normal: np.ndarray) -> None:
    gaps = np.diff(positions @ normal)
    typical = float(np.median(gaps))
    if gaps.min() < 1e-3:
        raise InputError(
            f"{source} has several images at the same place, like phases or repeats; give a folder with one of them."
        )
    if np.abs(gaps - typical).max() > TOLERANCE * typical:
        if missing := _missing(gaps, typical):
            raise InputError(
                f"{source} lacks about {missing} slice(s): {len(positions)} images {typical:.3g} mm apart with gaps up "
                f"to {gaps.max():.3g} mm; export the complete series."
            )
        raise InputError(
            f"{source} has slices {gaps.min():.3g} to {gaps.max():.3g} mm apart; "
            "resample the series to even spacing first."
        )
    steps = np.diff(positions, axis=0)
    tilt = np.abs(steps.sum(0) - gaps.sum() * normal).max() / gaps.sum()
    if tilt > RIGHT_ANGLE or np.abs(steps - gaps[:, None] * normal).max() > TOLERANCE * typical:
        raise InputError(
            f"{source} was taken with a tilted gantry, so its slices are sheared; convert it with a tilt correction."
        )


def _missing(gaps: np.ndarray, typical: float) -> int:
    """How many slices lack: some gaps, none beside another, hold a whole number of the ordinary ones. Wide gaps in a
    row are a second slice spacing."""
    wide = gaps > (1 + TOLERANCE) * typical
    times = gaps / typical
    whole = np.abs(times - np.rint(times)) <= 2 * TOLERANCE * times
    if not whole.all() or (times < 0.5).any() or (wide[1:] & wide[:-1]).any():
        return 0
    return int(np.rint(times[wide] - 1).sum())


def _affine(slices: list[Slice]) -> np.ndarray:
    first, last = slices[0], slices[-1]
    spacing = first.spacing or (1.0, 1.0)
    if first.position is None:
        return lps_to_ras(np.eye(2).ravel(), spacing, (0.0, 0.0))
    direction, thickness = first.direction.copy(), first.thickness
    if len(slices) > 1 and last.position is not None:
        step = (last.position - first.position) / (len(slices) - 1)
        thickness = float(np.linalg.norm(step))
        direction[:, 2] = step / thickness
    return lps_to_ras(direction.ravel(), (*spacing, thickness), first.position)
