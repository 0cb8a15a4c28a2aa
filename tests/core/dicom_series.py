"""Write a CT series as DICOM files, one per slice, for the tests that read one."""

from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def write_series(
    folder: Path,
    hu: np.ndarray,
    *,
    position: tuple[float, float, float] = (-12.5, 34.25, -60.0),
    rows_along: tuple[float, float, float] = (1.0, 0.0, 0.0),
    columns_along: tuple[float, float, float] = (0.0, 1.0, 0.0),
    spacing: tuple[float, float, float] = (0.8, 0.7, 2.5),
    slope: float = 1.0,
    intercept: float = -1024.0,
    modality: str = "CT",
    places: list[float] | None = None,
    shear: float = 0.0,
) -> list[Path]:
    """Write `hu` (i, j, k) with LPS positions; `places` are the slices' distances along the normal in mm.

    File names and instance numbers run against the positions, so a reader that trusts them gets the series upside down.
    """
    folder.mkdir(parents=True, exist_ok=True)
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    normal = np.cross(rows_along, columns_along)
    places = [k * spacing[2] for k in range(hu.shape[2])] if places is None else places
    stored = np.rint((hu - intercept) / slope)
    paths = []
    for k, place in enumerate(places):
        path = folder / f"image{len(places) - k:04d}.dcm"
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.FileMetaInformationGroupLength = 0  # filled in on writing
        image = FileDataset(
            str(path), {}, file_meta=meta, preamble=b"\0" * 128, is_implicit_VR=False, is_little_endian=True
        )
        image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame
        image.PatientName, image.PatientID, image.Modality = "Secret^Name", "SECRET-ID", modality
        image.InstanceNumber = len(places) - k
        offset = np.array(position) + place * normal + shear * place * np.array(columns_along)
        image.ImagePositionPatient = [f"{v:.10g}" for v in offset]
        image.ImageOrientationPatient = [f"{v:.10g}" for v in (*rows_along, *columns_along)]
        image.PixelSpacing = [f"{spacing[1]:.10g}", f"{spacing[0]:.10g}"]  # between rows, then between columns
        image.SliceThickness = f"{spacing[2]:.10g}"
        image.RescaleSlope, image.RescaleIntercept = str(slope), str(intercept)
        image.Columns, image.Rows = hu.shape[:2]
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
        image.PixelData = stored[:, :, k].T.astype("<i2").tobytes()
        image.save_as(path)
        paths.append(path)
    return paths
