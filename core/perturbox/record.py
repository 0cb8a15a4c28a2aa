"""result.json as every reader gets it: the present schema, whatever the folder's age.

A folder of schema 1 is brought to schema 2 as it is read, never on disk. What schema 1 didn't record is null.
"""

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from perturbox.io.files import sha256
from perturbox.metrics import Limits
from perturbox.types import InputError

SCHEMA = "perturbox-result/2"
OLD_SCHEMA = "perturbox-result/1"
UNFINISHED, UNFINISHED_SCHEMA = "unfinished.json", "perturbox-unfinished/1"


class Unfinished(Exception):
    """What an attack found is kept at `folder`, but something after it failed: `__cause__` says what."""

    def __init__(self, folder: Path):
        super().__init__(f"'{folder}' keeps what the attack found, of which nothing is measured.")
        self.folder = folder


def write_json(path: Path, document: Any) -> None:
    """Write a document that reads the same everywhere; undefined numbers must be null already."""
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def begin(folder: Path, history: Any) -> None:
    """Say in a folder that only holds what an attack found that it isn't measured yet."""
    write_json(folder / UNFINISHED, {**history, "schema": UNFINISHED_SCHEMA, "why": None})


@contextmanager
def finishing(folder: Path) -> Iterator[None]:
    """Around what completes a folder that `begin` marked. Where it fails, the folder stays as it is and says why, and
    Unfinished is raised; where it is abandoned (Ctrl-C), the folder goes."""
    note = folder / UNFINISHED
    try:
        yield
        note.unlink()
    except Exception as error:
        # The folder of one find lies in that of a margin.
        cause = error.__cause__ if isinstance(error, Unfinished) else error
        why = str(cause) if isinstance(cause, InputError) else type(cause).__name__
        with suppress(OSError):  # a full disk keeps the note it has
            write_json(note, {**json.loads(note.read_text(encoding="utf-8")), "why": why})
        raise Unfinished(folder) from cause
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def read_record(folder: Path) -> dict[str, Any]:
    """result.json of a result folder in the present schema.

    Raises InputError if there is none or it isn't one of ours.
    """
    path = Path(folder) / "result.json"
    if (path.parent / UNFINISHED).is_file():
        raise InputError(
            f"'{folder}' isn't measured: something failed after the attack, as its {UNFINISHED} says; run it again."
        )
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
