"""Many files in one request, written as they come: neither memory nor file handles grow with their number."""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import anyio
from fastapi import Request
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from lib.guard.errors import Refusal, bad

MOST_HEADER = 16 * 1024


@dataclass(frozen=True)
class Received:
    """A file that came along: where it is, and what the client called it."""

    path: Path
    filename: str


async def receive(request: Request, field: str, folder: Path, most: int) -> list[Received]:
    """The files of the form field `field`, in `folder` by their numbers. Raises 413 for more than `most`, 422 for a
    damaged form and for one without files."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data":
        raise bad(f"'{field}' in the body is missing.", f"Send a multipart form with files as its field '{field}'.")
    if not options.get(b"boundary"):
        raise bad("The multipart form has no boundary.", "Send it as browsers and curl do.")
    parts = _Parts(options[b"boundary"], field, folder, most)
    try:
        async for piece in request.stream():
            if piece:
                await anyio.to_thread.run_sync(parts.parser.write, piece)
    except MultipartParseError:
        raise bad("The multipart form is damaged.", "Send it as browsers and curl do.") from None
    finally:
        parts.close()
    if not parts.complete:
        raise bad("The multipart form ends too early.", "Send it again.")
    if not parts.found:
        raise bad(f"'{field}' in the body is missing.", f"Send one or more files as the form field '{field}'.")
    return parts.found


class _Parts:
    """What the parser calls as it goes."""

    def __init__(self, boundary: bytes, field: str, folder: Path, most: int):
        self.field, self.folder, self.most = field, folder, most
        self.found: list[Received] = []
        self.complete = False
        self.file: BinaryIO | None = None
        self.headers: dict[bytes, bytes] = {}
        self.name, self.value = b"", b""
        calls = {
            "on_part_begin": self.headers.clear,
            "on_header_field": self.on_header_field,
            "on_header_value": self.on_header_value,
            "on_header_end": self.on_header_end,
            "on_headers_finished": self.on_headers_finished,
            "on_part_data": self.on_part_data,
            "on_part_end": self.close,
            "on_end": self.on_end,
        }
        self.parser = MultipartParser(boundary, calls)  # type: ignore[arg-type]

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self.name = self._bounded(self.name + data[start:end])

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self.value = self._bounded(self.value + data[start:end])

    def on_header_end(self) -> None:
        self.headers[self.name.lower()] = self.value
        self.name = self.value = b""
        if len(self.headers) > 16:
            raise bad("A part of the multipart form has too many headers.")

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self.headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name != self.field or b"filename" not in options:
            return  # a field of another kind, which says nothing here
        if len(self.found) >= self.most:
            raise Refusal(413, f"A session takes at most {self.most} files.", "Send them as one zip.")
        path = self.folder / f"{len(self.found) + 1:05d}"
        self.found.append(Received(path, options[b"filename"].decode("utf-8", "replace")))
        self.file = path.open("xb")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self.file is not None:
            self.file.write(data[start:end])

    def on_end(self) -> None:
        self.complete = True

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None

    def _bounded(self, header: bytes) -> bytes:
        if len(header) > MOST_HEADER:
            raise bad("A part of the multipart form has too long a header.")
        return header
