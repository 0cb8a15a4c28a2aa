"""Paths: what a suffix means, what may be read, and how a file comes into being whole."""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from perturbox.io.formats import NIFTI
from perturbox.types import InputError

_ROOM = ".room"


def suffix(path: str | Path) -> str:
    """The suffix that names a file's format, in lower case and with both parts of ".nii.gz"."""
    name = Path(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def require_file(path: Path) -> None:
    """Raises InputError unless `path` is a file with something in it that this user may read."""
    try:
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty (0 bytes); export it again.")
        with open(path, "rb"):
            pass
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: OSError) -> InputError:
    """The refusal for a file that the system won't give."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return InputError(f"{path} doesn't exist; check its path and name.")
    if isinstance(error, PermissionError):
        return InputError(f"{path} may not be read by this user; change its permissions.")
    return InputError(
        f"{path} can't be read ({(error.strerror or str(error)).lower()}); copy it elsewhere and try again."
    )


def damaged(path: Path) -> InputError:
    """The refusal for a file that isn't what its name says."""
    return InputError(
        f"{path} can't be read as {suffix(path)} (damaged, truncated or another format); export it again."
    )


def truncated(path: Path) -> InputError:
    """The refusal for a file that lacks its end."""
    return InputError(f"{path} ends too early (truncated); copy or export it again.")


def require_new(path: Path, overwrite: bool) -> None:
    """Raises InputError if writing to `path` would replace something or has no folder to go to."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the name of a file in it.")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} isn't a folder; create it before writing {path.name}.")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already and isn't overwritten; choose another name.")


def require_new_folder(out: Path) -> None:
    """Raise InputError unless `out` is free, nothing there or an empty folder, and a folder can be made there."""
    if out.is_symlink() or os.path.ismount(out) or (out.exists() and out.samefile(Path.cwd())):
        raise InputError(f"'{out}' can't be replaced by a result; name a new folder in it for --out.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"'{out}' exists already and is never overwritten; choose a new folder for --out.")
    require_writable(out)


def require_writable(out: Path) -> None:
    """Raise InputError now, not after an hour, where nothing could be made under this name. It is tried: permissions
    alone don't tell."""
    above = out.absolute().parent
    while not os.path.lexists(above):
        above = above.parent
    if not above.is_dir():
        raise InputError(f"'{out}' can't be made, for '{above}' is a file; choose another place.")
    try:
        Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=above)).rmdir()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"'{out}' can't be made ({reason}); choose another place.") from None


@contextmanager
def new_folder(out: Path, bytes: int = 0) -> Iterator[Path]:
    """A draft beside `out` that becomes `out` when the block ends well and is removed when it doesn't.

    bytes: room on the disk that is kept for what `out` will hold until the block ends or calls `free_room`; raises
    OSError (ENOSPC) where there isn't as much.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        _keep_room(draft, bytes, out)
        yield draft
        free_room(draft)
        draft.chmod(0o755)  # a temporary folder is its maker's alone
        if out.exists():
            out.rmdir()
        draft.rename(out)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _keep_room(draft: Path, bytes: int, out: Path) -> None:
    if shutil.disk_usage(draft).free < bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out))
    if bytes and hasattr(os, "posix_fallocate"):
        with (draft / _ROOM).open("wb") as file, suppress(OSError):  # not every file system can
            os.posix_fallocate(file.fileno(), 0, bytes)


def free_room(draft: Path) -> None:
    """Give the room that `new_folder` keeps to what is written now."""
    (draft / _ROOM).unlink(missing_ok=True)


def require_new_label_map(out: Path) -> None:
    """Raise InputError unless nothing is at `out`, its name is one a label map can have, and it can be made."""
    if suffix(out) not in NIFTI:
        raise InputError(f"'{out}' can't hold a label map; name --out something.nii.gz.")
    require_new_file(out)


def require_new_file(out: Path) -> None:
    """Raise InputError unless nothing is at `out` and a file can be made there, with the folders it lies in."""
    if os.path.lexists(out):
        raise InputError(f"'{out}' exists already and is never overwritten; choose a new name.")
    require_writable(out)


def sha256(path: Path) -> str:
    """Hash of a file, or of a folder's files in order of name."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary sibling that becomes `path` when the block ends well and is removed when it doesn't."""
    temporary = path.with_name(f".{os.getpid()}-{path.name}")  # keeps the suffix, by which writers choose the format
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(
            f"{path} can't be written ({reason}); free space, change permissions or write elsewhere."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
