"""Unpacking what a client packed: only ordinary files, only into one folder, only so many and so much.

What an archive says of itself is never believed before it is bounded: tables and long names are read into memory.
"""

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from lib.guard import tar
from lib.guard.errors import Refusal, bad

MOST_FILES = 20_000
MOST_ENTRIES = 2 * MOST_FILES  # folders too
MOST_TABLE = 6 * 2**20  # bytes of a zip's table of contents, about 300 for each file
BLOCK = 2**20
KEPT = 40  # characters of a suffix


def unpack(path: Path, folder: Path, most_bytes: int) -> list[Path]:
    """The files of a zip or tar archive, written to `folder` under plain numbers and their suffix.

    Members with absolute paths, "..", links or devices are refused whole (422), so are more files or bytes than allowed
    (413), counted while unpacking, not as the archive declares.
    """
    written: list[Path] = []
    total = 0
    try:
        for entry, (name, blocks) in enumerate(_members(path, most_bytes)):
            if entry >= MOST_ENTRIES or len(written) >= MOST_FILES:
                raise Refusal(413, f"The archive holds more than {MOST_FILES} files.", "Pack one series only.")
            _check_name(name)
            if blocks is None:
                continue
            target = folder / f"{len(written) + 1:05d}{_suffix(name)}"
            with target.open("xb") as file:
                for block in blocks:
                    total += len(block)
                    if total > most_bytes:
                        raise _too_large(most_bytes)
                    file.write(block)
            written.append(target)
    except tar.TooLarge:
        raise _too_large(most_bytes) from None
    except tar.Special:
        raise _unsafe("a link or a device") from None
    except (zipfile.BadZipFile, tar.Damaged, EOFError, zlib.error) as error:
        raise bad("The archive is damaged.", "Pack it again.") from error
    except (RuntimeError, NotImplementedError) as error:  # a password, an unknown compression
        raise bad("The archive can't be unpacked: it has a password or an unknown compression.") from error
    if not written:
        raise bad("The archive holds no files.", "Pack the files of one image.")
    return written


Member = tuple[str, Iterator[bytes] | None]
"""A name, and the content of a file, None of a folder."""


def _members(path: Path, most_bytes: int) -> Iterator[Member]:
    if not zipfile.is_zipfile(path):
        if not tar.is_tar(path):
            raise bad("The file is not an archive, but 'uncompress' was requested.", "Send a zip or a tar.")
        yield from tar.members(path, most_bytes)
        return
    _check_table(path)
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            kind = member.external_attr >> 16 & 0o170000
            if kind not in (0, 0o100000, 0o040000):
                raise _unsafe("a link or a device")
            if member.is_dir():
                yield member.filename, None
                continue
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise NotImplementedError
            with archive.open(member) as stream:
                yield member.filename, _blocks(stream)


def _check_table(path: Path) -> None:
    """Raises a 413 for a zip whose table of contents, which is read whole, would grow this process."""
    with path.open("rb") as file:
        found = zipfile._EndRecData(file)  # type: ignore[attr-defined]  # the very reading that ZipFile goes by
    if found is None:
        raise zipfile.BadZipFile
    if found[zipfile._ECD_SIZE] > MOST_TABLE:  # type: ignore[attr-defined]
        raise Refusal(413, f"The archive holds more than {MOST_FILES} files.", "Pack one series only.")


def _blocks(stream: IO[bytes]) -> Iterator[bytes]:
    while block := stream.read(BLOCK):
        yield block


def _too_large(most_bytes: int) -> Refusal:
    return Refusal(413, f"The archive unpacks to more than {most_bytes / 2**20:g} MiB.")


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
