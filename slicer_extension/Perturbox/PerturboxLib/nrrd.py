"""Volumes as NRRD bytes and back, without MRML, so that worker threads may do it. Arrays are k j i, affines IJK -> RAS.

What this reads: one volume of three axes with its voxels in the same file, raw or gzip, in the spaces RAS, LPS, LAS.
"""

import zlib
from dataclasses import dataclass

import numpy as np

from .geometry import ijkShape
from .trouble import Trouble, trouble

# NRRD's names of types, the first of each to write; complete but for floats of other sizes, which NRRD has none of.
TYPES = {
    "int8": ("signed char", "int8", "int8_t"),
    "uint8": ("unsigned char", "uchar", "uint8", "uint8_t"),
    "int16": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "uint16": ("unsigned short", "ushort", "unsigned short int", "uint16", "uint16_t"),
    "int32": ("int", "signed int", "int32", "int32_t"),
    "uint32": ("unsigned int", "uint", "uint32", "uint32_t"),
    "int64": (
        *("long long", "longlong", "long long int", "signed long long", "signed long long int"),
        *("int64", "int64_t"),
    ),
    "uint64": ("unsigned long long", "ulonglong", "unsigned long long int", "uint64", "uint64_t"),
    "float32": ("float",),
    "float64": ("double",),
}
NAMED = {name: kind for kind, names in TYPES.items() for name in names}
# Signs that turn the axes of a space into R, A, S.
SPACES = {
    "right-anterior-superior": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
}
SPACES |= {"ras": (1, 1, 1), "las": (-1, 1, 1), "lps": (-1, -1, 1)}
LONGEST_HEADER = 2**20
GZIP = 31  # zlib's window bits for a gzip header and trailer


@dataclass(frozen=True, eq=False)
class Image:
    """A volume: array k j i (may be read-only), ijkToRas 4x4 in mm, fields: the file's key:=value pairs."""

    array: np.ndarray
    ijkToRas: np.ndarray
    fields: dict[str, str]


def encode(array: np.ndarray, ijkToRas: np.ndarray, fields: dict[str, str] | None = None, compress=False) -> bytes:
    """A k j i array as NRRD, raw or (compress) gzip of level 1; bool becomes uint8.

    Raises ValueError for arrays that are no volumes or of a type that NRRD doesn't know.
    """
    array = np.asarray(array)
    array = array.astype(np.uint8) if array.dtype == bool else array
    if array.ndim != 3 or array.size == 0 or array.dtype.name not in TYPES:
        raise ValueError(f"NRRD holds volumes of numbers, not {array.dtype.name} of shape {array.shape}")
    voxels = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    packer = zlib.compressobj(1, wbits=GZIP)
    content = [packer.compress(voxels), packer.flush()] if compress else [memoryview(voxels).cast("B")]
    columns = " ".join(_vector(ijkToRas[:3, axis]) for axis in range(3))
    lines = [
        "NRRD0005",
        f"type: {TYPES[array.dtype.name][0]}",
        "dimension: 3",
        "space: right-anterior-superior",
        f"sizes: {' '.join(map(str, ijkShape(array.shape)))}",
        f"space directions: {columns}",
        "kinds: domain domain domain",
        "endian: little",
        f"encoding: {'gzip' if compress else 'raw'}",
        f"space origin: {_vector(ijkToRas[:3, 3])}",
        *(f"{_key(key)}:={_escaped(text)}" for key, text in (fields or {}).items()),
    ]
    return b"".join([("\n".join(lines) + "\n\n").encode(), *content])


def decode(data: bytes) -> Image:
    """The volume in NRRD bytes. Raises Trouble "truncated" where voxels are missing, "bad-file" for all else that can't
    be read."""
    try:
        return _decode(data)
    except (ValueError, KeyError, IndexError, OverflowError, zlib.error) as error:
        raise trouble("bad-file", f"NRRD: {type(error).__name__} {error}") from None


def _decode(data: bytes) -> Image:
    header, fields, start = _header(data)
    if header.get("data file", header.get("datafile")):
        raise _bad("its voxels lie in another file")
    if header["dimension"] != "3":
        raise _bad(f"it has {header['dimension']} axes instead of 3")
    kind = NAMED.get(" ".join(header["type"].lower().split()))
    if kind is None:
        raise _bad(f"it is of type '{header['type']}'")
    sizes = [int(word) for word in header["sizes"].split()]
    if len(sizes) != 3 or min(sizes) < 1:
        raise _bad(f"its sizes are '{header['sizes']}'")
    if any(header.get(skip, "0") != "0" for skip in ("line skip", "lineskip", "byte skip", "byteskip")):
        raise _bad("it skips a part of itself")
    dtype = np.dtype(kind)
    if dtype.itemsize > 1:
        dtype = dtype.newbyteorder({"little": "<", "big": ">"}[header["endian"].lower()])
    expected = sizes[0] * sizes[1] * sizes[2] * dtype.itemsize
    voxels = _voxels(memoryview(data)[start:], header["encoding"].lower(), expected)
    array = np.frombuffer(voxels, dtype).reshape(sizes[::-1])
    return Image(array.astype(dtype.newbyteorder("="), copy=False), _affine(header), fields)


def _header(data: bytes) -> tuple[dict[str, str], dict[str, str], int]:
    """(fields, key:=value pairs, where the voxels begin) of NRRD bytes."""
    if bytes(data[:6]) != b"NRRD00":
        cut = b"NRRD00".startswith(bytes(data[:6]))
        raise trouble("truncated", f"{len(data)} bytes") if cut else _bad("it doesn't begin like one")
    top = bytes(data[:LONGEST_HEADER])
    ends = [(top.find(mark), len(mark)) for mark in (b"\n\n", b"\r\n\r\n") if mark in top]
    if not ends:
        raise trouble("truncated", "the header has no end") if len(data) < LONGEST_HEADER else _bad("no header ends")
    end, mark = min(ends)
    header: dict[str, str] = {}
    fields: dict[str, str] = {}
    for line in top[:end].decode("utf-8", "replace").split("\n")[1:]:
        line = line.rstrip("\r")
        if line.startswith("#"):
            continue
        # A field's name holds no colon, so whichever sign comes first tells the two apart.
        name, colon, text = line.partition(":")
        if not colon:
            raise _bad(f"the line '{line[:60]}' has no colon")
        if text.startswith("="):
            fields[name] = _plain(text[1:])
        else:
            header[name.strip().lower()] = text.strip()
    return header, fields, end + mark


def _voxels(content: memoryview, encoding: str, expected: int) -> bytes | memoryview:
    """The voxels' bytes, of which there must be exactly `expected`."""
    if encoding == "raw":
        voxels: bytes | memoryview = content
    elif encoding in ("gzip", "gz"):
        unpacker = zlib.decompressobj(wbits=GZIP)
        voxels = unpacker.decompress(content, expected + 1)
        if not unpacker.eof:  # the trailer is read only after the last byte
            voxels += unpacker.decompress(unpacker.unconsumed_tail, 1)
        if not unpacker.eof and len(voxels) <= expected:
            raise trouble("truncated", f"NRRD: its gzip stream has no end after {len(voxels)} of {expected} bytes")
    else:
        raise _bad(f"it is encoded as '{encoding}'")
    if len(voxels) < expected:
        raise trouble("truncated", f"NRRD: it has {len(voxels)} of {expected} bytes")
    if len(voxels) > expected:
        raise _bad(f"it has more than the {expected} bytes that its sizes say")
    return voxels


def _affine(header: dict[str, str]) -> np.ndarray:
    """IJK -> RAS from the fields on space."""
    space = header.get("space", "").lower()
    if space not in SPACES:
        raise _bad(f"its space is '{space}'")
    affine = np.eye(4)
    affine[:3, :3] = np.array(_vectors(header["space directions"], 3)).T
    affine[:3, 3] = _vectors(header["space origin"], 1)[0]
    affine[:3] *= np.array(SPACES[space])[:, None]
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise _bad("its space directions span no volume")
    return affine


def _vectors(text: str, count: int) -> list[list[float]]:
    """`count` vectors like "(1,0,0) (0,1,0)"."""
    words = text.replace(" ", "").removeprefix("(").removesuffix(")").split(")(")
    vectors = [[float(number) for number in word.split(",")] for word in words]
    if len(vectors) != count or any(len(vector) != 3 for vector in vectors):
        raise _bad(f"'{text}' is not {count} × 3 numbers")
    return vectors


def _vector(values) -> str:
    return f"({','.join(repr(float(value)) for value in values)})"


def _key(text: str) -> str:
    if not text or ":" in text or "\n" in text or text.startswith("#"):
        raise ValueError(f"{text!r} can't be a key in NRRD")
    return text


def _escaped(text: str) -> str:
    """One line, as NRRD writes backslashes and ends of lines."""
    return text.replace("\\", "\\\\").replace("\r", " ").replace("\n", "\\n")


def _plain(text: str) -> str:
    """What `_escaped` was given."""
    return "\\".join(part.replace("\\n", "\n") for part in text.split("\\\\"))


def _bad(why: str) -> Trouble:
    return trouble("bad-file", f"NRRD: {why}")
