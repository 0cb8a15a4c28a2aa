"""Result folders after the fact: verify every number in one, replay it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perturbox import io
from perturbox.attacks import recipes
from perturbox.io.files import require_new_folder, sha256
from perturbox.job.compare import MARGIN_RECORDED, differences, leaves, only_recorded, with_recorded
from perturbox.job.execute import Job, Listener, execute, prepare, versions
from perturbox.job.recertify import examine_certificate, is_certificate
from perturbox.job.recompute import IGNORED, Findings, compare_report, job_of, read_scans, recompute, require_trust
from perturbox.job.trials import MEANING, WITHOUT
from perturbox.judge.metrics import BROKEN, Limits, limit_of
from perturbox.judge.record import file_of, inside, is_margin, read_margin, read_whole_record, required_file
from perturbox.judge.units import NATIVE
from perturbox.model.victim import Victim
from perturbox.types import ADVERSARIAL_NOTICE, InputError

__all__ = ["Findings", "differences", "examine", "read_scans", "replay", "verify"]


def verify(
    folder: Path, listener: Listener | None = None, *, trust: bool = False, victim: Victim | None = None
) -> list[str]:
    """One line for everything in the folder of a result, a search for the margin or a certificate that its other parts
    contradict.

    Integers, words and counts must be equal; measured floats may differ by 1e-6, as other hardware sums in another
    order. trust: whether to load a model that is Python code, see `recompute.require_trust`. victim: the model, if it
    is at hand already.
    Raises InputError where nothing can be recomputed: no result, a damaged one, other weights, a model not trusted.
    """
    return examine(folder, listener, trust=trust, victim=victim).problems


def examine(
    folder: Path, listener: Listener | None = None, *, trust: bool = False, victim: Victim | None = None
) -> Findings:
    """As `verify`, with notes and counts of what was recomputed and what is only recorded."""
    folder, listener = Path(folder), listener or Listener()
    if is_margin(folder):
        return _examine_margin(folder, listener, trust, victim)
    if is_certificate(folder):
        return examine_certificate(folder)
    return recompute(folder, read_whole_record(folder), listener, trust, victim)


def _examine_margin(folder: Path, listener: Listener, trust: bool, victim: Victim | None) -> Findings:
    """Every file that is said to break a structure must do so, at the largest change that is reported, and repeat what
    the search found."""
    document = read_margin(folder)
    found, witnesses = Findings(), {}
    try:
        rows = document["structures"]
        names = sorted({row["witness"] for row in rows.values() if row["witness"] is not None})
        for name in names:
            place = inside(folder, name)
            if not place.is_dir():
                found.problems.append(f"{name}: is missing; copy the whole folder")
                continue
            listener.say(f"Verifying {name}")
            found.add(recompute(place, read_whole_record(place), listener, trust, victim), name)
            witnesses[name] = read_whole_record(place)
            found.problems += differences(witnesses[name]["margin"], rows, f"{name}: margin")
        listed = {"margin.json", "report.html", *names, *IGNORED}
        plain = None
        if "undefended" in document:
            listed.add(WITHOUT)
            plain = read_margin(inside(folder, WITHOUT))
            found.add(_examine_margin(folder / WITHOUT, listener, trust, victim and victim.plain), WITHOUT)
        strangers = sorted(path.name for path in folder.iterdir() if path.name not in listed)
        found.notes += [f"{name} isn't part of this search and wasn't looked at." for name in strangers]
        # Documents that are older than other units than the scan's own.
        document.setdefault("asked", {"unit": NATIVE, "max_eps": document["max_eps"], "one": 1.0})
        told = with_recorded(_margin_again(folder, document, witnesses, found), document, MARGIN_RECORDED)
        if plain is not None:
            told["undefended"] = {"folder": WITHOUT, "structures": plain["structures"]}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"'{folder}/margin.json' is damaged; search for the margin again.") from None
    found.problems += [line.replace("result.json says", "margin.json says") for line in differences(document, told, "")]
    compare_report(folder, document, found)
    kinds = [only_recorded(place, MARGIN_RECORDED) for place in leaves(document)]
    found.recomputed += len(kinds) - sum(kinds)
    found.recorded += sum(kinds)
    return found


def _margin_again(
    folder: Path, document: Mapping[str, Any], witnesses: Mapping[str, dict[str, Any]], found: Findings
) -> dict[str, Any]:
    """margin.json as its witnesses, its trials and the installed recipe give it."""
    told = dict(document)
    told |= {"notice": ADVERSARIAL_NOTICE, "meaning": MEANING, "limits": dataclasses.asdict(Limits())}
    recipe = recipes.get(document["attack"]["name"])
    told["attack"] = {"name": recipe.name, "paper": recipe.paper}
    if "witnesses" in document:
        told["witnesses"] = {name: sha256(inside(folder / name, "result.json")) for name in witnesses}
    else:
        found.notes.append("This margin.json is of an earlier version and has no hashes of its witnesses' result.json.")
    for result in witnesses.values():
        told |= {
            "unit": result["budget"]["unit"],
            "noise": {key: result["noise"][key] for key in ("sigma", "region", "channels") if key in result["noise"]},
            "benign": result["control"]["benign"],
            "victim": result["victim"],
            "source": {key: result["source"][key] for key in ("sha256", "shape", "sizes") if key in document["source"]},
        }
    if not witnesses:
        found.notes.append(
            "Nothing broke, so no file was saved: the bounds rest on the trials that margin.json records."
        )
    told["structures"] = {
        name: _row_again(name, row, document["trials"], told["noise"]["sigma"], witnesses)
        for name, row in document["structures"].items()
    }
    return told


def _row_again(
    name: str,
    row: Mapping[str, Any],
    trials: list[dict[str, Any]],
    sigma: float | None,
    witnesses: Mapping[str, dict[str, Any]],
) -> dict[str, Any]:
    """One structure's row: its break measured on the file that shows it, the rest from the trials."""
    broke = min((trial["linf"] for trial in trials if trial["broken"][name]), default=None)
    if broke is None:
        # Why it was no test is only recorded; so is which of the trials were, and what each said but "broken".
        reason, none = row.get("reason"), dict.fromkeys(("breaks_at", "limit", "witness", "in_sigma"))
        tried = [trial["eps"] for trial in trials]
        above = None if reason else row["above"] if row["above"] in tried else max(tried, default=0.0)
        sizes = [None, *(trial["linf"] for trial in trials if name in trial["aimed"])]
        used = row.get("used") if row.get("used") in sizes else "a size that one of the trials made"
        word = "not-tested" if reason else "held" if row["verdict"] in (*BROKEN, "not-tested") else row["verdict"]
        return {"verdict": word, "reason": reason, "above": above, "used": used, **none}
    if (result := witnesses.get(row["witness"])) is None:
        return {**row, "breaks_at": broke, "witness": "a folder that shows it"}
    size = result["budget"]["measured"]["linf"]
    vain = (t["eps"] for t in trials if name in t["aimed"] and not t["broken"][name] and t["eps"] < broke)
    return {
        "verdict": result["verdicts"][name],
        "reason": None,
        "breaks_at": size if abs(size - broke) > 1e-6 * max(1.0, size) else broke,
        "above": max(vain, default=0.0),
        "used": size if abs(size - broke) > 1e-6 * max(1.0, size) else broke,
        "limit": limit_of(result["verdicts"][name]),
        "witness": row["witness"],
        "in_sigma": size / sigma if sigma else None,
    }


def replay(folder: Path, out: Path, listener: Listener | None = None, *, trust: bool = False) -> dict[str, Any]:
    """Repeat the attack a result folder records, from the folder alone, into a new one; trust: as in `verify`."""
    require_new_folder(out)
    result = read_whole_record(folder)
    if not result["replayable"]:
        raise InputError(f"'{folder}' is one find of a search for the margin; run `perturbox margin` again instead.")
    clean, _ = read_scans(folder, result)
    changes = {
        key: str(file)
        for key, name in (("label", "reference_seg"), ("roi", "roi"))
        if (file := file_of(folder, result, name))
    }
    if "label" in changes:
        labels = result["victim"]["labels"]
        # The first schema took what wasn't outlined for none: what it led away from.
        names = result["verdicts"] if "upgraded_from" in result else result["outlined"]
        changes["label_map"] = ",".join(f"{name}={labels[name]}" for name in names)
    job: Job = job_of(result, **changes)
    require_trust(folder, job, trust)
    torch.set_num_threads(result["threads"])
    ready = prepare(job, clean)
    for model, then in zip(ready.surrogates, result["surrogates"], strict=True):
        if not model.is_the_one(then["sha256"]):
            raise InputError(f"The surrogate '{model.name}' has other weights here than then; use the same version.")
    if [{"sha256": digest} for digest in ready.crafted_on_sha256] != result.get("crafted_on", []):
        raise InputError("The scans the attack was crafted on hold something else than then; restore them.")
    return execute(ready, out, listener or Listener())


def unlike(folder: Path, again: Path) -> list[str]:
    """What a replay, or anything else, made otherwise than a result folder has it: scans and label maps voxel by voxel,
    and every leaf of result.json that the same software, device and threads repeat."""
    then, now = read_whole_record(folder), read_whole_record(again)
    lines = []
    for name, entry in then["files"].items():
        if entry and (found := file_of(again, now, name)) is not None:
            stored = required_file(folder, then, name)
            if sha256(stored) != sha256(found) and not np.array_equal(_values(stored), _values(found)):
                lines.append(f"{stored.name}: other voxels")
    free = {"effort", "versions", "files", "warnings", "upgraded_from", "replayable"}
    then, now = ({k: v for k, v in record.items() if k not in free} for record in (then, now))
    for record in (then, now):
        record["source"] = {k: v for k, v in record["source"].items() if k not in ("sha256", "format")}
    return lines + [line.replace("the files say", "now") for line in differences(then, now, "")]


def _values(path: Path) -> np.ndarray:
    return io.read_volume(path, allow_constant=True).data


def changed_since(result: Mapping[str, Any]) -> list[str]:
    """What computes here otherwise than when a result was recorded, as "torch 2.5 then, 2.6 now"."""
    then, now = result["versions"], versions()
    return [f"{name} {then.get(name)} then, {now.get(name)} now" for name in now if then.get(name) != now[name]]
