"""Headers of NRRD and MetaImage, read strictly here and written again for ITK, which never sees the file itself.

ITK's own readers end lines and split keys by rules of their own and follow a header to any file it names, so a header
that looks harmless to one reader opens another file in the next. Here a header is lines "key: value", "key:=value"
(NRRD) or "key = value" (MetaImage), ended by \\n or \\r\\n, without other control characters than tabs, each key once;
the voxels are in the same file, or in one beside it. ITK is given a header of known fields made of numbers and words,
with no voxels behind it, and answers with the geometry.
"""

import os
import re
from pathlib import Path

from perturbox.io import metaimage, nrrd
from perturbox.io.files import damaged, suffix
from perturbox.io.header_lines import MOST_BYTES, Header, size

__all__ = ["MOST_BYTES", "SUFFIXES", "Header", "read", "require_whole", "size", "write_whole"]

SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
META_START = re.compile(rb"[\s]*[A-Za-z]+[ \t]*[=:]")


def read(path: Path, whole: bool = False) -> Header:
    """The header of a NRRD or MetaImage file. Raises InputError for one that doesn't keep the rules above, and with
    `whole` for one whose voxels lie in another file."""
    with open(path, "rb") as file:
        start = file.read(MOST_BYTES)
    if not start.startswith(b"NRRD") and not META_START.match(start):
        raise damaged(path)
    return (nrrd if suffix(path) in (".nrrd", ".nhdr") else metaimage).read(path, start, whole)


def require_whole(path: Path) -> None:
    """Raises InputError unless the file holds its voxels itself."""
    read(path, whole=True)


def write_whole(header: Header, target: Path) -> None:
    """Write header and voxels into one file, as .nrrd or .mha; the voxels' bytes stay as they are."""
    nrrd = target.suffix == ".nrrd"
    lines = "".join(f"{key}:={value}\n" if nrrd else f"{key} = {value}\n" for key, value in header.remarks.items())
    first, last = (header.text[:-1], "\n") if nrrd else header.text.rsplit("ElementDataFile", 1)
    with open(header.data, "rb") as source, open(target, "wb") as whole:
        whole.write((first + lines + (last if nrrd else f"ElementDataFile{last}")).encode("utf-8"))
        if header.offset is None:
            source.seek(-size(header), os.SEEK_END)
        else:
            source.seek(header.offset)
        while block := source.read(2**20):
            whole.write(block)
