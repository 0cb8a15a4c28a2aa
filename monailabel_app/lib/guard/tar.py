"""Tar archives read as a stream, in bounded memory: plain, or packed with gzip, bzip2 or xz.

Python's own reader allocates what a long name or an extended header says it takes, and follows chains of them by
recursion. POSIX.1-2001 (pax) and GNU's long names are understood; sparse files, links and devices are not files here.
"""

import bz2
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

RECORD = 512
BLOCK = 2**18
MOST_NAME = 64 * 1024  # bytes of a long name or an extended header
MOST_BEFORE = 8  # headers that may stand before a member's own
XZ_MEMORY = 128 * 2**20
FILES, FOLDER = b"0\0" + b"7", b"5"
LONG_NAME, LONG_LINK, EXTENDED, GLOBAL = b"L", b"K", b"x", b"g"
MARKS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}


class Damaged(Exception):
    """The archive isn't what it should be."""


class Special(Exception):
    """It holds something that is neither file nor folder."""


class TooLarge(Exception):
    """It unpacks to more than is allowed."""


def is_tar(path: Path) -> bool:
    """Whether the file starts as a tar archive does, unpacked where need be."""
    try:
        with path.open("rb") as file:
            return _checked(_Source(file, RECORD + BLOCK).read(RECORD)) is not None
    except (Damaged, TooLarge):
        return False


def members(path: Path, most_bytes: int) -> Iterator[tuple[str, Iterator[bytes] | None]]:
    """(name, content) of each file, (name, None) of each folder, in order; the content of one must be read, or is
    skipped, before the next comes. Raises Damaged, Special and TooLarge."""
    with path.open("rb") as file:
        # Headers and padding count too: an archive of them alone has an end as well.
        source = _Source(file, 2 * most_bytes + 64 * 2**20)
        while (header := _header(source)) is not None:
            name, size, kind = header
            if kind in FOLDER:
                source.skip(size)
                yield name, None
                continue
            content = _content(source, size)
            yield name, content
            for _ in content:  # what was left unread
                pass
            source.skip(-size % RECORD)


def _header(source: "_Source") -> tuple[str, int, bytes] | None:
    """(name, size, kind) of the next member; None at the end."""
    said: dict[str, str] = {}
    for _ in range(MOST_BEFORE):
        record = source.read(RECORD)
        if not record or not record.strip(b"\0"):
            return None
        if (checked := _checked(record)) is None:
            raise Damaged
        name, size, kind = checked
        if kind in (LONG_NAME, LONG_LINK, EXTENDED, GLOBAL):
            if size > MOST_NAME:
                raise Damaged
            content = source.exactly(size)
            source.skip(-size % RECORD)
            if kind == LONG_NAME:
                said["path"] = content.rstrip(b"\0").decode("utf-8", "replace")
            elif kind == EXTENDED:
                said |= _extended(content)
            continue
        if (kind not in FILES and kind not in FOLDER) or any(key.startswith("GNU.sparse") for key in said):
            raise Special
        if "size" in said:
            size = _whole(said["size"].encode())
        return said.get("path", name), size, kind
    raise Damaged


def _checked(record: bytes) -> tuple[str, int, bytes] | None:
    """(name, size, kind) of a header whose checksum is right."""
    if len(record) < RECORD:
        return None
    try:
        said = _whole(record[148:156], 8)
        if said != sum(record[:148]) + 8 * ord(" ") + sum(record[156:]):
            return None
        big = record[124] == 0x80
        size = int.from_bytes(record[125:136]) if big else _whole(record[124:136], 8)
    except Damaged:
        return None
    name, _, _ = record[:100].partition(b"\0")
    prefix = record[345:500].partition(b"\0")[0] if record[257:263] == b"ustar\0" else b""
    whole = b"/".join(part for part in (prefix, name) if part).decode("utf-8", "replace")
    kind = record[156:157]
    # Old archives tell folders by their names alone.
    return whole, size, FOLDER if kind in (b"0", b"\0") and whole.endswith("/") else kind


def _extended(content: bytes) -> dict[str, str]:
    """The records "LENGTH KEY=VALUE\\n" of an extended header."""
    said: dict[str, str] = {}
    at = 0
    while at < len(content) and content[at] != 0:
        blank = content.find(b" ", at, at + 10)
        if blank < 0:
            raise Damaged
        length = _whole(content[at:blank])
        key, mark, value = content[blank + 1 : at + length - 1].partition(b"=")
        if not mark or length < 5 or content[at + length - 1 : at + length] != b"\n":
            raise Damaged
        said[key.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
        at += length
    return said


def _whole(text: bytes, base: int = 10) -> int:
    plain = text.strip(b" \0")
    if len(plain) > 20 or not all(48 <= digit < 48 + base for digit in plain):
        raise Damaged
    return int(plain or b"0", base)


def _content(source: "_Source", size: int) -> Iterator[bytes]:
    while size:
        block = source.read(min(size, BLOCK))
        if not block:
            raise Damaged
        size -= len(block)
        yield block


class _Source:
    """The bytes of an archive, unpacked as they are asked for; raises TooLarge where they are more than `most`."""

    def __init__(self, file: BinaryIO, most: int):
        self.file, self.left = file, most
        start = file.read(6)
        file.seek(0)
        packing = next((kind for mark, kind in MARKS.items() if start.startswith(mark)), None)
        self.unpacker: Any = (
            packing
            and {
                "gzip": lambda: _Deflate(),
                "bzip2": bz2.BZ2Decompressor,
                "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY),
            }[packing]()
        )
        self.ready = b""

    def read(self, count: int) -> bytes:
        """`count` bytes; fewer at the end alone."""
        parts, wanted = [], count
        while wanted:
            if not self.ready and not self._more():
                break
            parts.append(self.ready[:wanted])
            self.ready = self.ready[wanted:]
            wanted -= len(parts[-1])
        got = b"".join(parts)
        self.left -= len(got)
        if self.left < 0:
            raise TooLarge
        return got

    def exactly(self, count: int) -> bytes:
        got = self.read(count)
        if len(got) < count:
            raise Damaged
        return got

    def skip(self, count: int) -> None:
        while count:
            block = self.read(min(count, BLOCK))
            if not block:
                raise Damaged
            count -= len(block)

    def _more(self) -> bool:
        """Fill `ready`; False at the end."""
        if self.unpacker is None:
            self.ready = self.file.read(BLOCK)
            return bool(self.ready)
        try:
            while not self.unpacker.eof:
                wants = self.unpacker.needs_input
                packed = self.file.read(BLOCK) if wants else b""
                self.ready = self.unpacker.decompress(packed, BLOCK)
                if self.ready:
                    return True
                if wants and not packed:
                    raise Damaged
        except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError):
            raise Damaged from None
        return False


class _Deflate:
    """zlib's unpacker of gzip, used as those of bz2 and lzma are."""

    def __init__(self) -> None:
        self.inner = zlib.decompressobj(zlib.MAX_WBITS + 16)

    @property
    def eof(self) -> bool:
        return self.inner.eof

    @property
    def needs_input(self) -> bool:
        return not self.inner.unconsumed_tail

    def decompress(self, packed: bytes, most: int) -> bytes:
        return self.inner.decompress(self.inner.unconsumed_tail + packed, most)
