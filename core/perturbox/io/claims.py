"""What a picture's header claims, held against the file's length before a decoder believes it.

Decoders allocate what a header says, fill up what a file lacks and follow a list of pages that leads back to itself.
"""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from perturbox.io.files import damaged
from perturbox.types import InputError

MOST_PIXELS = 2**28
MOST_PAGES = 1000
# How many bytes of pixels one byte of a file can stand for at most. Deflate: zlib's technical notes; LZW: strings of up
# to 4096 bytes in 12 bits; run lengths: 255 in 2 bytes; JPEG: at least a bit for each 8×8 block.
DEFLATE, LZW, RUNS, JPEG = 1032, 2731, 128, 8 * 64
SLACK = 4096


class Cut(Exception):
    """The file ends, or isn't what it claims to be, where something was to be read."""


def check(path: Path, format: str) -> None:
    """Raises InputError for a picture whose file can't hold what its header claims, or whose pages lead in a circle."""
    try:
        with open(path, "rb") as file:
            length = file.seek(0, os.SEEK_END)
            file.seek(0)
            CHECKS[format](path, file, length)
    except (Cut, struct.error):
        raise damaged(path) from None


def _read(file: BinaryIO, at: int, layout: str) -> tuple[int, ...]:
    file.seek(at)
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _require(path: Path, width: int, height: int, row: int, bytes: float) -> None:
    """Raises InputError for a picture that is too large, Cut where `bytes` can't hold its rows of `row` bytes."""
    if width * height > MOST_PIXELS:
        raise InputError(
            f"{path} says it holds {width}×{height} pixels, more than the {MOST_PIXELS >> 20} million that are read; "
            "crop or resample it."
        )
    if row * height > bytes:
        raise Cut


def _bmp(path: Path, file: BinaryIO, length: int) -> None:
    mark, said, _, offset, header = _read(file, 0, "<2sIIII")
    if mark != b"BM" or said > length:
        raise Cut
    if header == 12:
        width, height, _, bits = _read(file, 18, "<HHHH")
        packing = 0
    else:
        width, height, _, bits, packing = _read(file, 18, "<iiHHI")
    width, height = abs(width), abs(height)
    row = (width * bits + 31) // 32 * 4
    if packing in (1, 2):  # run lengths
        _require(path, width, height, row, RUNS * length + SLACK)
    else:
        _require(path, width, height, row, length - offset)


def _png(path: Path, file: BinaryIO, length: int) -> None:
    mark, _, kind, width, height, depth, colour = _read(file, 0, ">8sI4sIIBB")
    if mark != b"\x89PNG\r\n\x1a\n" or kind != b"IHDR":
        raise Cut
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1)
    _require(path, width, height, 1 + width * depth * channels // 8, DEFLATE * length + SLACK)


def _jpeg(path: Path, file: BinaryIO, length: int) -> None:
    """Segments up to the pixels, whose end marker must follow; decoders fill up a file that lacks it."""
    if _read(file, 0, ">H") != (0xFFD8,):
        raise Cut
    at = 2
    while True:
        mark, kind, size = _read(file, at, ">BBH")
        if mark != 0xFF:
            raise Cut
        if kind == 0xFF:  # a filler
            at += 1
            continue
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            _, height, width = _read(file, at + 4, ">BHH")
            _require(path, width, height, width, JPEG * length + SLACK)
        at += 2 + size
        if kind == 0xDA:
            break
    file.seek(at)
    before = b""
    while block := file.read(2**20):
        if b"\xff\xd9" in before + block:
            return
        before = block[-1:]
    raise Cut


TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 6: 1, 7: 1, 8: 2, 9: 4, 13: 4, 16: 8, 17: 8, 18: 8}
WIDTH, HEIGHT, BITS, COMPRESSION, SAMPLES = 256, 257, 258, 259, 277
TIFF_PACKINGS = {1: 1, 5: LZW, 7: JPEG * 4, 8: DEFLATE, 32946: DEFLATE, 32773: RUNS}


def _tiff(path: Path, file: BinaryIO, length: int) -> None:
    order = {b"II": "<", b"MM": ">"}.get(file.read(2), "")
    if not order:
        raise Cut
    (version,) = _read(file, 2, f"{order}H")
    large = version == 43
    if version not in (42, 43):
        raise Cut
    count, entry, pointer = ("Q", 20, "Q") if large else ("H", 12, "I")
    (page,) = _read(file, 8 if large else 4, order + pointer)
    seen: set[int] = set()
    while page:
        if page in seen or len(seen) >= MOST_PAGES:
            raise InputError(f"{path} has pages that lead in a circle or have no end; save one page again.")
        seen.add(page)
        (entries,) = _read(file, page, order + count)
        start = page + struct.calcsize(order + count)
        if start + entries * entry > length:
            raise Cut
        file.seek(start)
        tags = _tags(file.read(min(entries, 4096) * entry), order, large)
        width, height = tags.get(WIDTH, 0), tags.get(HEIGHT, 0)
        bits = tags.get(BITS, 1) * tags.get(SAMPLES, 1)
        ratio = TIFF_PACKINGS.get(tags.get(COMPRESSION, 1), LZW)
        _require(path, width, height, width * bits // 8, ratio * length + (SLACK if ratio > 1 else 0))
        (page,) = _read(file, start + entries * entry, order + pointer)


def _tags(entries: bytes, order: str, large: bool) -> dict[int, int]:
    """The first value of each tag that holds its values itself; of the bits per sample, which may lie elsewhere, 8."""
    found: dict[int, int] = {}
    size, layout, held = (20, "HHQ", 8) if large else (12, "HHI", 4)
    for at in range(0, len(entries), size):
        tag, kind, count = struct.unpack_from(order + layout, entries, at)
        width = TIFF_SIZES.get(kind, 0)
        if tag not in (WIDTH, HEIGHT, BITS, COMPRESSION, SAMPLES) or not width or not count:
            continue
        if width * count > held:
            found[tag] = 8 if tag == BITS else 0
            continue
        letter = {1: "B", 2: "H", 4: "I", 8: "Q"}[width]
        (found[tag],) = struct.unpack_from(order + letter, entries, at + size - held)
    return found


CHECKS: dict[str, Callable[[Path, BinaryIO, int], None]] = {
    ".bmp": _bmp,
    ".png": _png,
    ".jpg": _jpeg,
    ".jpeg": _jpeg,
    ".tif": _tiff,
    ".tiff": _tiff,
}
