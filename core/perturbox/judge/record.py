"""result.json as every reader gets it: the present schema, whatever the folder's age.

A folder of schema 1 is brought to schema 2 as it is read, never on disk. What schema 1 didn't record is null.
"""

import dataclasses
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PureWindowsPath
from typing import Any

from perturbox.io.files import sha256, unreadable
from perturbox.io.formats import PHOTOGRAPHS
from perturbox.judge.columns import summarise
from perturbox.judge.verdicts import Limits
from perturbox.types import InputError

SCHEMA = "perturbox-result/2"
OLD_SCHEMA = "perturbox-result/1"
MARGIN_SCHEMA = "perturbox-margin/1"
UNFINISHED, UNFINISHED_SCHEMA = "unfinished.json", "perturbox-unfinished/1"
LARGEST_RECORD = 256 << 20  # bytes; a thousand structures in a thousand slices take 100 MB

_number = (int, float)
# What readers compute with, and of which kind it must be: a folder may come from anywhere.
_KINDS: dict[str, tuple[type, ...]] = {
    "attack.name": (str,),
    "attack.parameters.eps": (*_number, type(None)),
    "attack.parameters.norm": (str,),
    "attack.parameters.steps": (int,),
    "attack.parameters.goal": (str,),
    "attack.parameters.target": (list,),
    "victim.name": (str,),
    "victim.spec": (str,),
    "victim.sha256": (str,),
    "victim.labels": (dict,),
    "source.unit": (str,),
    "source.format": (str,),
    "source.shape": (list,),
    "reference": (str,),
    "metrics.clean": (dict,),
    "metrics.adversarial": (dict,),
    "budget.eps": _number,
    "budget.eps_asked": _number,
    "budget.unit_asked": (str,),
    "budget.measured": (dict,),
    "control": (dict,),
    "verdicts": (dict,),
    "outlined": (list, type(None)),
    "summary": (dict,),
    "flow": (list, type(None)),
    "surrogates": (list,),
    "trace": (list,),
    "versions": (dict,),
    "effort": (dict,),
    "warnings": (list,),
    "margin": (dict, type(None)),
    "members": (list, type(None)),
    "stopped_early": (str, type(None)),
    "untested": (str, dict, type(None)),
    "files": (dict,),
    "seed": (int,),
    "threads": (int,),
    "device": (str,),
    "force": (bool,),
    "replayable": (bool,),
}


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
    path = inside(folder, "result.json")
    if (path.parent / UNFINISHED).is_file():
        raise InputError(
            f"'{folder}' isn't measured: something failed after the attack, as its {UNFINISHED} says; run it again."
        )
    if not path.is_file():
        raise InputError(f"'{folder}' is no result folder: it has no result.json; give one that an attack wrote.")
    try:
        return upgraded(read_json(path), path)
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"'{path}' is damaged: it lacks what every result has; run the attack again.") from None


def read_whole_record(folder: Path) -> dict[str, Any]:
    """As `read_record`, for who computes with it: also raises InputError where something is missing or of another
    kind."""
    record = read_record(folder)
    _check_kinds(record, Path(folder) / "result.json")
    return record


def is_margin(folder: Path) -> bool:
    """Whether a folder holds a search for the margin, not one result."""
    return inside(folder, "margin.json").is_file()


def read_margin(folder: Path) -> dict[str, Any]:
    """margin.json of a search's folder; raises InputError if it isn't one of ours."""
    path = inside(folder, "margin.json")
    document = read_json(path)
    if not isinstance(document, dict) or "schema" not in document:
        raise InputError(f"'{path}' is damaged; search for the margin again.")
    if document["schema"] != MARGIN_SCHEMA:
        raise InputError(f"'{path}' doesn't follow {MARGIN_SCHEMA}; it was made by another version.")
    return document


def read_json(path: Path, again: str = "run the attack again.") -> Any:
    """A JSON document that may come from anywhere; raises InputError for what ours never are: not whole, with NaN or a
    key given twice, nested without end, of an absurd size. again: what to do about it."""
    try:
        if path.stat().st_size > LARGEST_RECORD:
            raise ValueError("larger than any result")
        return strict_json(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        why = "not whole" if isinstance(error, json.JSONDecodeError | UnicodeDecodeError) else str(error)
        raise InputError(f"'{path}' is damaged ({why[:60]}); {again}") from None
    except OSError as error:
        raise unreadable(path, error) from None


def strict_json(text: str) -> Any:
    """A JSON document; raises ValueError or RecursionError for what ours never are: NaN, a key given twice, a number
    beyond measure."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            raise ValueError("a key is given twice")
        return found

    def finite(text: str) -> float:
        if not math.isfinite(number := float(text)):
            raise ValueError("a number isn't finite")
        return number

    def whole(text: str) -> int:
        if abs(number := int(text)) >= 1 << 63:
            raise ValueError("a number is beyond measure")
        return number

    return json.loads(text, object_pairs_hook=unique, parse_int=whole, parse_float=finite, parse_constant=finite)


def upgraded(record: Any, path: Path) -> dict[str, Any]:
    """A record of any known schema in the present one; `path` is named if it is of none."""
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema == SCHEMA:
        # Records that are older than other units than the scan's own; what is missing is said by who needs it.
        if isinstance(budget := record.get("budget"), dict) and "eps" in budget:
            budget.setdefault("eps_asked", budget["eps"])
        if isinstance(victim := record.get("victim"), dict):
            _with_channels(victim)
        return record
    if schema != OLD_SCHEMA:
        raise InputError(f"'{path}' doesn't follow {SCHEMA}; it was made by another version of perturbox.")
    names = _outlined(record)
    _with_channels(record["victim"])
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
        "budget": {**record["budget"], "unit_asked": "native", "eps_asked": record["budget"]["eps"], "step": None},
        "flow": None,
        "precision": None,
        "untested": None,
        "upgraded_from": OLD_SCHEMA,
    }
    return {**new, "summary": summarise(new)}


def _with_channels(victim: dict[str, Any]) -> None:
    """Records that are older than scans of several channels don't say that a model reads one."""
    victim.setdefault("channels", 1)
    victim.setdefault("channel_names", [])


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
    path = inside(folder, entry["path"])
    if not path.is_file():
        raise InputError(f"'{folder}' lacks {path.name}; copy the whole result folder.")
    return path


def inside(folder: Path, name: Any) -> Path:
    """The path of a file of the folder; raises InputError for a name or a link that leads out of it."""
    if not isinstance(name, str) or name in ("", "..") or Path(name).name != name or PureWindowsPath(name).name != name:
        raise InputError(f"'{folder}' names the file '{name}', which lies outside; don't trust this folder.")
    path = Path(folder) / name
    if path.is_symlink() and path.resolve().parent != Path(folder).resolve():
        raise InputError(f"'{path}' is a link to a file elsewhere; put a copy of that file in its place.")
    return path


def _check_kinds(record: Mapping[str, Any], path: Path) -> None:
    """Raise InputError where something that is computed with is missing or of another kind."""
    for place, kinds in _KINDS.items():
        value: Any = record
        for part in place.split("."):
            value = value.get(part, ...) if isinstance(value, dict) else ...
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise InputError(f"'{path}' is damaged: its {place} is missing or no {kinds[0].__name__}.")
    texts = [*record["attack"]["parameters"]["target"], *(record["outlined"] or ())]
    for entry in record["files"].values():
        if entry is None:
            continue
        if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
            raise InputError(f"'{path}' is damaged: an entry of its files has no path.")
        texts += [entry.get("sha256") or ""]
    for model in record["surrogates"]:
        texts += [model.get("spec"), model.get("sha256")] if isinstance(model, dict) else [None]
    labels = record["victim"]["labels"].values()
    if not all(isinstance(text, str) for text in texts) or not all(
        type(value) is int and 0 <= value < 1 << 16 for value in labels
    ):
        raise InputError(f"'{path}' is damaged: a name, a hash or a label isn't one.")
    losses = [row.get("loss") if isinstance(row, dict) else "" for row in record["trace"]]
    if not all(loss is None or type(loss) in _number for loss in losses):
        raise InputError(f"'{path}' is damaged: a row of its trace has no loss.")
    if record["seed"] < 0 or not 1 <= record["threads"] <= 4096:
        raise InputError(f"'{path}' is damaged: {record['threads']} threads and seed {record['seed']} can't be.")


def channel_of(name: str) -> str:
    """The scan that an entry of "files" is a channel of: "adversarial" of "adversarial_0001"; "" for any other."""
    found = re.fullmatch(r"(.+)_\d{4}", name)
    return found[1] if found else ""


def required_file(folder: Path, record: Mapping[str, Any], name: str) -> Path:
    """As `file_of`, for what every result has."""
    path = file_of(folder, record, name)
    if path is None:
        raise InputError(f"'{folder}' has no {name}; run the attack again.")
    return path


def described(folder: Path, files: Mapping[str, str | None]) -> dict[str, dict[str, str] | None]:
    """The entry "files" of result.json: each file's name in the folder and its SHA-256."""
    return {name: {"path": file, "sha256": sha256(folder / file)} if file else None for name, file in files.items()}
