"""Zip archives made while they are sent."""

import io as streams
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from perturbox import io
from perturbox.io import formats

BLOCK = 2**20


def zip_of(entries: Iterable[tuple[str, Path | bytes]]) -> Iterator[bytes]:
    """(name, file or content) as a zip, made while it is sent: no memory, no disk."""
    drain = _Drain()
    with zipfile.ZipFile(drain, "w") as packed:  # type: ignore[arg-type]  # it only writes and flushes
        for name, held in entries:
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_STORED if io.suffix(name) in formats.PACKED else zipfile.ZIP_DEFLATED
            entry.file_size = len(held) if isinstance(held, bytes) else held.stat().st_size
            source = streams.BytesIO(held) if isinstance(held, bytes) else held.open("rb")
            with source, packed.open(entry, "w") as target:
                while block := source.read(BLOCK):
                    target.write(block)
                    yield drain.take()
    yield drain.take()


class _Drain:
    """What `ZipFile` writes to when it can't seek: bytes are taken away as they come."""

    def __init__(self) -> None:
        self.waiting = bytearray()

    def write(self, data: bytes) -> int:
        self.waiting += data
        return len(data)

    def flush(self) -> None:
        pass

    def take(self) -> bytes:
        taken = bytes(self.waiting)
        self.waiting.clear()
        return taken
