"""What DICOM files say of themselves: which are images of a scan, which belong together, and which are something else.

Headers are read by pydicom. No message carries anything about the patient.
"""

import os
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from perturbox.types import InputError

DIRECTORY = "1.2.840.10008.1.3.10"
STORAGE = "1.2.840.10008.5.1.4.1.1."
# Objects that may have pixels and yet are no scan, by storage class (PS3.4 B.5) and by modality (PS3.3 C.7.3.1.1.1).
OBJECTS = {
    STORAGE + "481.2": "radiotherapy dose",
    STORAGE + "481.": "radiotherapy plan or structures",
    STORAGE + "66.4": "segmentation",
    STORAGE + "66.7": "segmentation",
    STORAGE + "66.": "registration or surface",
    STORAGE + "30": "parametric map",
    STORAGE + "88.": "report",
    STORAGE + "104.": "document",
    STORAGE + "11.": "presentation state",
    STORAGE + "9.": "waveform",
    STORAGE + "77.1.6": "microscope slide",
}
MODALITIES = {
    "RTDOSE": "radiotherapy dose",
    "RTPLAN": "radiotherapy plan or structures",
    "RTSTRUCT": "radiotherapy plan or structures",
    "SEG": "segmentation",
    "REG": "registration or surface",
    "SR": "report",
    "DOC": "document",
    "PR": "presentation state",
    "KO": "report",
    "SM": "microscope slide",
}
# Images that stand beside a scan; read where there is nothing else.
CAPTURE, SCOUT = "screen capture", "scout view"
MOSAIC_COUNT = 0x0019100A
TAGS = [
    "SOPClassUID", "Modality", "ImageType", "SeriesInstanceUID", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel",
    "BitsAllocated", "BitsStored", "PixelRepresentation", "PhotometricInterpretation", "PixelSpacing",
    "ImagerPixelSpacing", "SliceThickness", "ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope",
    "RescaleIntercept", MOSAIC_COUNT,
]  # fmt: skip
# A single image is never larger; what claims to be is made to fill the memory.
LARGEST_INFLATED = 2**29
MOST_FILES = 20_000


@dataclass(frozen=True, eq=False)
class Image:
    """One DICOM file with a picture in it; kind is empty for a scan's own images."""

    path: Path
    header: Dataset
    storage: str
    kind: str

    @property
    def series(self) -> str:
        return self.text("SeriesInstanceUID")

    def text(self, name: str) -> str:
        value = self._value(name)
        return "" if value is None else str(value).strip()

    def number(self, name: str, default: float) -> float:
        """A numeric element's value, `default` where it is absent or empty; raises InputError for anything else."""
        found = self.numbers(name)
        return found[0] if found else default

    def numbers(self, name: str, count: int = 1) -> tuple[float, ...] | None:
        """`count` numbers, None where the element is absent or empty; raises InputError for anything else."""
        value = self._value(name)
        if value is None or value == "" or (not isinstance(value, int | float) and len(value) == 0):
            return None
        try:
            values = tuple(float(v) for v in ([value] if isinstance(value, int | float | str) else value))
        except (TypeError, ValueError):
            values = ()
        if len(values) != count or not all(abs(v) < float("inf") for v in values):
            raise self._damaged(name)
        return values

    def _value(self, name: str) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return self.header.get(name)
        except Exception:  # pydicom converts values when they are asked for, and tells a bad one in many ways
            raise self._damaged(name) from None

    def _damaged(self, name: str) -> InputError:
        words = "".join(" " + letter.lower() if letter.isupper() else letter for letter in name).strip()
        return InputError(f"{self.path} has a damaged header (its {words} can't be used); export the series again.")


def is_dicom(path: Path) -> bool:
    """Whether a file starts like DICOM: "DICM" after a preamble of 128 bytes, or group 8 where a file has none."""
    with open(path, "rb") as file:
        start = file.read(132)
    bare = start[:2] == b"\x08\x00" and start[2:4] in (b"\x00\x00", b"\x01\x00", b"\x05\x00", b"\x08\x00", b"\x16\x00")
    return start[128:] == b"DICM" or bare


def find(folder: Path) -> tuple[list[Image], list[Path]]:
    """The DICOM images that lie in a folder, and the files that say they are DICOM and can't be read."""
    images, damaged = [], []
    for path in sorted(folder.iterdir()):
        if path.is_file() and is_dicom(path):
            image = inspect(path)
            if image is None:
                damaged.append(path)
            elif _is_picture(image):
                images.append(image)
    return images, damaged


def inspect(path: Path) -> Image | None:
    """What a DICOM file says of itself; None if it can't be understood."""
    try:
        header = _parse(path, TAGS)
        storage = str(header.file_meta.get("MediaStorageSOPClassUID", "") or header.get("SOPClassUID", ""))
        kind = _kind(storage, header)
    except Exception:  # pydicom tells damage in many ways, from struct.error to RecursionError
        return None
    return Image(path, header, storage, kind)


def pixels(path: Path) -> DataElement | None:
    """A file's pixels as it holds them; None if they can't be found whole."""
    try:
        return _parse(path, None)["PixelData"]
    except Exception:
        return None


def storage_class(path: Path) -> str:
    """What kind of object a file says it holds, which a damaged one may still tell: its element (0002,0002)."""
    with open(path, "rb") as file:
        head = file.read(1024)
    at = head.find(b"\x02\x00\x02\x00UI")
    uid = head[at + 8 : at + 8 + int.from_bytes(head[at + 6 : at + 8], "little")] if at > 0 else b""
    return uid.rstrip(b"\0 ").decode("ascii", "replace")


def scans(images: Iterable[Image]) -> dict[str, list[Image]]:
    """The images of scans by series; scout views and screen captures count where there is nothing else."""
    images = [image for image in images if image.kind in ("", CAPTURE, SCOUT)]
    chosen = [image for image in images if not image.kind] or images
    found: dict[str, list[Image]] = {}
    for image in chosen:
        found.setdefault(image.series, []).append(image)
    return found


def left_out(images: Iterable[Image], used: Iterable[Image]) -> tuple[str, ...]:
    """A note about images beside a scan that aren't part of it."""
    kinds = Counter(image.kind for image in set(images) - set(used) if image.kind)
    listing = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return (f"Left out of the scan, because they aren't part of it: {listing}.",) if kinds else ()


def listed(series: Iterable[list[Image]]) -> str:
    """How many images each of several series has: "6 and 4 images"."""
    counts = sorted((len(files) for files in series), reverse=True)
    return ", ".join(map(str, counts[:-1])) + f" and {counts[-1]} images"


def nothing_to_read(folder: Path, images: list[Image]) -> InputError:
    """The refusal for a folder without a scan: it names what is there instead, or the subfolders that hold scans."""
    if images:
        kinds = ", ".join(sorted({image.kind for image in images}))
        return InputError(f"{folder} holds no scan but a {kinds}; give the folder of the CT or MR it was made of.")
    places, more = [], False
    for place in _subfolders(folder):
        for files in scans(find(place)[0]).values():
            if len(places) == 5:
                more = True
                break
            modality = files[0].text("Modality") or "images"
            places.append(f"{place.relative_to(folder)} ({modality}, {len(files)} image{'s' * (len(files) > 1)})")
    if places:
        listing = ", ".join(places) + (", …" if more else "")
        return InputError(f"{folder} holds DICOM series in its subfolders only: {listing}; give one of them.")
    if any(inside.is_file() and is_dicom(inside) for inside in folder.iterdir()):
        return InputError(
            f"{folder} holds DICOM files but no DICOM images (reports, plans or the index of a disc); "
            "give the folder that holds the slices."
        )
    return InputError(f"{folder} holds no DICOM images; give the folder that holds the slices, or one image file.")


def no_scan(image: Image) -> InputError:
    """The refusal for a file that is DICOM but no scan."""
    path = image.path
    if image.kind == DIRECTORY:
        places = [f"{place.relative_to(path.parent)}" for place in _subfolders(path.parent) if scans(find(place)[0])]
        listing = f", here {', '.join(places[:5])}{', …' * (len(places) > 5)}" if places else ""
        return InputError(f"{path} is the index of a disc (DICOMDIR); give the folder of one series{listing}.")
    if image.kind not in ("", CAPTURE, SCOUT):
        return InputError(f"{path} is a {image.kind}, not a scan; give the folder of the CT or MR it was made of.")
    return InputError(
        f"{path} can't be read as a DICOM image (damaged, truncated or no image); export the series again."
    )


def mosaic(image: Image) -> bool:
    """Whether a picture is a Siemens mosaic: the slices of a volume as tiles."""
    return "MOSAIC" in image.text("ImageType").upper() or (image.header.get(MOSAIC_COUNT) is not None)


def _is_picture(image: Image) -> bool:
    return "Rows" in image.header and "Columns" in image.header and image.kind != DIRECTORY


def _kind(storage: str, header: Dataset) -> str:
    if storage == DIRECTORY:
        return DIRECTORY
    for uid, kind in OBJECTS.items():
        if storage == uid or (uid.endswith(".") and storage.startswith(uid)):
            return kind
    if kind := MODALITIES.get(str(header.get("Modality", "")).strip().upper()):
        return kind
    if storage == STORAGE + "7" or storage.startswith(STORAGE + "7."):
        return CAPTURE
    return SCOUT if "LOCALIZER" in str(header.get("ImageType", "")).upper() else ""


def _subfolders(folder: Path) -> list[Path]:
    """The folders below a folder that hold files, in order of name; a tree too large for a study ends the search."""
    found, files = [], 0
    for place, inner, names in os.walk(folder):
        inner.sort()
        files += len(names)
        if names and Path(place) != folder:
            found.append(Path(place))
        if files > MOST_FILES:
            break
    return found


def _parse(path: Path, tags: list | None) -> Dataset:
    """A file's elements, all or these alone; what is deflated grows in memory to a limit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        meta, bare = None, True
        with open(path, "rb") as file:
            bare = file.read(132)[128:] != b"DICM"
        if not bare:
            meta = read_file_meta_info(path)
        if meta is not None and meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            header: Dataset = _inflated(path, meta, tags)
            header.file_meta = meta
            return header
        # Headers of a whole folder come from their files' beginnings; a whole file from memory, where an element that
        # says it is gigabytes long gets what is there.
        source = path if tags is not None else BytesIO(path.read_bytes())
        return pydicom.dcmread(source, stop_before_pixels=tags is not None, specific_tags=tags, force=bare)  # type: ignore[arg-type]


def _inflated(path: Path, meta: Dataset, tags: list | None) -> Dataset:
    raw = path.read_bytes()
    start = 132 + 12 + int(meta.FileMetaInformationGroupLength)  # preamble, then the length of group 2 itself
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    data = stream.decompress(raw[start:], LARGEST_INFLATED)
    if stream.unconsumed_tail:
        raise ValueError("grows beyond any image")
    chosen = None if tags is None else [Tag(tag) for tag in tags]
    return read_dataset(BytesIO(data), is_implicit_VR=False, is_little_endian=True, specific_tags=chosen)
