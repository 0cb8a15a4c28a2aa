"""Saved labels as a model's own: which of their values is which structure, by the names that came with them.

Clients number the segments they send from one on, whatever they hold; taken for the model's values, a missing spleen
would make a bone of every kidney.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.datastore import DefaultLabelTag

from perturbox import io
from perturbox.types import InputError

FINAL = DefaultLabelTag.FINAL.value


def final(datastore: Any, image: str, structures: Mapping[str, int]) -> tuple[Path, str | None]:
    """(file, label_map) of an image's final label; raises InputError where there is none, or one of other structures.

    structures: the model's, by name; label_map: as in `Job`, None for the model's own values.
    """
    path = Path(datastore.get_label_uri(image, FINAL) or "") if datastore.get_label_by_image_id(image, FINAL) else None
    if path is None or not path.is_file():
        raise InputError(f"'{image}' has no final label; save one first, or take the prediction as the reference.")
    return path, outlined(path, label_map(datastore.get_label_info(image, FINAL), structures))


def outlined(path: Path, by_names: str | None) -> str | None:
    """Of a label map that follows from segments' names, what the file holds a voxel of: viewers list empty segments,
    too, and an empty one says nothing, where a label_map that a user wrote says that there is none."""
    if by_names is None:
        return None
    values = set(np.unique(io.read_volume(path, unit="label", allow_constant=True).data).tolist())
    entries = by_names.split(",")
    return ",".join(entry for entry in entries if float(entry.partition("=")[2]) in values) or by_names


def label_map(info: Mapping[str, Any], structures: Mapping[str, int]) -> str | None:
    """How to read a label that was saved with these notes, "liver=1,bone=2"; None: in the model's own values.

    Raises InputError for notes that contradict themselves, or name none of the model's structures.
    """
    named = _named(info)
    if not named:
        return None
    known = [(name, value) for name, value in named if name in structures]
    if not known:
        names = ", ".join(name for name, _ in named)[:200]
        raise InputError(f"The label is of {names}; the model knows {', '.join(structures)}.")
    return ",".join(f"{name}={value}" for name, value in known)


def named(info: Mapping[str, Any]) -> set[str]:
    """The structures that a saved label names; none where its notes contradict themselves."""
    try:
        return {name for name, _ in _named(info)}
    except InputError:
        return set()


def _named(info: Mapping[str, Any]) -> list[tuple[str, int]]:
    """(name, value) of each segment: as viewers tell them, or as an inference of this server does."""
    told = info.get("label_info")
    if isinstance(told, list) and told and all(isinstance(entry, Mapping) and "name" in entry for entry in told):
        numbers = [entry.get("idx", entry.get("id", place)) for place, entry in enumerate(told, 1)]
        if numbers != list(range(1, len(told) + 1)):
            raise InputError(
                f"The label's segments are numbered {', '.join(map(str, numbers))[:80]}, but are stored as 1 to "
                f"{len(told)} in their order; save it again without a background segment."
            )
        return [(str(entry["name"]), number) for entry, number in zip(told, numbers, strict=True)]
    params = info.get("params")
    names = params.get("label_names") if isinstance(params, Mapping) else None
    return [(str(name), int(value)) for name, value in names.items()] if isinstance(names, Mapping) else []
