"""result.json as every reader gets it: the present schema, whatever the folder's age.

A folder of schema 1 is brought to schema 2 as it is read, never on disk. What schema 1 didn't record is null.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perturbox.io.files import sha256
from perturbox.metrics import Limits
from perturbox.summary import summarise
from perturbox.types import PHOTOGRAPHS, InputError

SCHEMA = "perturbox-result/2"
OLD_SCHEMA = "perturbox-result/1"


def read_record(folder: Path) -> dict[str, Any]:
    """result.json of a result folder in the present schema.

    Raises InputError if there is none or it isn't one of ours.
    """
    path = Path(folder) / "result.json"
    if not path.is_file():
        raise InputError(f"'{folder}' is no result folder: it has no result.json; give one that an attack wrote.")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise InputError(f"'{path}' is damaged; run the attack again.") from None
    return upgraded(record, path)


def upgraded(record: Any, path: Path) -> dict[str, Any]:
    """A record of any known schema in the present one; `path` is named if it is of none."""
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema == SCHEMA:
        return record
    if schema != OLD_SCHEMA:
        raise InputError(f"'{path}' doesn't follow {SCHEMA}; it was made by another version of perturbox.")
    names = _outlined(record)
    new = {
        **record,
        "schema": SCHEMA,
        "source": {**record["source"], "sizes": _sizes(record)},
        "outlined": names,
        "files": {name: file and {"path": file, "sha256": None} for name, file in record["files"].items()},
        "limits": dataclasses.asdict(Limits()),
        "verdicts": _final(record, names),
        "metrics": _metrics(record, names),
        "warnings": [text for text in record["warnings"] if not _of_nothing(text, names, record)],
        "control": {kind: known and _control(kind, known, names) for kind, known in record["control"].items()},
        "budget": {**record["budget"], "unit_asked": "native"},
        "flow": None,
        "precision": None,
        "untested": None,
        "upgraded_from": OLD_SCHEMA,
    }
    return {**new, "summary": summarise(new)}


def _outlined(record: Mapping[str, Any]) -> list[str] | None:
    """Schema 1 took what an expert left out for what the expert found none of: a Dice of 0 without a distance, of a
    structure that the model found."""
    if record["reference"] == "clean_prediction":
        return None
    rows = record["metrics"]["clean"].items()
    lacking = {n for n, row in rows if row["dice"] is None or (row["volume_ml"] and row["hd95_mm"] is None)}
    return [name for name in record["verdicts"] if name not in lacking]


def _of_nothing(warning: str, outlined: list[str] | None, record: Mapping[str, Any]) -> bool:
    """Whether a warning is about the agreement with an outline that isn't there."""
    head = warning.partition(": Dice with the expert outline")[0].lower().replace(" ", "_")
    return outlined is not None and head in {name.lower() for name in record["verdicts"] if name not in outlined}


def _metrics(record: Mapping[str, Any], outlined: list[str] | None) -> dict[str, Any]:
    """Without an agreement with the expert of what wasn't outlined; of photographs in pixels."""
    old = {key: value for key, value in record["metrics"].items() if key in ("clean", "adversarial")}
    if _sizes(record) == "pixels":
        spacing = record["source"]["spacing_mm"]
        for key, rows in old.items():
            old[key] = {name: _in_pixels(row, spacing) for name, row in rows.items()}
    if outlined is None:
        return {**old, "against_clean": old["adversarial"]}
    for key, rows in old.items():
        old[key] = {
            name: row if name in outlined else {**dict.fromkeys(row), "volume_ml": row["volume_ml"]}
            for name, row in rows.items()
        }
    against = {name: {**dict.fromkeys(row), "volume_ml": row["volume_ml"]} for name, row in old["adversarial"].items()}
    for name, row in against.items():
        row["dice"] = _agreement(record, name)
    return {**old, "against_clean": against}


def _in_pixels(row: Mapping[str, Any], spacing: Sequence[float]) -> dict[str, Any]:
    area, far = math.prod(spacing) / 100, row["hd95_mm"]
    return {**row, "volume_ml": row["volume_ml"] / area, "hd95_mm": None if far is None else far / spacing[0]}


def _control(kind: str, known: Mapping[str, Any], outlined: list[str] | None) -> dict[str, Any]:
    """Controls of what wasn't outlined were against an outline that isn't there; benign ones never were."""
    if outlined is None or kind == "benign":
        return dict(known)
    return {"dice": {name: dice if name in outlined else None for name, dice in known["dice"].items()}}


def _sizes(record: Mapping[str, Any]) -> str:
    source = record["source"]
    flat = len(source["shape"]) == 2
    return "ml" if not flat else "pixels" if source["format"] in PHOTOGRAPHS else "cm²"


def _agreement(record: Mapping[str, Any], name: str) -> float | None:
    """Dice of the prediction after with the one before: of a volume that has an expert, from the voxels it lost."""
    if record["reference"] == "clean_prediction":
        return record["metrics"]["adversarial"].get(name, {}).get("dice")
    before, after = (record["metrics"][key][name]["volume_ml"] for key in ("clean", "adversarial"))
    source = record["source"]
    if not before + after or len(source["shape"]) == 2:
        return None
    lost = sum(row["lost"] for row in record["slices"] if row["structure"] == name and row["axis"] == 0)
    return 2 * (before - lost * math.prod(source["spacing_mm"]) / 1000) / (before + after)


def _final(record: Mapping[str, Any], outlined: list[str] | None) -> dict[str, str]:
    """Schema 1 left benign, absent and volume to its readers, and took what wasn't outlined for held."""
    floors = (record["control"].get("benign") or {}).get("dice") or {}
    final = {}
    for name, word in record["verdicts"].items():
        dice, floor = _agreement(record, name), floors.get(name)
        volumes = [record["metrics"][key].get(name, {}).get("volume_ml") for key in ("clean", "adversarial")]
        if not any(volumes):
            word = "absent"
        elif dice is not None and word in ("vanished", "appeared", "dice"):
            if floor is not None and dice >= floor:
                word = "benign"
            elif word == "dice" and dice >= Limits.dice:
                word = "volume"
        elif word == "held" and outlined is not None and name not in outlined:
            word = "not-outlined"
        final[name] = word
    return final


def file_of(folder: Path, record: Mapping[str, Any], name: str) -> Path | None:
    """The path of one of a result's files, None if the result has none of that name; raises InputError if it is
    missing."""
    entry = record["files"].get(name)
    if entry is None:
        return None
    path = Path(folder) / Path(entry["path"]).name
    if not path.is_file():
        raise InputError(f"'{folder}' lacks {path.name}; copy the whole result folder.")
    return path


def required_file(folder: Path, record: Mapping[str, Any], name: str) -> Path:
    """As `file_of`, for what every result has."""
    path = file_of(folder, record, name)
    if path is None:
        raise InputError(f"'{folder}' has no {name}; run the attack again.")
    return path


def described(folder: Path, files: Mapping[str, str | None]) -> dict[str, dict[str, str] | None]:
    """The entry "files" of result.json: each file's name in the folder and its SHA-256."""
    return {name: {"path": file, "sha256": sha256(folder / file)} if file else None for name, file in files.items()}
