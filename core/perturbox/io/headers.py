"""Headers of NRRD and MetaImage, read strictly here and written anew for ITK, which never sees the file itself.

ITK's own readers end lines and split keys by rules of their own and follow a header to any file it names, so a header
that looks harmless to one reader opens another file in the next. Here a header is lines "key: value", "key:=value"
(NRRD) or "key = value" (MetaImage), ended by \\n or \\r\\n, without other control characters than tabs, each key once;
the voxels are in the same file, or in one beside it. ITK is given a header of known fields made of numbers and words,
with no voxels behind it, and answers with the geometry.
"""

import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perturbox.io.files import damaged, suffix, truncated
from perturbox.types import InputError

SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
MOST_BYTES = 2**20
MOST_AXES = 16
CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
META_START = re.compile(rb"[\s]*[A-Za-z]+[ \t]*[=:]")
WORD = re.compile(r"[A-Za-z0-9?*_-]+", re.ASCII)


@dataclass(frozen=True, eq=False)
class Header:
    """What a header says. text: the same for ITK, without its remarks; remarks: free keys and their values.

    data, offset: where the voxels are, offset None at the end of the file; packing: "raw", "zlib" or "text"; shape:
    of the array, fastest axis first; channel_axis: which of its axes isn't in space.
    """

    path: Path
    text: str
    remarks: Mapping[str, str]
    data: Path
    offset: int | None
    packing: str
    dtype: np.dtype
    shape: tuple[int, ...]
    channel_axis: int | None = None

    @property
    def detached(self) -> bool:
        """Whether the voxels are in another file."""
        return self.data != self.path


def read(path: Path, whole: bool = False) -> Header:
    """The header of a NRRD or MetaImage file. Raises InputError for one that doesn't keep the rules above, and with
    `whole` for one whose voxels lie in another file."""
    with open(path, "rb") as file:
        start = file.read(MOST_BYTES)
    if not start.startswith(b"NRRD") and not META_START.match(start):
        raise damaged(path)
    return (_nrrd if suffix(path) in (".nrrd", ".nhdr") else _metaimage)(path, start, whole)


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


def size(header: Header) -> int:
    """Bytes of the voxels, unpacked."""
    count = header.dtype.itemsize
    for length in header.shape:
        count *= length
    return count


# ---------------------------------------------------------------- lines


def _lines(path: Path, start: bytes, is_last: Callable[[bytes], bool]) -> tuple[list[str], int]:
    """The header's lines without their ends, up to the one that is last or the file's end, and where the data begin."""
    lines: list[str] = []
    at = 0
    while at < len(start):
        end = start.find(b"\n", at)
        if end < 0:
            if len(start) == MOST_BYTES:
                break
            end = len(start)
        line = start[at:end].removesuffix(b"\r")
        if found := CONTROL.search(line):
            raise _bad(path, f"holds the control character 0x{found[0][0]:02x} in line {len(lines) + 1}")
        lines.append(_text(line))
        at = min(end + 1, len(start))
        if is_last(line):
            return lines, at
    if len(start) == MOST_BYTES:
        raise _bad(path, f"is longer than {MOST_BYTES >> 20} MiB")
    return lines, at


def _text(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")


def _put(path: Path, found: dict[str, str], key: str, value: str) -> None:
    if key in found:
        raise _bad(path, f"says '{_short(key)}' twice")
    found[key] = value


def _bad(path: Path, what: str) -> InputError:
    return InputError(f"{path} has a header that {what}; export it again, as .nii.gz if you can.")


def _elsewhere(path: Path) -> InputError:
    return InputError(f"{path} says that its voxels lie in another file; send one whole file.")


def _short(text: str) -> str:
    plain = "".join(letter if letter.isprintable() else "?" for letter in text)
    return plain if len(plain) <= 40 else f"{plain[:39]}…"


def _wrong(path: Path, key: str, value: str) -> InputError:
    return _bad(path, f"gives '{_short(value)}' for '{key}'")


def _whole(path: Path, key: str, value: str) -> int:
    if not re.fullmatch(r"-?\d{1,15}", value, re.ASCII):
        raise _wrong(path, key, value)
    return int(value)


def _sizes(path: Path, key: str, value: str, count: int) -> tuple[int, ...]:
    sizes = tuple(_whole(path, key, word) for word in value.split())
    if len(sizes) != count or min(sizes) < 0:
        raise _wrong(path, key, value)
    return sizes


def _number(path: Path, key: str, word: str) -> str:
    try:
        if "_" in word or not word.isascii():
            raise ValueError
        return repr(float(word))
    except ValueError:
        raise _wrong(path, key, word) from None


def _numbers(path: Path, key: str, value: str) -> str:
    return " ".join(_number(path, key, word) for word in value.split())


def _beside(path: Path, name: str) -> Path:
    """The data file that a header names: an ordinary file in the header's own folder or below it, links followed."""
    if not name or name.split()[0].upper() == "LIST" or "%" in name:
        raise InputError(f"{path} has its voxels in several files; save it as one .nrrd or .mha file.")
    folder = Path(os.path.realpath(path.parent))
    parts = name.replace("\\", "/").split("/")
    data = Path(os.path.realpath(folder / name))
    if name.startswith(("/", "\\")) or ":" in parts[0] or ".." in parts or not data.is_relative_to(folder):
        raise InputError(
            f"{path} says that its voxels lie outside its own folder; put both files into one folder and name it there."
        )
    try:
        ordinary = stat.S_ISREG(data.stat().st_mode)
    except OSError:
        raise InputError(
            f"{path} has its voxels in '{_short(name)}', which isn't beside it; copy both files into one folder."
        ) from None
    if not ordinary:
        raise InputError(f"{path} has its voxels in '{_short(name)}', which is no file; export the scan again.")
    return data


# ---------------------------------------------------------------- NRRD

ALIASES = {
    "centerings": "centers",
    "datafile": "data file",
    "lineskip": "line skip",
    "byteskip": "byte skip",
    "axismins": "axis mins",
    "axismaxs": "axis maxs",
    "oldmin": "old min",
    "oldmax": "old max",
    "blocksize": "block size",
    "sampleunits": "sample units",
}
UNUSED = {"content", "number", "min", "max", "old min", "old max", "sample units", "units", "space units", "labels"}
FIELDS = UNUSED | {
    *("type", "dimension", "space", "space dimension", "sizes", "spacings", "thicknesses", "axis mins", "axis maxs"),
    *("centers", "kinds", "space directions", "space origin", "measurement frame", "endian", "encoding"),
    *("data file", "line skip", "byte skip", "block size"),
}
NRRD_TYPES = {
    name: (dtype, canonical)
    for names, dtype, canonical in (
        ("signed char,int8,int8_t", "i1", "int8"),
        ("uchar,unsigned char,uint8,uint8_t", "u1", "uint8"),
        ("short,short int,signed short,signed short int,int16,int16_t", "i2", "int16"),
        ("ushort,unsigned short,unsigned short int,uint16,uint16_t", "u2", "uint16"),
        ("int,signed int,int32,int32_t", "i4", "int32"),
        ("uint,unsigned int,uint32,uint32_t", "u4", "uint32"),
        ("longlong,long long,long long int,signed long long,signed long long int,int64,int64_t", "i8", "int64"),
        ("ulonglong,unsigned long long,unsigned long long int,uint64,uint64_t", "u8", "uint64"),
        ("float", "f4", "float"),
        ("double", "f8", "double"),
    )
    for name in names.split(",")
}
NRRD_PACKINGS = {
    "raw": "raw",
    "gzip": "zlib",
    "gz": "zlib",
    "text": "text",
    "txt": "text",
    "ascii": "text",
}
IN_SPACE = ("domain", "space", "time")
DATA_FILE = re.compile(r"data ?file:(?!=)", re.IGNORECASE)
VECTOR = re.compile(r"\s*(none|\([^()]*\))\s*")


def _nrrd(path: Path, start: bytes, whole: bool) -> Header:
    if not re.match(rb"NRRD000[1-5]\r?\n", start):
        raise damaged(path)
    lines, end = _lines(path, start, lambda line: line == b"")
    attached = not any(DATA_FILE.match(line) for line in lines)
    if whole and not attached:
        raise _elsewhere(path)
    if attached and lines[-1]:
        raise truncated(path)
    fields, remarks = _nrrd_lines(path, lines[1:])
    for key in ("type", "dimension", "sizes", "encoding"):
        if key not in fields:
            raise _bad(path, f"lacks '{key}'")
    if fields["type"].lower() not in NRRD_TYPES:
        raise _wrong(path, "type", fields["type"])
    dtype, canonical = NRRD_TYPES[fields["type"].lower()]
    axes = _whole(path, "dimension", fields["dimension"])
    if not 1 <= axes <= MOST_AXES:
        raise _wrong(path, "dimension", fields["dimension"])
    shape = _sizes(path, "sizes", fields["sizes"], axes)
    packing = NRRD_PACKINGS.get(fields["encoding"].lower())
    if packing is None:
        raise InputError(f"{path} is packed as '{_short(fields['encoding'])}'; save it raw or with gzip.")
    order = fields.get("endian", "").lower()
    if order not in ("little", "big") and (order or (packing != "text" and dtype[1] != "1")):
        raise _wrong(path, "endian", order)
    geometry, channel_axis = _nrrd_geometry(path, fields, axes)
    text = [f"NRRD0005\ntype: {canonical}\ndimension: {axes}"]
    text += [f"{key}: {value}" for key, value in geometry.items() if key.startswith("space") and " " not in key]
    text += [f"space dimension: {geometry['space dimension']}"] if "space dimension" in geometry else []
    text += [f"sizes: {' '.join(map(str, shape))}"]
    text += [f"{key}: {value}" for key, value in geometry.items() if key not in ("space", "space dimension")]
    text += [f"endian: {order or 'little'}", f"encoding: {fields['encoding'].lower()}", "", ""]
    if "content" in fields:
        remarks["NRRD_content"] = fields["content"]
    return Header(
        path=path,
        text="\n".join(text),
        remarks=remarks,
        data=path if attached else _beside(path, fields["data file"]),
        offset=_nrrd_offset(path, fields, end if attached else 0, packing),
        packing=packing,
        dtype=np.dtype(dtype).newbyteorder(">" if order == "big" else "<"),
        shape=shape,
        channel_axis=channel_axis,
    )


def _nrrd_lines(path: Path, lines: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """(fields by their canonical names, free keys); comments don't count."""
    fields: dict[str, str] = {}
    remarks: dict[str, str] = {}
    for line in lines:
        if not line or line.startswith("#"):
            continue
        colon = line.find(":")
        key, mark = line[:colon], line[colon : colon + 2]
        if colon < 1 or mark not in (": ", ":=", ":\t", ":"):
            raise _bad(path, f"holds the line '{_short(line)}', which is neither 'key: value' nor 'key:=value'")
        value = line[colon + 2 :]
        if mark == ":=":
            _put(path, remarks, key, value)
            continue
        name = ALIASES.get(key.lower(), key.lower())
        if name not in FIELDS:
            raise _bad(path, f"holds the field '{_short(key)}', which NRRD doesn't have")
        _put(path, fields, name, value.strip(" \t"))
    return fields, remarks


def _nrrd_geometry(path: Path, fields: Mapping[str, str], axes: int) -> tuple[dict[str, str], int | None]:
    """The fields that place the voxels, rewritten, and the axis that isn't in space."""
    said: dict[str, str] = {}
    outside: set[int] = set()
    if "space" in fields and "space dimension" in fields:
        raise _bad(path, "gives both 'space' and 'space dimension'")
    if "space" in fields:
        if not WORD.fullmatch(fields["space"]):
            raise _wrong(path, "space", fields["space"])
        said["space"] = fields["space"]
    if "space dimension" in fields:
        said["space dimension"] = str(_whole(path, "space dimension", fields["space dimension"]))
    for key in ("spacings", "thicknesses", "axis mins", "axis maxs"):
        if key in fields:
            said[key] = _numbers(path, key, fields[key])
    for key in ("centers", "kinds"):
        if key in fields:
            words = fields[key].split()
            if len(words) != axes or not all(map(WORD.fullmatch, words)):
                raise _wrong(path, key, fields[key])
            said[key] = " ".join(words)
            if key == "kinds":
                ours = (*IN_SPACE, "none", "???")
                outside |= {axis for axis, word in enumerate(words) if word.lower() not in ours}
    for key in ("space directions", "space origin", "measurement frame"):
        if key in fields:
            vectors = _vectors(path, key, fields[key])
            if key == "space directions":
                outside |= {axis for axis, vector in enumerate(vectors) if vector == "none"}
            said[key] = " ".join(vectors)
    if len(outside) > 1:
        raise InputError(f"{path} has {len(outside)} axes that aren't in space, like a time series; save one volume.")
    return said, next(iter(outside), None)


def _vectors(path: Path, key: str, value: str) -> list[str]:
    vectors, at = [], 0
    while at < len(value):
        found = VECTOR.match(value, at)
        if found is None:
            raise _wrong(path, key, value)
        word, at = found[1], found.end()
        if word != "none":
            word = "(" + ",".join(_number(path, key, part.strip()) for part in word[1:-1].split(",")) + ")"
        vectors.append(word)
    return vectors


def _nrrd_offset(path: Path, fields: Mapping[str, str], end: int, packing: str) -> int | None:
    if _whole(path, "line skip", fields.get("line skip", "0")) != 0:
        raise InputError(f"{path} skips lines before its voxels; save it as one .nrrd file.")
    skip = _whole(path, "byte skip", fields.get("byte skip", "0"))
    if skip < -1 or (skip and packing != "raw"):
        raise _wrong(path, "byte skip", str(skip))
    return None if skip == -1 else end + skip


# ---------------------------------------------------------------- MetaImage

META_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
META_ALIASES = {
    "Position": "Offset",
    "Origin": "Offset",
    "Rotation": "TransformMatrix",
    "Orientation": "TransformMatrix",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}
META_UNUSED = {
    *("Comment", "ObjectSubType", "TransformType", "Name", "ID", "ParentID", "Color", "ElementMin", "ElementMax"),
    *("ElementNBits", "DistanceUnits", "CenterOfRotation", "AnatomicalOrientation", "CompressedDataSize"),
    *("SequenceID", "ImagePosition", "AcquisitionDate"),
}
META_FIELDS = META_UNUSED | {
    *("ObjectType", "NDims", "DimSize", "ElementType", "ElementNumberOfChannels", "ElementSpacing", "ElementSize"),
    *("Offset", "TransformMatrix", "BinaryData", "BinaryDataByteOrderMSB", "CompressedData", "HeaderSize"),
    *("Modality", "ElementDataFile", "ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset"),
}
HERE = ("LOCAL", "Local", "local")
META_LINE = re.compile(r"[ \t]*([^=:]*[^=: \t])[ \t]*[=:][ \t]*(.*?)[ \t]*")
LAST = re.compile(r"[ \t]*ElementDataFile[ \t]*[=:]")


def _metaimage(path: Path, start: bytes, whole: bool) -> Header:
    lines, end = _lines(path, start, lambda line: LAST.match(line.decode("latin-1")) is not None)
    if not LAST.match(lines[-1]):
        raise truncated(path)
    fields: dict[str, str] = {}
    remarks: dict[str, str] = {}
    known = {name.lower(): name for name in (*META_FIELDS, *META_ALIASES)}
    for line in lines:
        if not line.strip(" \t"):
            continue
        found = META_LINE.fullmatch(line)
        if found is None:
            raise _bad(path, f"holds the line '{_short(line)}', which isn't 'key = value'")
        key, value = found[1], found[2]
        if key not in known.values():
            if key.lower() in known:  # which ITK would take for another key
                raise _bad(path, f"says '{_short(key)}' for '{known[key.lower()]}'")
            _put(path, remarks, key, value)
            continue
        name = META_ALIASES.get(key, key)
        if name != key and fields.get(name) == value:
            continue  # the same under another name, as some writers do
        _put(path, fields, name, value)
    if whole and fields.get("ElementDataFile") not in HERE:
        raise _elsewhere(path)
    for key in ("NDims", "DimSize", "ElementType", "ElementDataFile"):
        if key not in fields:
            raise _bad(path, f"lacks '{key}'")
    return _metaimage_of(path, fields, remarks, end)


def _metaimage_of(path: Path, fields: dict[str, str], remarks: dict[str, str], end: int) -> Header:
    if fields.get("ObjectType", "Image") != "Image":
        raise _wrong(path, "ObjectType", fields["ObjectType"])
    if fields["ElementType"] not in META_TYPES:
        raise _wrong(path, "ElementType", fields["ElementType"])
    dtype = np.dtype(META_TYPES[fields["ElementType"]])
    axes = _whole(path, "NDims", fields["NDims"])
    if not 1 <= axes <= MOST_AXES:
        raise _wrong(path, "NDims", fields["NDims"])
    shape = _sizes(path, "DimSize", fields["DimSize"], axes)
    channels = _whole(path, "ElementNumberOfChannels", fields.get("ElementNumberOfChannels", "1"))
    if not 1 <= channels <= 2**16:
        raise _wrong(path, "ElementNumberOfChannels", str(channels))
    if _numbers(path, "slope", fields.get("ElementToIntensityFunctionSlope", "1")) != "1.0" or (
        _numbers(path, "offset", fields.get("ElementToIntensityFunctionOffset", "0")) != "0.0"
    ):
        raise InputError(f"{path} has a slope or offset for its values; save it with its final values.")
    binary = _truth(path, "BinaryData", fields.get("BinaryData", "True"))
    big = _truth(path, "BinaryDataByteOrderMSB", fields.get("BinaryDataByteOrderMSB", "False"))
    packed = _truth(path, "CompressedData", fields.get("CompressedData", "False"))
    packing = ("zlib" if packed else "raw") if binary else "text"
    if packed and not binary:
        raise _bad(path, "says that its text is compressed")
    local = fields["ElementDataFile"] in HERE
    skip = _whole(path, "HeaderSize", fields.get("HeaderSize", "0"))
    if skip < -1 or (skip and packing != "raw") or (skip > 0 and local):
        raise _wrong(path, "HeaderSize", str(skip))
    text = ["ObjectType = Image", f"NDims = {axes}", f"BinaryData = {binary}", f"BinaryDataByteOrderMSB = {big}"]
    text += [f"CompressedData = {packed}"]
    lengths = {"TransformMatrix": axes * axes, "Offset": axes, "ElementSpacing": axes, "ElementSize": axes}
    for key, count in lengths.items():
        if key in fields:
            numbers = _numbers(path, key, fields[key])
            if len(numbers.split()) != count:
                raise _wrong(path, key, fields[key])
            text.append(f"{key} = {numbers}")
    if WORD.fullmatch(fields.get("Modality", "")):
        text.append(f"Modality = {fields['Modality']}")
    text += [f"DimSize = {' '.join(map(str, shape))}", f"ElementNumberOfChannels = {channels}"]
    text += [f"ElementType = {fields['ElementType']}", "ElementDataFile = LOCAL", ""]
    return Header(
        path=path,
        text="\n".join(text),
        remarks=remarks,
        data=path if local else _beside(path, fields["ElementDataFile"]),
        offset=None if skip == -1 else (end if local else skip),
        packing=packing,
        dtype=dtype.newbyteorder(">" if big else "<"),
        shape=(channels, *shape) if channels > 1 else shape,
        channel_axis=0 if channels > 1 else None,
    )


def _truth(path: Path, key: str, value: str) -> bool:
    if value.lower() not in ("true", "false", "1", "0"):
        raise _wrong(path, key, value)
    return value.lower() in ("true", "1")
