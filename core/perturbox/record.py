"""result.json as every reader gets it: the present schema, whatever the folder's age.

A folder of schema 1 is brought to schema 2 as it is read, never on disk. What schema 1 didn't record is null.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perturbox.io.files import sha256
from perturbox.metrics import Limits
from perturbox.types import InputError

SCHEMA = "perturbox-result/2"
OLD_SCHEMA = "perturbox-result/1"


def read_record(folder: Path) -> dict[str, Any]:
    """result.json of a result folder in the present schema.

    Raises InputError if there is none or it isn't one of ours.
    """
    path = Path(folder) / "result.json"
    if not path.is_file():
        raise InputError(f"'{folder}' is no result folder: it has no result.json; give the --out of an attack.")
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
    return {
        **record,
        "schema": SCHEMA,
        "files": {name: file and {"path": file, "sha256": None} for name, file in record["files"].items()},
        "limits": dataclasses.asdict(Limits()),
        "verdicts": _final(record),
        "metrics": {
            **record["metrics"],
            "against_clean": record["metrics"]["adversarial"] if record["reference"] == "clean_prediction" else None,
        },
        "budget": {**record["budget"], "unit_asked": "native"},
        "flow": None,
        "precision": None,
        "untested": None,
        "upgraded_from": OLD_SCHEMA,
    }


def _final(record: Mapping[str, Any]) -> dict[str, str]:
    """Schema 1 left benign, absent and volume to its readers; against an expert it had no overlap to judge them by."""
    rows, own = record["metrics"]["adversarial"], record["reference"] == "clean_prediction"
    floors = (record["control"].get("benign") or {}).get("dice") or {}
    final = {}
    for name, word in record["verdicts"].items():
        dice, floor = rows.get(name, {}).get("dice"), floors.get(name)
        if own and dice is None:
            word = "absent"
        elif own and word in ("vanished", "appeared", "dice"):
            if floor is not None and dice >= floor:
                word = "benign"
            elif word == "dice" and dice >= Limits.dice:
                word = "volume"
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
    return {name: file and {"path": file, "sha256": sha256(folder / file)} for name, file in files.items()}
