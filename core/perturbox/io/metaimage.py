"""Headers of MetaImage, as far as one volume or picture needs."""

import re
from pathlib import Path

import numpy as np

from perturbox.io.files import truncated
from perturbox.io.header_lines import (
    MOST_AXES,
    WORD,
    Header,
    bad,
    beside,
    elsewhere,
    lines_of,
    numbers,
    put,
    short,
    sizes,
    whole_number,
    wrong,
)
from perturbox.types import InputError

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


def read(path: Path, start: bytes, whole: bool) -> Header:
    """The header that a file starts with; raises InputError for one that breaks the rules of `headers`. whole: refuse
    voxels in another file."""
    lines, end = lines_of(path, start, lambda line: LAST.match(line.decode("latin-1")) is not None)
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
            raise bad(path, f"holds the line '{short(line)}', which isn't 'key = value'")
        key, value = found[1], found[2]
        if key not in known.values():
            if key.lower() in known:  # which ITK would take for another key
                raise bad(path, f"says '{short(key)}' for '{known[key.lower()]}'")
            put(path, remarks, key, value)
            continue
        name = META_ALIASES.get(key, key)
        if name != key and fields.get(name) == value:
            continue  # the same under another name, as some writers do
        put(path, fields, name, value)
    if whole and fields.get("ElementDataFile") not in HERE:
        raise elsewhere(path)
    for key in ("NDims", "DimSize", "ElementType", "ElementDataFile"):
        if key not in fields:
            raise bad(path, f"lacks '{key}'")
    return _metaimage_of(path, fields, remarks, end)


def _metaimage_of(path: Path, fields: dict[str, str], remarks: dict[str, str], end: int) -> Header:
    if fields.get("ObjectType", "Image") != "Image":
        raise wrong(path, "ObjectType", fields["ObjectType"])
    if fields["ElementType"] not in META_TYPES:
        raise wrong(path, "ElementType", fields["ElementType"])
    dtype = np.dtype(META_TYPES[fields["ElementType"]])
    axes = whole_number(path, "NDims", fields["NDims"])
    if not 1 <= axes <= MOST_AXES:
        raise wrong(path, "NDims", fields["NDims"])
    shape = sizes(path, "DimSize", fields["DimSize"], axes)
    channels = whole_number(path, "ElementNumberOfChannels", fields.get("ElementNumberOfChannels", "1"))
    if not 1 <= channels <= 2**16:
        raise wrong(path, "ElementNumberOfChannels", str(channels))
    if numbers(path, "slope", fields.get("ElementToIntensityFunctionSlope", "1")) != "1.0" or (
        numbers(path, "offset", fields.get("ElementToIntensityFunctionOffset", "0")) != "0.0"
    ):
        raise InputError(f"{path} has a slope or offset for its values; save it with its final values.")
    binary = _truth(path, "BinaryData", fields.get("BinaryData", "True"))
    big = _truth(path, "BinaryDataByteOrderMSB", fields.get("BinaryDataByteOrderMSB", "False"))
    packed = _truth(path, "CompressedData", fields.get("CompressedData", "False"))
    packing = ("zlib" if packed else "raw") if binary else "text"
    if packed and not binary:
        raise bad(path, "says that its text is compressed")
    local = fields["ElementDataFile"] in HERE
    skip = whole_number(path, "HeaderSize", fields.get("HeaderSize", "0"))
    if skip < -1 or (skip and packing != "raw") or (skip > 0 and local):
        raise wrong(path, "HeaderSize", str(skip))
    text = ["ObjectType = Image", f"NDims = {axes}", f"BinaryData = {binary}", f"BinaryDataByteOrderMSB = {big}"]
    text += [f"CompressedData = {packed}"]
    lengths = {"TransformMatrix": axes * axes, "Offset": axes, "ElementSpacing": axes, "ElementSize": axes}
    for key, count in lengths.items():
        if key in fields:
            written = numbers(path, key, fields[key])
            if len(written.split()) != count:
                raise wrong(path, key, fields[key])
            text.append(f"{key} = {written}")
    if WORD.fullmatch(fields.get("Modality", "")):
        text.append(f"Modality = {fields['Modality']}")
    text += [f"DimSize = {' '.join(map(str, shape))}", f"ElementNumberOfChannels = {channels}"]
    text += [f"ElementType = {fields['ElementType']}", "ElementDataFile = LOCAL", ""]
    return Header(
        path=path,
        text="\n".join(text),
        remarks=remarks,
        data=path if local else beside(path, fields["ElementDataFile"]),
        offset=None if skip == -1 else (end if local else skip),
        packing=packing,
        dtype=dtype.newbyteorder(">" if big else "<"),
        shape=(channels, *shape) if channels > 1 else shape,
        channel_axis=0 if channels > 1 else None,
    )


def _truth(path: Path, key: str, value: str) -> bool:
    if value.lower() not in ("true", "false", "1", "0"):
        raise wrong(path, key, value)
    return value.lower() in ("true", "1")
