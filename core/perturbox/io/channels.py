"""A scan of several channels: which files it is named by, and how they become one volume and files again.

Named are several files as t1.nii.gz,t2.nii.gz, a folder of CASE_0000… files as nnU-Net lays them out, or one 4D NIfTI
file whose last axis is the channels. A name that holds a comma itself is still one name where such a file is there.
"""

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from perturbox.io.checks import Stored
from perturbox.io.files import sha256, suffix
from perturbox.io.formats import BY_SUFFIX
from perturbox.types import InputError, Volume

_NUMBERED = re.compile(r"(?P<case>.+)_(?P<number>\d{4})$")


def sources(named: str | Path) -> tuple[Path, ...]:
    """The files (or DICOM folders) that name a scan, one per channel in order; one for a scan of one file.

    Raises InputError for a folder of several cases, or one that lacks a channel.
    """
    path = Path(named)
    if path.is_dir():
        return _numbered(path) or (path,)
    text = str(named)
    if "," not in text or path.exists():
        return (path,)
    parts, found = text.split(","), []
    while parts:
        # The longest that is there: a file's own name may have a comma.
        count = next((n for n in range(len(parts), 0, -1) if Path(",".join(parts[:n])).exists()), 1)
        name = ",".join(parts[:count])
        if not name.strip():
            raise InputError(f"'{text}' has an empty name between commas; write t1.nii.gz,t2.nii.gz.")
        found.append(Path(name))
        parts = parts[count:]
    return tuple(found)


def _numbered(folder: Path) -> tuple[Path, ...]:
    """The files CASE_0000, CASE_0001, … of a folder, none if it holds none."""
    cases: dict[str, dict[int, Path]] = {}
    for file in sorted(folder.iterdir()):
        kind = suffix(file)
        match = _NUMBERED.match(file.name[: -len(kind)] if kind else file.name)
        if match and kind in BY_SUFFIX and not file.name.startswith("."):
            channels = cases.setdefault(match["case"], {})
            if (number := int(match["number"])) in channels:
                raise InputError(f"{folder} has channel {number:04d} of {match['case']} twice; leave one of them.")
            channels[number] = file
    if not cases:
        return ()
    if len(cases) > 1:
        first = next(iter(cases))
        raise InputError(
            f"{folder} holds {len(cases)} cases ({', '.join(list(cases)[:3])}{', …' if len(cases) > 3 else ''}); "
            f"name the files of one, as {first}_0000…,{first}_0001…."
        )
    ((case, channels),) = cases.items()
    lacking = [number for number in range(max(channels) + 1) if number not in channels]
    if lacking:
        raise InputError(
            f"{folder} lacks {case}_{lacking[0]:04d}, a channel before its last; add it or name the files."
        )
    return tuple(channels[number] for number in sorted(channels))


def digest(files: Sequence[Path]) -> str:
    """SHA-256 of a scan's file; of several that of their hashes in order."""
    each = [sha256(file) for file in files]
    return each[0] if len(each) == 1 else hashlib.sha256("".join(each).encode()).hexdigest()


def stack(names: Sequence[str], volumes: Sequence[Volume]) -> Volume:
    """One volume of single channels in this order; raises InputError where one has several, or lies elsewhere."""
    first = volumes[0]
    for name, volume in zip(names, volumes, strict=True):
        if len(volume.data) != 1:
            raise InputError(f"{name} has {len(volume.data)} values per voxel; give a file of one for each channel.")
        if volume.dims != first.dims or not first.same_grid(volume):
            raise InputError(
                f"{names[0]} and {name} don't lie on the same voxels: {_differing(first, volume)}; "
                "resample them to one grid."
            )
    data = np.concatenate([volume.data for volume in volumes])
    return dataclasses.replace(
        first,
        data=data,
        files=tuple(dataclasses.replace(volume, data=volume.data[:0]) for volume in volumes),
        notes=tuple(dict.fromkeys(note for volume in volumes for note in volume.notes)),
    )


def _differing(first: Volume, other: Volume) -> str:
    """What sets two grids apart."""
    if first.shape != other.shape:
        return " and ".join(" × ".join(map(str, volume.shape)) for volume in (first, other)) + " voxels"
    if not np.allclose(first.spacing, other.spacing, rtol=1e-3):
        return " and ".join(" × ".join(f"{s:.4g}" for s in volume.spacing) for volume in (first, other)) + " mm apart"
    ends = np.array(np.meshgrid(*((0, n - 1) for n in (*first.shape, 1)[:3]), [1], indexing="ij")).reshape(4, -1)
    away = np.linalg.norm(((first.affine - other.affine) @ ends)[:3], axis=0).max()
    return f"they are placed up to {away:.3g} mm apart"


def apart(stored: Stored) -> list[Stored]:
    """The channels of one file as if each were a file of its own."""
    return [dataclasses.replace(stored, values=stored.values[c : c + 1]) for c in range(len(stored.values))]
