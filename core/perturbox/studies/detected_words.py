"""What a study of detectors found, in sentences: its verdict, its claims, its methods."""

from collections.abc import Mapping, Sequence
from typing import Any

from perturbox.judge.summary import listed
from perturbox.judge.summary import number as rounded
from perturbox.studies import detected
from perturbox.studies.design import FEATURES
from perturbox.studies.detected import BROKEN, FOUND, PATIENTS, UNKNOWN
from perturbox.studies.plan import Plan
from perturbox.studies.words import counted, interval, limit, patients

FEW = 3  # detectors that a sentence names
RISK = "An attack that knows a detector may pass it, and other scanners or patients may look attacked to it."


def named(row: Mapping[str, Any]) -> str:
    """A detector, with what it learned: "svm (learned pgd)"."""
    return row["detector"] if row["fitted_on"] is None else f"{row['detector']} (learned {row['fitted_on']})"


def verdict(plan: Plan, found: Mapping[str, Any]) -> list[str]:
    """Per model and attack: how many patients it broke, how many detectors see it and, of one that hides, from how many
    it does; and whether detectors see what is no attack."""
    said = [_of_attack(plan, found, attempt) for attempt in found["attempts"]]
    return said + [sentence for model in plan.models for sentence in _of_controls(found, model)]


def _of_attack(plan: Plan, found: Mapping[str, Any], attempt: Mapping[str, Any]) -> str:
    model, attack = attempt["model"], attempt["attack"]
    mine = [row for row in found["claims"] if (row["model"], row["attack"]) == (model, attack)]
    sees, hides = ([row for row in mine if row["claim"] == claim] for claim in ("sees", "hides"))
    broke = f"{attack} breaks {attempt['patients_fell']} of {patients(attempt['patients'])} ({model})"
    if attempt["fell"]:
        size = "" if attempt["rms"] is None else f"median RMS {limit(plan, round(attempt['rms'], 2))}, "
        broke += f" by a {size}Dice with its own answer {attempt['agreement']:.2f}"
    if all(row["answer"] == UNKNOWN for row in mine):
        return f"{broke}: {_why_unknown(attempt, sees)}."
    seen = [row for row in sees if row["answer"] == FOUND]
    said = f"{broke}: seen by {len(seen)} of {counted(len(sees), 'fitted detector')}{_areas(seen)}"
    if hides:
        hidden = [row for row in hides if row["answer"] == FOUND]
        said += f"; it hides, in part at least, from {len(hidden)} of them, compared with {hides[0]['from']}" + _falls(
            hidden
        )
    return f"{said}."


def _why_unknown(attempt: Mapping[str, Any], sees: Sequence[Mapping[str, Any]]) -> str:
    """Why nothing is known of who sees an attack: it broke nothing or too few, or no detector could be fitted."""
    reasons = [row["reason"] for row in sees]
    if attempt["fell"] and reasons and all(reasons):
        return f"no detector could be asked ({listed(list(dict.fromkeys(reasons)))})"
    if not attempt["fell"]:
        return "nothing can be said of who sees it"
    return f"too few to say who sees it ({PATIENTS} are asked for, of whom it must break {BROKEN})"


def _areas(rows: Sequence[Mapping[str, Any]]) -> str:
    """AUROC of detectors, of many of them the ends; the page's table has all."""
    order = sorted(rows, key=lambda row: row["auroc"])
    shown = rows if len(rows) <= FEW else [order[0], order[-1]]
    told = [f"{named(row)} {row['auroc']:.2f}" for row in shown]
    return f" (AUROC {(', ' if shown is rows else ' to ').join(told)})" if told else ""


def _falls(rows: Sequence[Mapping[str, Any]]) -> str:
    """From which AUROC to which, of many the largest falls."""
    order = sorted(rows, key=lambda row: row["second"] - row["first"])
    told = [f"{named(row)} {row['first']:.2f} → {row['second']:.2f}" for row in order[:FEW]]
    return f" ({'AUROC ' if len(rows) <= FEW else 'most: '}{', '.join(told)})" if told else ""


def _of_controls(found: Mapping[str, Any], model: str) -> list[str]:
    """Whether noise and rolled changes are seen as well."""
    mine = [row for row in found["evaluations"] if row["model"] == model and row["positives"] in ("noise", "rolled")]
    rows = [row for row in mine if row["auroc"] is not None]
    if not rows:
        return []
    seen = [(row, much) for row, much in detected.false_sights(found["evaluations"]) if row in mine]
    much = list(dict.fromkeys(named(row) for row, much in seen if much))
    little = [name for name in dict.fromkeys(named(row) for row, _ in seen) if name not in much]
    said = []
    if much:
        said.append(f"{listed(much)} also {'sees' if len(much) == 1 else 'see'} changes as large that aim at nothing.")
    if little:
        most = max(row["auroc"] for row, _ in seen if named(row) in little)
        said.append(
            f"{listed(little)} {'sees' if len(little) == 1 else 'see'} a little of changes as large that aim at "
            f"nothing (AUROC up to {most:.2f})."
        )
    rows = [row for row in rows if row["patients"] >= PATIENTS and row["patients_fell"] >= BROKEN]
    if said or not rows:
        return said
    most = max(rows, key=lambda row: row["auroc"])
    told = f"the highest AUROC is {most['auroc']:.2f}, {named(most)}"
    return [f"No detector sees changes as large that aim at nothing ({told}): what is seen of attacks is their aim."]


def claim(row: Mapping[str, Any]) -> str:
    """One claim, in a sentence."""
    where = f"{row['model']}, {row['attack']} ({row['fell']} of {counted(row['scans'], 'scan')} broken)"
    if row["claim"] == "sees":
        told = "" if row["auroc"] is None else f" (AUROC {row['auroc']:.2f}{interval(row['low'], row['high'])})"
        few = f"{PATIENTS} patients are asked for, of whom it must break {BROKEN}"
        why = "" if row["answer"] != UNKNOWN else f"; {row['reason'] or few}"
        return f"{where}: {named(row)} sees it: {row['answer']}{told}{why}."
    told = ""
    if "value" in row:
        told = (
            f" (AUROC {row['second']:.2f}, of {row['from']} {row['first']:.2f}; {row['value']:+.2f}"
            f"{interval(row['low'], row['high'])} over {patients(row['patients'])} whom both break)"
        )
    return f"{where}: it hides from {named(row)}: {row['answer']}{told}."


def methods(plan: Plan) -> str:
    """How detectors were fitted and asked, in sentences to paste."""
    study = plan.study
    ladder = listed([limit(plan, eps) for eps in sorted(study.eps.values)])
    fits = detected.fits(study, study.attacks[0].called)
    learning = list(dict.fromkeys(name for name, taught in fits if taught is not None))
    taught = f" {listed(learning)} learned attacked scans, with noise as large as none of them." if learning else ""
    hidden = _fitted_for_attacks(plan)
    return (
        f"Attacks are compared at equal success: each with the first limit of {ladder} at which the mean Dice of the "
        f"saved scan with the model's own answer is {study.success:g} or lower. Detectors ({listed(study.detectors)}) "
        "saw that, the scan as it is, white noise of equal RMS and the change rolled to another place; every score "
        f"comes from a fit without the patient.{taught}{hidden} AUROC has percentile bootstrap intervals over patients "
        "(95%), shares found have Clopper and Pearson's; where so many patients can't resolve a false alarm rate "
        "nothing is told of it."
    )


def _fitted_for_attacks(plan: Plan) -> str:
    """On what scans stood what attacks hide from, a sentence of the methods."""
    if not plan.fitted:
        return ""
    told = ["HFC's features"] if FEATURES in plan.fitted else []
    told += [f"the {what} detector that evade passes" for what in plan.fitted if what != FEATURES]
    scans = counted(len(plan.features_on), "scan")
    return f" What attacks hide from ({', '.join(told)}) was fitted on {scans} of other patients."


def threat(plan: Plan, found: Mapping[str, Any]) -> dict[str, Any]:
    """What the robustness card adds to the threat model."""
    breaks = {f"{row['model']}, {row['attack']}": f"{row['fell']} of {row['scans']} scans" for row in found["attempts"]}
    return {"detectors": list(plan.study.detectors), "broken_at_equal_success": breaks}


def rate(row: Mapping[str, Any], column: str) -> str:
    """A share that is found at a false alarm rate: "80 % [61, 92]"."""
    if row["auroc"] is None:
        return "–"
    if row[column] is None:
        return "not resolvable"
    return f"{100 * row[column]:.0f} % [{100 * row[f'{column}_low']:.0f}, {100 * row[f'{column}_high']:.0f}]"


def size(plan: Plan, attempt: Mapping[str, Any]) -> str:
    """The median RMS of what broke."""
    return "–" if attempt["rms"] is None else f"{rounded(attempt['rms'])} {limit(plan, 1)[1:].strip()}".strip()
