"""NIfTI-1 and NIfTI-2 in single files (.nii, .nii.gz): the header is kept field by field, the numbers bit by bit."""

import gzip
import logging
import math
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from nibabel.nifti1 import Nifti1Extension, Nifti1Header, data_type_codes
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError

from perturbox.io import itk
from perturbox.io.checks import Stored, check_size, check_spacing
from perturbox.io.files import suffix, truncated, unreadable
from perturbox.io.formats import NIFTI
from perturbox.io.itk import lps_to_ras
from perturbox.types import ADVERSARIAL_NOTICE, InputError, Volume

SUFFIXES = NIFTI
COMMENT = 6  # the extension code of free text
VECTOR, LABEL = 1007, 1002  # intent codes
ALIGNED_ANAT = 2
LARGEST_NIFTI1_AXIS = 32767
COMPRESSION = 3
MOST_BEFORE = 64 * 2**20  # bytes of header and extensions
MOST_TAIL = 16  # MiB
MOST_PACKED = 1032  # bytes that one byte of deflate can hold at most

_silent = logging.getLogger("perturbox.io.nifti")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False


def read(path: Path, several: bool = False) -> Stored:
    """The numbers in a NIfTI file as stored; raises InputError for damaged files, time series and values not real.

    several: take a fourth axis for channels, not for time.
    """
    with _opened(path) as file:
        header = _read_header(path, file)
        shape = _shape(path, header, several)
        dtype = header.get_data_dtype()
        if dtype.kind not in "iuf" or dtype.itemsize > 8:
            kind = data_type_codes.label[int(header["datatype"])]
            raise InputError(
                f"{path} holds {kind} values, one real number per voxel is needed; save one channel or its magnitude."
            )
        values = _read_values(path, file, header, math.prod(shape), dtype)
    channels = shape[4] if len(shape) == 5 else 1
    spatial = shape[: 2 if channels > 1 and shape[2] == 1 else 3]
    slope, intercept = _scaling(path, header)
    affine = _affine(header, len(spatial))
    return Stored(
        values=np.moveaxis(values.reshape(*spatial, channels, order="F"), -1, 0),
        affine=affine,
        format=suffix(path),
        slope=slope,
        intercept=intercept,
        header={"nifti": header},
        geometry="patient" if _oriented(header) else "spacing",
        notes=tuple(_about_geometry(path, header, affine, spatial)),
    )


def write(path: Path, volume: Volume, adversarial: bool, description: str) -> None:
    """Write a volume under the header it was read with, changed only where the volume has changed since.

    adversarial: ADVERSARIAL_NOTICE becomes the description, and a comment extension says it again with `description`.
    """
    header = _header_for(volume)
    comment = "\n".join(([ADVERSARIAL_NOTICE] if adversarial else []) + ([description] if description else []))
    if adversarial:
        header["descrip"] = ADVERSARIAL_NOTICE.encode("ascii")
    # A perturbed file that was read and is written again says so once.
    said = [extension.get_content() for extension in header.extensions if extension.get_code() == COMMENT]
    if comment and comment.encode("utf-8") not in said:
        header.extensions.append(Nifti1Extension(COMMENT, comment.encode("utf-8")))
    header["vox_offset"] = 0  # let the extensions decide
    stored = np.moveaxis(volume.stored(), 0, -1).astype(header.get_data_dtype(), copy=False)
    # No name and no time in the gzip header: equal scans make equal files.
    with open(path, "wb") as raw:
        if suffix(path) == ".nii.gz":
            with gzip.GzipFile("", "wb", COMPRESSION, raw, mtime=0) as file:
                _write_to(cast(BinaryIO, file), header, stored)
        else:
            _write_to(raw, header, stored)


def geometry_only(header: Mapping[str, object]) -> Mapping[str, object]:
    """What a label map keeps of a scan's header: where the voxels are, not its comments, names and display range."""
    source = header.get("nifti")
    if not isinstance(source, Nifti1Header):
        return {}
    kept = type(source)(endianness=source.endianness)
    for name in ("dim", "pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"):
        kept[name] = source[name]
    for name in ("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"):
        kept[name] = source[name]
    kept["intent_code"] = LABEL
    return {"nifti": kept}


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The uncompressed bytes of a file, with every way in which they can be damaged told as an InputError."""
    compressed = suffix(path) == ".nii.gz"
    try:
        with open(path, "rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        if compressed and not zipped:
            raise InputError(
                f"{path} isn't a gzip file although its name ends in .gz; rename it to .nii or export it again."
            )
        if zipped and not compressed:
            raise InputError(f"{path} is a gzip file although its name ends in .nii; rename it to .nii.gz.")
        with gzip.open(path, "rb") if compressed else open(path, "rb") as file:
            yield cast(BinaryIO, file)
            for _ in range(MOST_TAIL):  # to its end, where gzip compares its checksum
                if not file.read(2**20):
                    break
            else:
                raise InputError(f"{path} goes on for more than {MOST_TAIL} MiB after its voxels; export it again.")
    except EOFError:
        raise InputError(f"{path} ends too early (truncated); copy or export it again.") from None
    except (zlib.error, gzip.BadGzipFile):
        raise InputError(f"{path} is damaged (its compressed data don't add up); copy or export it again.") from None
    except OSError as error:
        raise unreadable(path, error) from None


def _read_header(path: Path, file: BinaryIO) -> Nifti1Header:
    start = file.read(348)
    if len(start) >= 8 and start[4:8] in (b"n+2\0", b"ni2\0"):
        kind, pair = Nifti2Header, start[4:8] == b"ni2\0"
    elif len(start) == 348 and start[344:348] in (b"n+1\0", b"ni1\0"):
        kind, pair = Nifti1Header, start[344:348] == b"ni1\0"
    else:
        raise InputError(f"{path} isn't a NIfTI file although it is named like one; export the scan as NIfTI again.")
    if pair:
        raise InputError(f"{path} is one half of a NIfTI pair (.hdr and .img); save the scan as a single .nii.gz file.")
    try:
        # Before nibabel reads what stands between header and voxels, as long as it is said to be.
        bare = kind(start + file.read(kind.sizeof_hdr - len(start)), check=False)
        if not 0 <= int(bare["vox_offset"]) <= MOST_BEFORE:
            raise ValueError
        file.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # oddly sized extensions are read as they are
            header = kind.from_fileobj(file, check=False)
            dims = header.get_data_shape()
            # Checked before nibabel's repair, which takes the absolute value of a negative spacing and 1 for none.
            check_spacing(path, tuple(float(s) for s in header["pixdim"][1 : 1 + min(len(dims), 3)]))
            header.check_fix(logger=_silent, error_level=40)
            units = header.get_xyzt_units()[0]
            header.get_best_affine()
    except InputError:
        raise
    except (HeaderDataError, KeyError, ValueError, OverflowError, MemoryError):
        raise InputError(f"{path} has a damaged NIfTI header; export the scan again.") from None
    if units not in ("mm", "unknown"):
        raise InputError(f"{path} gives its spacing in {units}s; save it in millimetres.")
    return header


def _shape(path: Path, header: Nifti1Header, several: bool) -> tuple[int, ...]:
    """2 or 3 sizes, or 5 (i, j, k, 1, channels) for colour; trailing axes of size 1 don't count."""
    shape = tuple(int(n) for n in header.get_data_shape())
    if len(shape) == 5 and shape[3] == 1 and shape[4] == 3 and min(shape) > 0:
        return shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if several and len(shape) == 4:
        check_size(path, shape[:3])
        return (*shape[:3], 1, shape[3])
    check_size(path, shape)
    return shape


def _read_values(path: Path, file: BinaryIO, header: Nifti1Header, count: int, dtype: np.dtype) -> np.ndarray:
    file.seek(int(header["vox_offset"]))
    packed = MOST_PACKED if suffix(path) == ".nii.gz" else 1
    if count * dtype.itemsize > packed * path.stat().st_size:
        raise truncated(path)
    try:
        values = np.empty(count, dtype)
    except (MemoryError, ValueError):
        size = count * dtype.itemsize / 1e9
        raise InputError(
            f"{path} says it holds {size:.0f} GB, more than fits into memory; crop or resample it."
        ) from None
    wanted, got = values.view(np.uint8), 0
    while got < len(wanted):
        if (more := file.readinto(wanted[got:])) == 0:  # pyright: ignore[reportAttributeAccessIssue]
            raise InputError(f"{path} ends too early (truncated at {got} of {len(wanted)} bytes); copy it again.")
        got += more
    return values.astype(dtype.newbyteorder("="), copy=False)


def _scaling(path: Path, header: Nifti1Header) -> tuple[float, float]:
    try:
        slope, intercept = header.get_slope_inter()
        if np.isinf(header["scl_slope"]):  # which nibabel takes for none
            raise HeaderDataError
    except HeaderDataError:
        raise InputError(f"{path} has a slope or intercept that isn't a number; export the scan again.") from None
    return (1.0, 0.0) if slope is None else (float(slope), float(intercept or 0.0))


def _oriented(header: Nifti1Header) -> bool:
    return int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0


def _affine(header: Nifti1Header, dims: int) -> np.ndarray:
    """sform, else qform, as nibabel reads them; where there is neither, spacing alone with i to the left and j to the
    back, as ITK reads it. A 2D image's third axis stands on the other two."""
    if not _oriented(header):
        return lps_to_ras(np.eye(dims), header.get_zooms()[:dims], np.zeros(dims))
    affine = np.array(header.get_best_affine(), dtype=np.float64)
    if dims == 2:
        normal = np.cross(affine[:3, 0], affine[:3, 1])
        length = np.linalg.norm(normal)
        affine[:3, 2] = normal / length if length > 0 else 0.0
    return affine


def _about_geometry(path: Path, header: Nifti1Header, affine: np.ndarray, shape: tuple[int, ...]) -> Iterator[str]:
    """Which rule was followed where the header doesn't say where the voxels are, or says it twice."""
    if not _oriented(header):
        if len(shape) == 3:
            yield itk.NO_ORIENTATION.format("sform_code = qform_code = 0")
        return
    spacing, apart = np.linalg.norm(affine[:3, : len(shape)], axis=0), np.array(header.get_zooms()[: len(shape)])
    used = "sform" if int(header["sform_code"]) > 0 else "qform"
    if np.abs(spacing - apart).max() > 1e-3 * spacing.max():
        sizes = [" × ".join(f"{length:.4g}" for length in lengths) for lengths in (apart, spacing)]
        yield (
            f"The file's header contradicts itself: voxels of {sizes[0]} mm (pixdim) and of {sizes[1]} mm ({used}); "
            f"the {used} was used, as nibabel does, and SimpleITK and Slicer may place the voxels otherwise."
        )
        return
    other = itk.geometry(path, "NiftiImageIO")
    if other is None or other[0] != shape or len(shape) < 3:
        return
    ends = np.array(np.meshgrid(*((0, n - 1) for n in shape), [1], indexing="ij")).reshape(4, -1)
    away = float(np.linalg.norm(((other[1] - affine) @ ends)[:3], axis=0).max())
    if away > 0.1 * spacing.min():
        yield (
            f"The file's sform and qform place voxels up to {away:.3g} mm apart; the {used} was used, as nibabel does, "
            "and SimpleITK and Slicer use the other."
        )


def _header_for(volume: Volume) -> Nifti1Header:
    kept = volume.header.get("nifti")
    if isinstance(kept, Nifti1Header):
        header = kept.copy()
    else:
        header = (Nifti2Header if max(volume.shape) > LARGEST_NIFTI1_AXIS else Nifti1Header)()
        header.set_xyzt_units("mm")
    channels = volume.data.shape[0]
    shape = volume.shape if channels == 1 else (*volume.shape, *(1,) * (4 - volume.dims), channels)
    old = header.get_data_shape()
    if tuple(old[: len(shape)]) != shape or any(n != 1 for n in old[len(shape) :]):
        header.set_data_shape(shape)
        header["intent_code"] = VECTOR if channels > 1 else header["intent_code"]
    if header.get_data_dtype().newbyteorder("=") != volume.dtype.newbyteorder("="):
        header.set_data_dtype(volume.dtype)
    slope, intercept = header.get_slope_inter()
    if (1.0 if slope is None else slope, intercept or 0.0) != (volume.slope, volume.intercept):
        header.set_slope_inter(volume.slope, volume.intercept)
    if not isinstance(kept, Nifti1Header) or not np.array_equal(_affine(header, volume.dims), volume.affine):
        _place(header, volume)
    return header


def _place(header: Nifti1Header, volume: Volume) -> None:
    """Write the affine as sform and, where its axes are at right angles, as qform for readers that prefer that one."""
    header.set_zooms((*volume.spacing, *(1.0,) * (len(header.get_data_shape()) - volume.dims)))
    header.set_sform(volume.affine, code=ALIGNED_ANAT)
    axes = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    if np.allclose(axes.T @ axes, np.eye(3), atol=1e-5):
        header.set_qform(volume.affine, code=ALIGNED_ANAT)
    else:
        header["qform_code"] = 0


def _write_to(file: BinaryIO, header: Nifti1Header, stored: np.ndarray) -> None:
    header.write_to(file)
    position = file.tell()
    file.write(b"\0" * (int(header["vox_offset"]) - position))
    file.write(stored.tobytes(order="F"))
