"""The voxels behind a header that was read here: unpacked as far as the header says, and checked to be all there."""

import os
import zlib
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from perturbox.io import headers
from perturbox.io.files import truncated
from perturbox.io.headers import Header
from perturbox.types import InputError

MOST_PACKED = 1032  # bytes that one byte of deflate can hold at most
BLOCK = 2**20
TAIL_BLOCKS = 4
WIDEST_NUMBER = 40  # characters of one value in text
AUTOMATIC = 47  # zlib and gzip, told apart by their first bytes


def read(header: Header) -> np.ndarray:
    """The array as the header's shape says, fastest axis first, in the machine's byte order.

    Raises InputError where the file ends too early or its data don't add up.
    """
    wanted = headers.size(header)
    with open(header.data, "rb") as file:
        there = file.seek(0, os.SEEK_END)
        start = there - wanted if header.offset is None else header.offset
        if header.packing == "raw":
            left = max(0, there - start)
        elif header.packing == "zlib":
            left = MOST_PACKED * max(0, there - start)
        else:
            left = max(0, there - start) * header.dtype.itemsize // 2 + header.dtype.itemsize
        if start < 0 or left < wanted:
            raise truncated(header.path)
        file.seek(start)
        if header.packing == "text":
            return _from_text(header, file).reshape(header.shape, order="F")
        try:
            values = np.empty(wanted // header.dtype.itemsize, header.dtype)
        except (MemoryError, ValueError):
            raise InputError(
                f"{header.path} says it holds {wanted / 1e9:.0f} GB, more than fits into memory; crop or resample it."
            ) from None
        blocks = _inflated(header.path, file) if header.packing == "zlib" else _blocks(file)
        fill(header.path, values, blocks)
        if header.packing == "zlib":  # to its checksum, should that follow soon
            deque(islice(blocks, TAIL_BLOCKS), 0)
    return values.astype(header.dtype.newbyteorder("="), copy=False).reshape(header.shape, order="F")


def fill(path: Path, values: np.ndarray, blocks: Iterator[bytes]) -> None:
    """Fill an array with bytes as they come; what comes after its last one is left. Raises InputError for too few."""
    wanted, got = values.view(np.uint8), 0
    for block in blocks:
        part = block[: len(wanted) - got]
        wanted[got : got + len(part)] = np.frombuffer(part, np.uint8)
        got += len(part)
        if got == len(wanted):
            return
    if got < len(wanted):
        raise truncated(path)


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block


def _inflated(path: Path, file: BinaryIO) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(AUTOMATIC)
    try:
        while block := file.read(BLOCK):
            while block:
                yield unpacker.decompress(block, BLOCK)
                block = unpacker.unconsumed_tail
            if unpacker.eof:
                return
        yield unpacker.flush()
    except zlib.error:
        raise InputError(f"{path} is damaged (its compressed data don't add up); copy or export it again.") from None


def _from_text(header: Header, file: BinaryIO) -> np.ndarray:
    count = headers.size(header) // header.dtype.itemsize
    words = file.read(count * WIDEST_NUMBER + BLOCK).split()[:count]
    if len(words) < count:
        raise truncated(header.path)
    plain = header.dtype.newbyteorder("=")
    try:
        if plain.kind == "f":
            return np.array(words).astype(plain)
        whole = [int(word) for word in words]
        bounds = np.iinfo(plain)
        if min(whole, default=0) < bounds.min or max(whole, default=0) > bounds.max:
            raise ValueError
        return np.array(whole, plain)
    except ValueError:
        raise InputError(
            f"{header.path} holds text that is no {plain.name} where a voxel is expected; export it again."
        ) from None
