"""Unpacking what a client packed: only ordinary files, only into one folder, only so many and so much."""

import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from lib.guard.errors import Refusal, bad

MOST_FILES = 20_000
BLOCK = 2**20
KEPT = 40  # characters of a suffix


def unpack(path: Path, folder: Path, most_bytes: int) -> list[Path]:
    """The files of a zip or tar archive, written to `folder` under plain numbers and their suffix.

    Members with absolute paths, "..", links or devices are refused whole (422), so are more files or bytes than allowed
    (413), counted while unpacking, whatever the archive says of itself.
    """
    written: list[Path] = []
    total = 0
    try:
        for name, stream in _members(path):
            if len(written) >= MOST_FILES:
                raise Refusal(413, f"The archive holds more than {MOST_FILES} files.", "Pack one series only.")
            target = folder / f"{len(written) + 1:05d}{_suffix(name)}"
            with stream, target.open("xb") as file:
                while block := stream.read(BLOCK):
                    total += len(block)
                    if total > most_bytes:
                        raise Refusal(413, f"The archive unpacks to more than {most_bytes / 2**20:g} MiB.")
                    file.write(block)
            written.append(target)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise bad("The archive is damaged.", "Pack it again.") from error
    except (RuntimeError, NotImplementedError) as error:  # a password, an unknown compression
        raise bad("The archive can't be unpacked: it has a password or an unknown compression.") from error
    if not written:
        raise bad("The archive holds no files.", "Pack the files of one image.")
    return written


def _members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                _check_name(member.filename)
                kind = member.external_attr >> 16 & 0o170000
                if kind not in (0, 0o100000, 0o040000):
                    raise _unsafe("a link or a device")
                if not member.is_dir():
                    yield member.filename, archive.open(member)
        return
    with _tar(path) as packed:
        for entry in packed:
            _check_name(entry.name)
            if entry.isdir():
                continue
            stream = packed.extractfile(entry) if entry.isreg() else None
            if stream is None:
                raise _unsafe("a link or a device")
            yield entry.name, stream


def _tar(path: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(path, errorlevel=1)
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError):
        raise bad("The file is no archive, though 'uncompress' was asked for.", "Send a zip or a tar.") from None


def _check_name(name: str) -> None:
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or ":" in name or any(letter < " " for letter in name):
        raise _unsafe("a path that leads outside it")


def _suffix(name: str) -> str:
    last = PurePosixPath(name.replace("\\", "/")).name.lower()
    suffix = ".nii.gz" if last.endswith(".nii.gz") else PurePosixPath(last).suffix
    plain = suffix.replace(".", "").isalnum() and suffix.isascii() and len(suffix) <= KEPT
    return suffix if plain and not suffix[1:].isdigit() else ""


def _unsafe(what: str) -> Refusal:
    return bad(f"The archive holds {what}.", "Pack plain files only, and send it again.")
