"""Headers of NRRD (teem.sourceforge.net/nrrd/format.html), as far as one volume or picture needs."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from perturbox.io.files import damaged, truncated
from perturbox.io.header_lines import (
    MOST_AXES,
    WORD,
    Header,
    bad,
    beside,
    elsewhere,
    lines_of,
    number,
    numbers,
    put,
    short,
    sizes,
    whole_number,
    wrong,
)
from perturbox.types import InputError

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


def read(path: Path, start: bytes, whole: bool) -> Header:
    """The header that a file starts with; raises InputError for one that breaks the rules of `headers`. whole: refuse
    voxels in another file."""
    if not re.match(rb"NRRD000[1-5]\r?\n", start):
        raise damaged(path)
    lines, end = lines_of(path, start, lambda line: line == b"")
    attached = not any(DATA_FILE.match(line) for line in lines)
    if whole and not attached:
        raise elsewhere(path)
    if attached and lines[-1]:
        raise truncated(path)
    fields, remarks = _nrrd_lines(path, lines[1:])
    for key in ("type", "dimension", "sizes", "encoding"):
        if key not in fields:
            raise bad(path, f"lacks '{key}'")
    if fields["type"].lower() not in NRRD_TYPES:
        raise wrong(path, "type", fields["type"])
    dtype, canonical = NRRD_TYPES[fields["type"].lower()]
    axes = whole_number(path, "dimension", fields["dimension"])
    if not 1 <= axes <= MOST_AXES:
        raise wrong(path, "dimension", fields["dimension"])
    shape = sizes(path, "sizes", fields["sizes"], axes)
    packing = NRRD_PACKINGS.get(fields["encoding"].lower())
    if packing is None:
        raise InputError(f"{path} is packed as '{short(fields['encoding'])}'; save it raw or with gzip.")
    order = fields.get("endian", "").lower()
    if order not in ("little", "big") and (order or (packing != "text" and dtype[1] != "1")):
        raise wrong(path, "endian", order)
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
        data=path if attached else beside(path, fields["data file"]),
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
            raise bad(path, f"holds the line '{short(line)}', which is neither 'key: value' nor 'key:=value'")
        value = line[colon + 2 :]
        if mark == ":=":
            put(path, remarks, key, value)
            continue
        name = ALIASES.get(key.lower(), key.lower())
        if name not in FIELDS:
            raise bad(path, f"holds the field '{short(key)}', which NRRD doesn't have")
        put(path, fields, name, value.strip(" \t"))
        if name == "data file" and value.strip().upper().startswith("LIST"):
            beside(path, value.strip())  # refuses: from here on come names of files, not lines of a header
    return fields, remarks


def _nrrd_geometry(path: Path, fields: Mapping[str, str], axes: int) -> tuple[dict[str, str], int | None]:
    """The fields that place the voxels, rewritten, and the axis that isn't in space."""
    said: dict[str, str] = {}
    outside: set[int] = set()
    if "space" in fields and "space dimension" in fields:
        raise bad(path, "gives both 'space' and 'space dimension'")
    if "space" in fields:
        if not WORD.fullmatch(fields["space"]):
            raise wrong(path, "space", fields["space"])
        said["space"] = fields["space"]
    if "space dimension" in fields:
        said["space dimension"] = str(whole_number(path, "space dimension", fields["space dimension"]))
    for key in ("spacings", "thicknesses", "axis mins", "axis maxs"):
        if key in fields:
            said[key] = numbers(path, key, fields[key])
    for key in ("centers", "kinds"):
        if key in fields:
            words = fields[key].split()
            if len(words) != axes or not all(map(WORD.fullmatch, words)):
                raise wrong(path, key, fields[key])
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
            raise wrong(path, key, value)
        word, at = found[1], found.end()
        if word != "none":
            word = "(" + ",".join(number(path, key, part.strip()) for part in word[1:-1].split(",")) + ")"
        vectors.append(word)
    return vectors


def _nrrd_offset(path: Path, fields: Mapping[str, str], end: int, packing: str) -> int | None:
    if whole_number(path, "line skip", fields.get("line skip", "0")) != 0:
        raise InputError(f"{path} skips lines before its voxels; save it as one .nrrd file.")
    skip = whole_number(path, "byte skip", fields.get("byte skip", "0"))
    if skip < -1 or (skip and packing != "raw"):
        raise wrong(path, "byte skip", str(skip))
    return None if skip == -1 else end + skip
