"""Files in, files out: the only place that reads or writes images.

A file's numbers, type, slope, intercept and place in the patient survive reading and writing exactly; whatever can't be
used is refused here, in one sentence, before anything is computed. A file is written beside its name and moved there
when it is complete, so no half-written output exists, and an existing file is never overwritten unless asked.

Spatial axes are the file's own, fastest first: (i, j, k) is (column, row, slice); a photograph is (width, height).
"""

import shutil
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np

from perturbox.io import dicom, headers, itk, label_maps, nifti
from perturbox.io.channels import apart, digest, sources, stack
from perturbox.io.checks import (
    Stored,
    check_grid,
    check_hu,
    check_values,
    to_volume,
)
from perturbox.io.files import atomic, require_file, require_new, suffix, unreadable
from perturbox.io.formats import BY_SUFFIX, DICOM, FORMATS, PHOTOGRAPHS, WRITABLE
from perturbox.types import InputError, Volume

__all__ = [
    "FORMATS",
    "WRITABLE",
    "check_hu",
    "copy_scan",
    "digest",
    "has_room_for_notice",
    "read_files",
    "read_labels",
    "read_mask",
    "read_scan",
    "read_stored",
    "read_volume",
    "sources",
    "stack",
    "suffix",
    "writable_format",
    "write_labels",
    "write_volume",
]


def read_volume(
    path: str | Path, *, unit: str = "HU", channels: int | None = None, allow_constant: bool = False
) -> Volume:
    """The image in a file, or in a folder of one DICOM series, as "c *s" in its own units on its own grid.

    unit: what the values mean, "HU" for CT; photographs (PNG, JPEG, TIFF, BMP) and DICOM that isn't CT are
    "intensity" instead. channels: 1 or 3 where grey or colour is needed, None for either. allow_constant: accept one
    value everywhere, as in the difference of two scans.
    Raises InputError in one sentence if the file can't be used.
    """
    path = Path(path)
    stored = _read(path)
    check_grid(path, stored)
    check_values(path, stored.values, allow_constant)
    flat = stored.values.ndim == 3
    if channels is not None and stored.values.shape[0] != channels and (channels == 1 or (channels == 3 and flat)):
        raise InputError(
            f"{path} is a colour image where a grey one is needed; convert it to grey first."
            if channels == 1
            else f"{path} is a grey image where a colour (RGB) one is needed; give the colour original."
        )
    if unit == "HU" and (stored.format in PHOTOGRAPHS or stored.header.get("modality", "CT") != "CT"):
        unit = "intensity"
    return to_volume(path, stored, unit)


def read_scan(named: str | Path, *, unit: str = "HU", channels: int | None = None) -> Volume:
    """The scan that is named by a file or DICOM folder, or by several of one channel each (see `channels.sources`).

    channels: how many the model reads, None for any; unit: as in `read_volume`. Raises InputError if a file can't be
    used, their grids differ, or there are more or fewer of them.
    """
    files = sources(named)
    if len(files) != 1:
        if channels not in (None, len(files)):
            raise InputError(
                f"{len(files)} files are given ({files[0].name}, …) and the model reads {channels} "
                f"channel{'s' * (channels != 1)}; give one file for each, in the model's order."
            )
        return read_files(files, unit=unit)
    (path,) = files
    if channels in (None, 1) or suffix(path) not in nifti.SUFFIXES:
        return read_volume(path, unit=unit, channels=channels)
    require_file(path)
    stored = nifti.read(path, several=True)
    if len(stored.values) == 1 or stored.values.ndim == 3:
        return read_volume(path, unit=unit, channels=channels)
    parts = apart(stored)
    for number, part in enumerate(parts):
        check_grid(path, part)
        check_values(Path(f"Channel {number} of {path}"), part.values)
    return stack([f"Channel {c} of {path}" for c in range(len(parts))], [to_volume(path, part, unit) for part in parts])


def read_files(files: Sequence[Path], *, unit: str = "HU", allow_constant: bool = False) -> Volume:
    """The scan in a file, or in several of one channel each, in order; arguments as in `read_volume`."""
    read = [read_volume(file, unit=unit, allow_constant=allow_constant) for file in files]
    return read[0] if len(read) == 1 else stack([str(file) for file in files], read)


def read_stored(path: str | Path) -> Stored:
    """What a file holds, its numbers "c *s" in the file's own type; raises InputError if it can't be used."""
    stored = _read(Path(path))
    check_grid(Path(path), stored)
    return stored


def read_labels(
    path: str | Path, like: Volume, known: set[int] | None = None, notes: list[str] | None = None
) -> np.ndarray:
    """The label map in a file, int32 "*s" on the grid of `like`; `known` are the values it may hold, None for any.

    notes: takes the sentences about the rule by which it was read, where there is a choice. Raises InputError if it
    lies on other voxels or holds fractions, negative values or values not in `known`.
    """
    path = Path(path)
    stored = label_maps.one_channel(path, _read(path))
    check_grid(path, stored)
    check_values(path, stored.values, allow_constant=True)
    volume = to_volume(path, stored, "label")
    said = [f"Label map: {note[:1].lower()}{note[1:]}" for note in volume.notes]
    volume = label_maps.on_grid(path, volume, like, said)
    found = label_maps.whole_numbers(path, volume, known, said)
    if notes is not None:
        notes += said
    return found


def read_mask(path: str | Path, like: Volume, notes: list[str] | None = None) -> np.ndarray:
    """The region a label map outlines (values above 0), bool "*s"; raises InputError as `read_labels`, or if empty."""
    mask = read_labels(path, like, notes=notes) > 0
    if not mask.any():
        raise InputError(f"{path} outlines nothing; draw the region with a value above zero.")
    return mask


def write_volume(
    path: str | Path, volume: Volume, *, adversarial: bool = False, description: str = "", overwrite: bool = False
) -> None:
    """Write exactly the volume's stored values, type, slope, intercept and affine, in the format of the path's suffix.

    adversarial: put ADVERSARIAL_NOTICE into the file where its format has room (`has_room_for_notice`); elsewhere the
    name must say it. Raises InputError if the path exists (unless `overwrite`) or can't hold the volume.
    """
    path = Path(path)
    format = suffix(path)
    if format not in WRITABLE:
        raise InputError(
            f"{path} is in a format that isn't written here; name it {', '.join(WRITABLE[:-1])} or {WRITABLE[-1]}."
        )
    if not np.isfinite(volume.data).all():
        raise InputError(f"{path} isn't written, for its values aren't all finite; compute them again.")
    require_new(path, overwrite)
    writer = _module(BY_SUFFIX[format].writer)
    if writer is itk:
        itk.require_room(path, format, volume)
    with atomic(path) as temporary:
        writer.write(temporary, volume, adversarial, description)


def write_labels(
    path: str | Path, labels: np.ndarray, like: Volume, names: dict[str, int] | None = None, *, overwrite: bool = False
) -> None:
    """Write a label map "*s" as NIfTI (uint8, uint16 if need be) with the affine of `like` and the structures' names.

    Raises InputError if the path exists (unless `overwrite`) or can't be written.
    """
    path = Path(path)
    if suffix(path) not in nifti.SUFFIXES:
        raise InputError(f"{path} can't hold a label map here; name it .nii.gz.")
    volume = Volume(
        data=labels[None],
        affine=like.affine,
        unit="label",
        dtype=np.min_scalar_type(int(labels.max())),
        format=suffix(path),
        header=nifti.geometry_only(like.header),
    )
    require_new(path, overwrite)
    listing = "labels: " + ", ".join(f"{name}={value}" for name, value in names.items()) if names else ""
    with atomic(path) as temporary:
        nifti.write(temporary, volume, adversarial=False, description=listing)


def copy_scan(source: Path, target: Path) -> Path:
    """Copy a scan's file, with the voxels that a detached header has beside it in one file; where the copy is.

    Raises InputError for a header that can't be followed.
    """
    if suffix(source) not in headers.SUFFIXES or not (header := headers.read(source)).detached:
        shutil.copyfile(source, target)
        return target
    target = target.with_suffix(".nrrd" if suffix(source) in (".nrrd", ".nhdr") else ".mha")
    headers.write_whole(header, target)
    return target


def writable_format(volume: Volume) -> str:
    """The suffix under which to write this volume: its own, or that of the nearest format in one lossless file."""
    if volume.format == DICOM:
        # NIfTI holds slope and intercept beside the stored numbers.
        return ".nrrd" if (volume.slope, volume.intercept) == (1.0, 0.0) else ".nii.gz"
    known = BY_SUFFIX.get(volume.format)
    return known.nearest if known and known.nearest else volume.format


def has_room_for_notice(format: str) -> bool:
    """Whether such a file carries ADVERSARIAL_NOTICE inside; TIFF and BMP don't, so their name must say it."""
    return format in BY_SUFFIX and BY_SUFFIX[format].notice


def _module(name: str) -> ModuleType:
    """A module of this package that reads or writes a format."""
    return import_module(f"{__name__}.{name}")


def _read(path: Path) -> Stored:
    try:
        return _read_as(path, suffix(path))
    except OSError as error:
        raise unreadable(path, error) from None


def _read_as(path: Path, format: str) -> Stored:
    if path.is_dir():
        return dicom.read_folder(path)
    require_file(path)
    if format in BY_SUFFIX:
        return _module(BY_SUFFIX[format].reader).read(path)
    if dicom.is_dicom(path):
        return dicom.read_file(path)
    raise InputError(
        f"{path} has no suffix that is known here; give a DICOM folder or one of {', '.join(FORMATS)}."
        if format != ".dcm"
        else f"{path} isn't a DICOM file; export it again."
    )
