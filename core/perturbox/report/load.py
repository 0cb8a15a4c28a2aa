"""Reading a result folder: the record, and the volumes one after another, so that a clinical scan fits in memory."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from perturbox.io import read_stored, read_volume
from perturbox.io.files import sha256
from perturbox.io.formats import FORMATS
from perturbox.judge.record import read_record, required_file
from perturbox.types import InputError

# Free text of a record may carry what a page that travels must not: paths, names of scan files, DICOM UIDs and dates.
_PRIVATE = re.compile(
    r"""(?<![\w:/.])(?:~|[A-Za-z]:)?[\\/](?:[\w.\-+ ]+[\\/])*[\w.\-+]+   # absolute paths
    |\b[\w.\-+/\\]+(?:"""
    + "|".join(map(re.escape, (*FORMATS, ".dcm")))
    + r""")(?:\.gz)?\b   # scan files
    |\b\d+(?:\.\d+){4,}\b   # DICOM UIDs
    |\b(?:19|20)\d\d-?(?:0\d|1[0-2])-?(?:[0-2]\d|3[01])\b   # dates
    """,
    re.VERBOSE,
)
_KEEP = {"sha256", "files", "format"}


def without_private(value: Any) -> Any:
    """The same record with paths, scan file names, UIDs and dates in its texts replaced by "…"."""
    if isinstance(value, str):
        return _PRIVATE.sub("…", value)
    if isinstance(value, dict):
        return {k: v if k in _KEEP else without_private(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_private(v) for v in value]
    return value


@dataclass(frozen=True)
class Result:
    """One result folder; volumes are read when asked for.

    record: result.json without private text. sha256: of result.json as stored. structures: names in order of their
    values, background left out; their labels on the page are 1, 2, … in this order. shape: the file's own, always
    three axes (a 2D image has one voxel along the third). affine: ijk -> RAS, mm.
    """

    folder: Path
    record: dict[str, Any]
    sha256: str
    structures: tuple[str, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray
    flat: bool
    _values: tuple[int, ...] = field(repr=False)

    @property
    def own_reference(self) -> bool:
        """Whether every Dice of the record compares the model with its own clean prediction, not with an expert."""
        return self.record["reference"] == "clean_prediction"

    def labels(self, name: str) -> np.ndarray:
        """A segmentation of the folder ("clean_seg" or "adversarial_seg"), uint8 "i j k", renumbered to
        `structures`."""
        stored = read_stored(self._path(name)).values.astype(np.uint16)
        table = np.zeros(max(int(stored.max(initial=0)), *self._values, 0) + 1, np.uint8)
        for number, value in enumerate(self._values, start=1):
            table[value] = number
        return self._on_grid(table[stored], name)[0]

    def change(self) -> np.ndarray:
        """The perturbation "c i j k" in the scan's unit: one channel, or three of a colour picture."""
        # In the file's own type, which for a clinical scan takes half of a `Volume`'s memory.
        return self._on_grid(read_stored(self._path("perturbation")).values, "perturbation")

    def perturbed(self) -> np.ndarray:
        """The adversarial scan "c i j k" in its unit."""
        volume = read_volume(self._path("adversarial"), unit=self.record["source"]["unit"])
        return self._on_grid(volume.data, "adversarial")

    @property
    def shown(self) -> dict[str, Any]:
        """What the record's budget says of what is shown, in its unit: of a scan of several files the first."""
        budget = self.record["budget"]
        return budget["channels"][0] if budget.get("channels") else {**budget, **budget["measured"]}

    def influence(self) -> np.ndarray | None:
        """Gradient times change "i j k", summed over the channels, None where the attack took no gradient."""
        if self.record["files"].get("influence") is None:
            return None
        stored = read_stored(self._path("influence"))
        return self._on_grid(stored.values, "influence").sum(0, dtype=np.float32)

    def _path(self, name: str) -> Path:
        return required_file(self.folder, self.record, name)

    def _on_grid(self, array: np.ndarray, name: str) -> np.ndarray:
        """ "c *s" as "c i j k"."""
        array = array.reshape(array.shape + (1,) * (4 - array.ndim))
        if array.shape[1:] != self.shape:
            raise InputError(f"{name} does not line up with the scan (different geometry); run the attack again.")
        return array


def load(folder: Path) -> Result:
    """Open a result folder.

    Raises InputError when it isn't one: no result.json, another schema, missing files.
    """
    record = read_record(folder)
    labels = {name: int(value) for name, value in record["victim"]["labels"].items() if int(value) != 0}
    names = sorted(labels, key=lambda name: labels[name])
    segmented = read_stored(required_file(Path(folder), record, "clean_seg"))
    i, j, k = (*segmented.values.shape[1:], 1)[:3]
    flat = len(record["source"]["shape"]) == 2
    return Result(
        folder=Path(folder),
        record=without_private(record),
        sha256=sha256(Path(folder) / "result.json"),
        structures=tuple(names),
        shape=(i, j, k),
        affine=segmented.affine,
        flat=flat,
        _values=tuple(labels[name] for name in names),
    )
