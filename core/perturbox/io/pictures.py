"""PNG, JPEG, TIFF and BMP: pictures, whose pixels have no size, as viewers show them.

Pillow decodes JPEG, as OpenCV does; SimpleITK decodes the others, since Pillow cuts 16-bit colours down to 8. Dots per
inch say how large to print a picture, and are no geometry.
"""

import warnings
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from perturbox.io import claims
from perturbox.io.checks import Stored, check_size
from perturbox.io.files import damaged, suffix
from perturbox.io.formats import BY_SUFFIX
from perturbox.io.itk import FLIP, silence, values_of
from perturbox.types import InputError

ORIENTATION = 0x0112
TIFF_MODES = ("L", "RGB", "I;16", "I", "F")


def read(path: Path) -> Stored:
    """The numbers in a picture, "c width height"; raises InputError for damaged or unusable ones."""
    format = suffix(path)
    claims.check(path, format)
    if format == ".png":
        _refuse_grey_with_alpha(path)
    rows, orientation = _opened(path, format)
    if rows is None:
        values = _by_itk(path, format)
    else:
        values = rows.T[None] if rows.ndim == 2 else rows.transpose(2, 1, 0)
    values = _grey_or_rgb(path, values, format)
    notes = ()
    if orientation in TURNS:
        if format not in (".tif", ".tiff"):  # which Pillow turns itself
            values = np.ascontiguousarray(TURNS[orientation](values.swapaxes(1, 2)).swapaxes(1, 2))
        notes = (f"The picture was turned as its EXIF orientation ({orientation}) says, as viewers do.",)
    return Stored(values=values, affine=FLIP.copy(), format=format, geometry="none", notes=notes)


# How to turn pixels "c height width" so that they lie as seen (EXIF 2.3, 4.6.4).
TURNS = {
    2: lambda rows: rows[:, :, ::-1],
    3: lambda rows: rows[:, ::-1, ::-1],
    4: lambda rows: rows[:, ::-1],
    5: lambda rows: rows.swapaxes(1, 2),
    6: lambda rows: np.rot90(rows, -1, (1, 2)),
    7: lambda rows: rows[:, ::-1, ::-1].swapaxes(1, 2),
    8: lambda rows: np.rot90(rows, 1, (1, 2)),
}


def _opened(path: Path, format: str) -> tuple[np.ndarray | None, int]:
    """(what Pillow decodes, rows first, None of what ITK is to decode; EXIF orientation)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd metadata, and of large pictures, whose size was checked
        try:
            if format in (".tif", ".tiff"):
                return _opened_tiff(path)
            with Image.open(path) as picture:
                orientation = _whole(picture.getexif().get(ORIENTATION))
                if format not in (".jpg", ".jpeg"):
                    return None, orientation
                if picture.format not in ("JPEG", "MPO"):
                    raise damaged(path)
                if picture.mode not in ("L", "RGB"):
                    raise InputError(f"{path} holds {picture.mode} colours, as for printing; save it as RGB.")
                return np.asarray(picture), orientation
        except Image.DecompressionBombError:
            raise InputError(f"{path} has too many pixels to be read; crop it.") from None
        except InputError:
            raise
        except Exception:  # decoders tell damage in many ways, from OSError to SyntaxError
            if format == ".bmp":  # of which Pillow knows fewer kinds; ITK judges
                return None, 1
            raise damaged(path) from None


def _opened_tiff(path: Path) -> tuple[np.ndarray | None, int]:
    """As `_opened`: ITK follows the orientation of some TIFF files, so Pillow decodes those that have one."""
    with open(path, "rb") as file:
        start = file.read(8)
        tags = ImageFileDirectory_v2(start + (file.read(8) if start[2:3] == b"+" or start[3:4] == b"+" else b""))
        file.seek(tags.next)
        tags.load(file)
    orientation = _whole(tags.get(ORIENTATION))
    if orientation not in TURNS:
        return None, 1
    try:
        with Image.open(path) as picture:
            if picture.mode in TIFF_MODES:
                return np.asarray(ImageOps.exif_transpose(picture)), orientation
    except (OSError, SyntaxError):
        pass
    raise InputError(
        f"{path} is to be turned (orientation {orientation}), which isn't done here for its kind of TIFF; "
        "save it upright."
    )


def _whole(orientation: object) -> int:
    return orientation if isinstance(orientation, int) else 1


def _by_itk(path: Path, format: str) -> np.ndarray:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(BY_SUFFIX[format].itk)
    with silence():
        try:
            reader.ReadImageInformation()
            size = reader.GetSize()
            if 0 in size:  # how ITK's PNG reader takes what is no PNG
                raise damaged(path)
            check_size(path, size)
            image = reader.Execute()
        except RuntimeError:
            raise damaged(path) from None
    if image.GetDimension() != 2:
        raise InputError(f"{path} holds several pages; save one page, or the volume as .nii.gz or .nrrd.")
    return values_of(image)


def _grey_or_rgb(path: Path, values: np.ndarray, format: str) -> np.ndarray:
    channels = values.shape[0]
    if channels == 4:
        if (values[-1] != np.iinfo(values.dtype).max).any():
            raise InputError(f"{path} is partly transparent; save it without an alpha channel.")
        values = values[:-1]
    elif channels not in (1, 3):
        raise InputError(f"{path} holds {channels} values per pixel; save one of them, or red, green and blue.")
    # BMP has no grey type, only a grey palette, which comes back as three equal channels.
    if format == ".bmp" and len(values) == 3 and (values == values[0]).all():
        values = values[:1]
    return values


def _refuse_grey_with_alpha(path: Path) -> None:
    """Raises InputError for the one kind of PNG (colour type 4, RFC 2083, 4.1.1) that SimpleITK can't read."""
    with open(path, "rb") as file:
        if file.read(26)[25:] == b"\x04":
            raise InputError(f"{path} is grey with transparency; save it without an alpha channel.")
