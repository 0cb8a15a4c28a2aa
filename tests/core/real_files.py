"""Files as scanners, planning systems and other programs leave them: each maker writes one into a folder.

A small CT with a block of 120 HU, the "organ", in a body of 30 HU with fat around it, on 3 × 3 × 5 mm voxels.
"""

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from dicom_series import write_series
from pydicom.uid import generate_uid

SHAPE = (24, 22, 12)
AFFINE = np.array([[3.0, 0, 0, -40], [0, 3, 0, -30], [0, 0, 5, 70], [0, 0, 0, 1]])
ORGAN = np.s_[5:11, 12:17, 4:9]
STORAGE = "1.2.840.10008.5.1.4.1.1."


def organ() -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[ORGAN] = 1
    return mask


def ct() -> np.ndarray:
    i, j, _ = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    radius = np.hypot((i - 11.5) / 11, (j - 10.5) / 10)
    hu = np.where(radius < 0.85, 30.0, np.where(radius < 1, -90.0, -1000.0))
    hu[ORGAN] = 120
    return np.rint(hu + np.random.default_rng(5).normal(0, 8, SHAPE)).astype(np.int16)


def nifti(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE, **fields: object) -> Path:
    """A NIfTI file with these header fields set to just these values."""
    header = nib.Nifti1Header()
    header.set_data_dtype(values.dtype)
    header.set_data_shape(values.shape)
    header.set_zooms(np.linalg.norm(affine[:3, :3], axis=0))
    header.set_sform(affine, 1)
    header["qform_code"], header["vox_offset"], header["magic"] = 0, 352, b"n+1"
    for name, value in fields.items():
        header[name] = value
    raw = header.binaryblock + b"\0" * 4 + values.tobytes(order="F")
    path.write_bytes(gzip.compress(raw, 1) if path.suffix == ".gz" else raw)
    return path


def series(folder: Path, count: int = 6, **options) -> list[Path]:
    """`count` slices of the CT as DICOM, in order of place."""
    return write_series(folder, ct()[:, :, :count].astype(float), spacing=(3.0, 3.0, 5.0), **options)


def edited(paths: list[Path], edit: Callable[[pydicom.FileDataset], None]) -> list[Path]:
    for path in paths:
        image = pydicom.dcmread(path)
        edit(image)
        image.save_as(path)
    return paths


def another(like: Path, path: Path, storage: str, modality: str, edit=lambda image: None) -> Path:
    """An object of another kind made of a slice, in a series of its own."""
    image = pydicom.dcmread(like)
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = storage
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    image.SeriesInstanceUID, image.Modality = generate_uid(), modality
    edit(image)
    image.save_as(path)
    return path


def _dose(image) -> None:
    del image.RescaleSlope, image.RescaleIntercept, image.SliceThickness
    image.BitsAllocated = image.BitsStored = 32
    image.HighBit, image.PixelRepresentation, image.NumberOfFrames = 31, 0, "1"
    image.FrameIncrementPointer, image.GridFrameOffsetVector = pydicom.tag.Tag(0x3004000C), [0.0]
    image.DoseUnits, image.DoseType, image.DoseGridScaling = "GY", "PHYSICAL", "0.001"
    image.PixelData = np.arange(image.Rows * image.Columns, dtype="<u4").tobytes()


def _tiled_segmentation(image) -> None:
    del image.RescaleSlope, image.RescaleIntercept, image.ImagePositionPatient, image.ImageOrientationPatient
    image.NumberOfFrames, image.BitsAllocated, image.BitsStored, image.HighBit = "4", 1, 1, 0
    image.PixelRepresentation, image.SegmentationType, image.TotalPixelMatrixRows = 0, "BINARY", 2 * image.Rows
    image.PixelData = b"\x55" * (image.Rows * image.Columns * 4 // 8 + 1)


def _without_pixels(image) -> None:
    for name in ("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"):
        delattr(image, name)


def _colour(image) -> None:
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PlanarConfiguration = 3, "RGB", 0
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit = 7
    image.PixelData = b"\x40" * (image.Rows * image.Columns * 3)


def _scout(image) -> None:
    image.ImageType, image.ImageOrientationPatient = ["ORIGINAL", "PRIMARY", "LOCALIZER"], [1, 0, 0, 0, 0, -1]


# Name: (storage class, modality, what else differs, how a note calls it; "" for what has no picture).
FOREIGN: dict[str, tuple[str, str, Callable, str]] = {
    "dose": (STORAGE + "481.2", "RTDOSE", _dose, "radiotherapy dose"),
    "dose by its modality alone": (STORAGE + "2", "RTDOSE", _dose, "radiotherapy dose"),
    "tiled segmentation": (STORAGE + "66.4", "SEG", _tiled_segmentation, "segmentation"),
    "segmentation by its class alone": (STORAGE + "66.4", "OT", _tiled_segmentation, "segmentation"),
    "parametric map": (STORAGE + "30", "CT", _tiled_segmentation, "parametric map"),
    "screen capture": (STORAGE + "7", "CT", _colour, "screen capture"),
    "scout view": (STORAGE + "2", "CT", _scout, "scout view"),
    "slide": (STORAGE + "77.1.6", "SM", _colour, "microscope slide"),
    "structures": (STORAGE + "481.3", "RTSTRUCT", _without_pixels, ""),
    "report": (STORAGE + "88.33", "SR", _without_pixels, ""),
    "presentation state": (STORAGE + "11.1", "PR", _without_pixels, ""),
    "index of a disc": ("1.2.840.10008.1.3.10", "", _without_pixels, ""),
}


def foreign(name: str, like: Path, path: Path) -> Path:
    storage, modality, edit, _ = FOREIGN[name]
    return another(like, path, storage, modality, edit)
