"""Label maps in the format that a stock client asks for: OHIF reads raw NRRD of 16 bits, Slicer's module NIfTI or NRRD.

The settings are MONAI Label's own: result_extension, result_dtype, result_compress.
"""

import dataclasses
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib import forms
from lib.nrrd import write_nrrd
from perturbox import io
from perturbox.types import InputError

EXTENSIONS = (".nii.gz", ".nii", ".nrrd")
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")


@dataclass(frozen=True)
class Wanted:
    """How a label map is to be sent; None: as it is."""

    extension: str
    dtype: np.dtype | None
    packed: bool


def wanted(request: Mapping[str, Any]) -> Wanted | None:
    """What a request says of its result; None where it says nothing. Raises InputError for what isn't written here."""
    extension, dtype = request.get("result_extension"), request.get("result_dtype")
    packed = forms.switch("result_compress", request.get("result_compress", False))
    if extension in (None, "") and dtype in (None, ""):
        return None
    extension = f".{str(extension or EXTENSIONS[0]).lstrip('.').lower()}"
    if extension not in EXTENSIONS:
        raise InputError(f"'result_extension' must be one of {', '.join(EXTENSIONS)}, not '{extension[:40]}'.")
    if dtype not in (None, "", *DTYPES):
        raise InputError(f"'result_dtype' must be one of {', '.join(DTYPES)}, not '{str(dtype)[:40]}'.")
    return Wanted(extension, np.dtype(dtype) if dtype else None, packed)


def converted(file: str, asked: Wanted | None) -> str:
    """The label map in a file as it is asked for; the first file goes where another takes its place."""
    if asked is None:
        return file
    volume = io.read_volume(file, unit="label", allow_constant=True)
    dtype = asked.dtype or volume.dtype
    largest = float(volume.data.max())
    if dtype.kind in "iu" and largest > np.iinfo(dtype).max:
        raise InputError(f"The label {largest:g} doesn't fit into 'result_dtype' {dtype.name}; ask for uint16.")
    handle, path = tempfile.mkstemp(prefix="perturbox-", suffix=asked.extension)
    with os.fdopen(handle, "wb") as target:
        if asked.extension == ".nrrd":
            write_nrrd(Path(file), target, dtype, asked.packed)
    if asked.extension != ".nrrd":
        io.write_volume(path, dataclasses.replace(volume, dtype=dtype, format=asked.extension), overwrite=True)
    os.unlink(file)
    return path
