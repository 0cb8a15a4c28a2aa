"""Paths: what a suffix means, what may be read, and how a file comes into being whole."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perturbox.types import InputError

PHOTOGRAPHS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
NIFTI = (".nii.gz", ".nii")
FORMATS = (*NIFTI, ".nrrd", ".nhdr", ".mha", ".mhd", *PHOTOGRAPHS)
WRITABLE = (*NIFTI, ".nrrd", ".mha", ".png", ".tif", ".tiff", ".bmp")
DICOM = "dicom"


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
    """Raise InputError unless `out` is free: nothing there, or an empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"'{out}' exists already and is never overwritten; choose a new folder for --out.")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A draft beside `out` that becomes `out` when the block ends well and is removed when it doesn't."""
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield draft
        draft.chmod(0o755)  # a temporary folder is its maker's alone
        if out.exists():
            out.rmdir()
        draft.rename(out)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def require_new_label_map(out: Path) -> None:
    """Raise InputError unless nothing is at `out` and its name is one a label map can have."""
    if out.exists():
        raise InputError(f"'{out}' exists already and is never overwritten; choose a new name for --out.")
    if suffix(out) not in NIFTI:
        raise InputError(f"'{out}' can't hold a label map; name --out something.nii.gz.")


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
