"""The one table of file formats: what reads and writes each, what it can hold, how others may treat it.

A new format is a row here and, unless ITK reads it, a module beside this one that has `read` (and `write`).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """A file format, by the suffix of its names.

    reader, writer: the module of this package; writer "" where it isn't written here, for it loses something or is two
    files: `nearest` is then written instead. itk: ITK's own reader and writer, where those do the work. photograph: its
    pixels have no size. holds: the types it can hold, "" for any; those that hold few are 2D. notice: whether
    ADVERSARIAL_NOTICE has room in it. whole: whether header and voxels are one file. lossy: it doesn't keep values.
    media: its media type. packed: whether packing it again gains nothing.
    """

    suffix: str
    reader: str
    writer: str = ""
    nearest: str = ""
    itk: str = ""
    photograph: bool = False
    holds: str = ""
    notice: bool = False
    whole: bool = True
    lossy: bool = False
    media: str = "application/octet-stream"
    packed: bool = False


_TIFF = "uint8 int8 uint16 int16 uint32 int32 float32"
# The reader is named, not guessed: a text file called .png is then refused as what it claims to be.
TABLE = (
    Format(".nii.gz", "nifti", "nifti", notice=True, media="application/gzip", packed=True),
    Format(".nii", "nifti", "nifti", notice=True),
    Format(".nrrd", "itk", "itk", itk="NrrdImageIO", notice=True),
    Format(".nhdr", "itk", nearest=".nrrd", itk="NrrdImageIO", whole=False),
    Format(".mha", "itk", "itk", itk="MetaImageIO", notice=True),
    Format(".mhd", "itk", nearest=".mha", itk="MetaImageIO", whole=False),
    Format(".png", "pictures", "itk", itk="PNGImageIO", photograph=True, holds="uint8 uint16", notice=True,
           media="image/png", packed=True),
    Format(".jpg", "pictures", nearest=".png", itk="JPEGImageIO", photograph=True, lossy=True, media="image/jpeg",
           packed=True),
    Format(".jpeg", "pictures", nearest=".png", itk="JPEGImageIO", photograph=True, lossy=True, media="image/jpeg",
           packed=True),
    Format(".tif", "pictures", "itk", itk="TIFFImageIO", photograph=True, holds=_TIFF, media="image/tiff"),
    Format(".tiff", "pictures", "itk", itk="TIFFImageIO", photograph=True, holds=_TIFF, media="image/tiff"),
    Format(".bmp", "pictures", "itk", itk="BMPImageIO", photograph=True, holds="uint8", media="image/bmp"),
)  # fmt: skip
DICOM = "dicom"  # a folder of files, or one of any name

BY_SUFFIX = {one.suffix: one for one in TABLE}
FORMATS = tuple(BY_SUFFIX)
NIFTI = tuple(one.suffix for one in TABLE if one.reader == "nifti")
PHOTOGRAPHS = tuple(one.suffix for one in TABLE if one.photograph)
WRITABLE = tuple(one.suffix for one in TABLE if one.writer)
VOLUMES = tuple(one.suffix for one in TABLE if one.writer and not one.photograph)
# What may come from another machine: a header that names another file would be read there.
WHOLE = tuple(one.suffix for one in TABLE if one.whole)
# Label maps and regions: no format that changes values.
MASKS = tuple(one.suffix for one in TABLE if one.whole and not one.lossy)
PACKED = tuple(one.suffix for one in TABLE if one.packed)
MEDIA = {one.suffix: one.media for one in TABLE}
