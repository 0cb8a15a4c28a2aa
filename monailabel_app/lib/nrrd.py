"""Volumes as NRRD, for viewers that read no other format, or that one fastest."""

import gzip
from pathlib import Path
from typing import IO

import numpy as np

from perturbox import io
from perturbox.io import formats
from perturbox.types import ADVERSARIAL_NOTICE, InputError, Volume

CONVERTIBLE = formats.VOLUMES
NRRD_TYPES = {"float32": "float", "float64": "double"}
COMPRESSION = 3


def write_nrrd(source: Path, target: IO[bytes], dtype: np.dtype | None = None, packed: bool = False) -> None:
    """Write an image file as NRRD, raw (which Slicer reads fastest and OHIF alone) or `packed` with gzip: same numbers
    and place; notice and labels as keys. dtype: of another size for the same numbers.

    Raises InputError for files that hold no volume.
    """
    if io.suffix(source) not in CONVERTIBLE:
        raise InputError(f"'{source.name}' is not a volume; leave out format to get it as it is.")
    volume = io.read_volume(source, allow_constant=True)
    plain = (volume.slope, volume.intercept) == (1.0, 0.0)
    voxels = volume.stored() if plain else volume.data
    voxels = voxels[0] if len(voxels) == 1 else voxels
    voxels = voxels[..., None] if volume.dims == 2 else voxels  # a picture is a volume of one slice
    dtype = (dtype or voxels.dtype).newbyteorder("<")
    target.write(_nrrd_header(volume, voxels, dtype, packed).encode("ascii", "replace"))
    squeezed = gzip.GzipFile("", "wb", COMPRESSION, target, mtime=0) if packed else target
    for part in np.moveaxis(voxels, -1, 0):  # slice by slice, so that no second volume is held
        squeezed.write(part.astype(dtype, copy=False).tobytes(order="F"))
    if packed:
        squeezed.close()


def _nrrd_header(volume: Volume, voxels: np.ndarray, dtype: np.dtype, packed: bool) -> str:
    channel = voxels.ndim - 3
    columns = [f"({','.join(repr(float(v)) for v in volume.affine[:3, axis])})" for axis in range(3)]
    lines = [
        "NRRD0005",
        f"type: {NRRD_TYPES.get(dtype.name, dtype.name)}",
        f"dimension: {voxels.ndim}",
        "space: right-anterior-superior",
        f"sizes: {' '.join(map(str, voxels.shape))}",
        f"space directions: {' '.join(['none'] * channel + columns)}",
        f"kinds: {' '.join(['vector'] * channel + ['domain'] * 3)}",
        "endian: little",
        f"encoding: {'gzip' if packed else 'raw'}",
        f"space origin: ({','.join(repr(float(v)) for v in volume.affine[:3, 3])})",
        *(f"{key}:={text}" for key, text in _remarks(volume).items()),
    ]
    return "\n".join(lines) + "\n\n"


def _remarks(volume: Volume) -> dict[str, str]:
    """What a file says of itself beyond its voxels: the notice of a perturbed scan, the names of labels."""
    metadata = volume.header.get("metadata")
    said = list(metadata.values()) if isinstance(metadata, dict) else []
    header = volume.header.get("nifti")
    for extension in getattr(header, "extensions", ()):
        content = extension.get_content()
        said += (content.decode("utf-8", "replace") if isinstance(content, bytes) else str(content)).splitlines()
    labels = [line.strip("\0 ") for line in said if str(line).startswith("labels: ")]
    notice = {"notice": ADVERSARIAL_NOTICE} if any(ADVERSARIAL_NOTICE in str(line) for line in said) else {}
    return notice | ({"description": labels[0]} if labels else {})
