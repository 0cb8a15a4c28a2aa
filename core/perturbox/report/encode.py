"""How numbers travel inside the page: losslessly packed voxels as base64 text, and pictures as PNG.

A CT slice is noise over slow anatomy, so each voxel is predicted by its left neighbour, the (small) errors are
zig-zagged to unsigned, split into a low and a high byte plane, and deflated; the perturbed scan is predicted by the
original one. The viewer undoes exactly these four steps. Numbers that no 65,536 steps hold travel as their bits.
"""

import base64
import gzip
import re
import struct
import zlib
from pathlib import Path

import numpy as np

from perturbox.types import ADVERSARIAL_NOTICE


def pack_int16(volume: np.ndarray, beside: np.ndarray | None = None) -> bytes:
    """Gzip stream of an int16 array "… x", of which the reader knows each voxel's left neighbour, or `beside`; what is
    left of it zig-zagged, in two byte planes. Exact over the whole int16 range."""
    errors = volume.copy()  # wraps around like the viewer's Int16Array
    if beside is None:
        errors[..., 1:] -= volume[..., :-1]
    else:
        errors -= beside
    zigzag = ((errors << 1) ^ (errors >> 15)).view(np.uint16)
    planes = np.concatenate([(zigzag & 255).astype(np.uint8).ravel(), (zigzag >> 8).astype(np.uint8).ravel()])
    return pack_bytes(planes)


def pack_floats(volume: np.ndarray, beside: np.ndarray | None = None) -> bytes:
    """Gzip stream of a float32 or float64 array in byte planes, lowest first; where the reader knows `beside`, of the
    bits that are others there."""
    bits = np.ascontiguousarray(volume).view(np.uint8)
    if beside is not None:
        bits = bits ^ np.ascontiguousarray(beside).view(np.uint8)
    return pack_bytes(bits.reshape(-1, volume.itemsize).T)


def pack_bytes(values: np.ndarray) -> bytes:
    """Gzip stream of an int8 or uint8 array in C order; no name and no time, so equal input gives equal bytes."""
    return gzip.compress(np.ascontiguousarray(values).tobytes(), compresslevel=6, mtime=0)


def text(stream: bytes) -> str:
    return base64.b64encode(stream).decode("ascii")


def png(rgb: np.ndarray, notice: str = ADVERSARIAL_NOTICE) -> bytes:
    """PNG file of a uint8 picture "row column 3", with a notice in its description."""
    height, width, _ = rgb.shape
    rows = np.zeros((height, width, 3), np.uint8)
    rows[1:] = rgb[1:] - rgb[:-1]  # filter 2 (up), modulo 256
    rows[0] = rgb[0]
    lines = np.concatenate([np.full((height, 1), 2, np.uint8), rows.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        (b"tEXt", b"Description\0" + notice.encode("latin-1")),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


_BLOB = re.compile(r"(?:H4sI|iVBORw0KGgo)[A-Za-z0-9+/]{16,}={0,2}")  # what base64 makes of gzip's and PNG's first bytes


def same_page(path: Path, page: str) -> bool:
    """Whether a stored page shows what `page` does: the same text, voxels and pictures. Their deflated bytes may
    differ, as another machine's zlib packs otherwise."""
    if path.stat().st_size > 2 * len(page.encode()) + 1024:
        return False
    stored = path.read_bytes().decode("utf-8", "replace")
    if stored == page:
        return True
    ours, theirs = _BLOB.findall(page), _BLOB.findall(stored)
    if _BLOB.split(page) != _BLOB.split(stored) or len(ours) != len(theirs):
        return False
    return all(a == b or _same_blob(a, b) for a, b in zip(ours, theirs, strict=True))


def _same_blob(ours: str, theirs: str) -> bool:
    """Whether two gzip streams or PNG files of one IDAT hold the same bytes."""
    a, b = base64.b64decode(ours), base64.b64decode(theirs + "=" * (-len(theirs) % 4))
    picture = a.startswith(b"\x89PNG")
    start = a.index(b"IDAT") + 4 if picture else 0
    if picture and (a[: start - 8] != b[: start - 8] or a[start - 4 : start] != b[start - 4 : start]):
        return False
    first, second = (zlib.decompressobj(zlib.MAX_WBITS if picture else 16 + zlib.MAX_WBITS) for _ in "ab")
    try:
        whole = first.decompress(a[start:])
        same = second.decompress(b[start:], len(whole) + 1) == whole  # the limit: it may be a bomb
    except zlib.error:
        return False
    # Behind it the check sum, which may be another, and the end of the picture; or nothing.
    return same and second.eof and first.unused_data[4:] == second.unused_data[4:]
