"""What headers of NRRD and MetaImage have in common: lines, numbers, and voxels that may lie beside them."""

import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perturbox.types import InputError

MOST_BYTES = 2**20
MOST_AXES = 16
CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
WORD = re.compile(r"[A-Za-z0-9?*_-]+", re.ASCII)


@dataclass(frozen=True, eq=False)
class Header:
    """What a header says. text: the same for ITK, without its remarks; remarks: free keys and their values.

    data, offset: where the voxels are, offset None at the end of the file; packing: "raw", "zlib" or "text"; shape:
    of the array, fastest axis first; channel_axis: which of its axes isn't in space.
    """

    path: Path
    text: str
    remarks: Mapping[str, str]
    data: Path
    offset: int | None
    packing: str
    dtype: np.dtype
    shape: tuple[int, ...]
    channel_axis: int | None = None

    @property
    def detached(self) -> bool:
        """Whether the voxels are in another file."""
        return self.data != self.path


def size(header: Header) -> int:
    """Bytes of the voxels, unpacked."""
    count = header.dtype.itemsize
    for length in header.shape:
        count *= length
    return count


def lines_of(path: Path, start: bytes, is_last: Callable[[bytes], bool]) -> tuple[list[str], int]:
    """The header's lines without their ends, up to the one that is last or the file's end, and where the data begin."""
    lines: list[str] = []
    at = 0
    while at < len(start):
        end = start.find(b"\n", at)
        if end < 0:
            if len(start) == MOST_BYTES:
                break
            end = len(start)
        line = start[at:end].removesuffix(b"\r")
        if found := CONTROL.search(line):
            raise bad(path, f"holds the control character 0x{found[0][0]:02x} in line {len(lines) + 1}")
        lines.append(text(line))
        at = min(end + 1, len(start))
        if is_last(line):
            return lines, at
    if len(start) == MOST_BYTES:
        raise bad(path, f"is longer than {MOST_BYTES >> 20} MiB")
    return lines, at


def text(line: bytes) -> str:
    """A line as text: UTF-8, else Latin-1."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")


def put(path: Path, found: dict[str, str], key: str, value: str) -> None:
    """Note a key's value; raises InputError if the key has one already."""
    if key in found:
        raise bad(path, f"says '{short(key)}' twice")
    found[key] = value


def bad(path: Path, what: str) -> InputError:
    """What is wrong with a header, as an error to raise."""
    return InputError(f"{path} has a header that {what}; export it again, as .nii.gz if you can.")


def elsewhere(path: Path) -> InputError:
    """The refusal of a header whose voxels lie in another file."""
    return InputError(f"{path} says that its voxels lie in another file; send one whole file.")


def short(text: str) -> str:
    """A value from a header as a sentence may quote it."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in text)
    return plain if len(plain) <= 40 else f"{plain[:39]}…"


def wrong(path: Path, key: str, value: str) -> InputError:
    """The refusal of a key's value."""
    return bad(path, f"gives '{short(value)}' for '{key}'")


def whole_number(path: Path, key: str, value: str) -> int:
    """A whole number; raises InputError for anything else."""
    if not re.fullmatch(r"-?\d{1,15}", value, re.ASCII):
        raise wrong(path, key, value)
    return int(value)


def sizes(path: Path, key: str, value: str, count: int) -> tuple[int, ...]:
    """So many sizes, none below 0; raises InputError otherwise."""
    sizes = tuple(whole_number(path, key, word) for word in value.split())
    if len(sizes) != count or min(sizes) < 0:
        raise wrong(path, key, value)
    return sizes


def number(path: Path, key: str, word: str) -> str:
    """One number, written again; raises InputError for anything else."""
    try:
        if "_" in word or not word.isascii():
            raise ValueError
        return repr(float(word))
    except ValueError:
        raise wrong(path, key, word) from None


def numbers(path: Path, key: str, value: str) -> str:
    """Several numbers, written again with blanks between them."""
    return " ".join(number(path, key, word) for word in value.split())


def beside(path: Path, name: str) -> Path:
    """The data file that a header names: an ordinary file in the header's own folder or below it, links followed."""
    if not name or name.split()[0].upper() == "LIST" or "%" in name:
        raise InputError(f"{path} has its voxels in several files; save it as one .nrrd or .mha file.")
    folder = Path(os.path.realpath(path.parent))
    parts = name.replace("\\", "/").split("/")
    data = Path(os.path.realpath(folder / name))
    if name.startswith(("/", "\\")) or ":" in parts[0] or ".." in parts or not data.is_relative_to(folder):
        raise InputError(
            f"{path} says that its voxels lie outside its own folder; put both files into one folder and name it there."
        )
    try:
        ordinary = stat.S_ISREG(data.stat().st_mode)
    except OSError:
        raise InputError(
            f"{path} has its voxels in '{short(name)}', which isn't beside it; copy both files into one folder."
        ) from None
    if not ordinary:
        raise InputError(f"{path} has its voxels in '{short(name)}', which is no file; export the scan again.")
    return data
