"""What a certificate says: certificate.json's numbers, and the sentences that every face shows."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import ndimage

from perturbox.certificates.sampling import UNDECIDED
from perturbox.certificates.smoothed import Certified
from perturbox.judge.look import most
from perturbox.judge.summary import fixed, listed, number, size
from perturbox.types import Volume

SCHEMA = "perturbox-certificate/1"
PAPER = "Fischer et al. 2021, arXiv 2107.00228"
SMOOTHED_ONLY = "Nothing is certified of {model} as it is used, without noise: the certificate is for the vote."
ADAPTIVE_PAPER = "Anani et al. 2024, arXiv 2402.08400"
SCOPE = "It certifies the smoothed model, not the model without noise; an abstained voxel isn't proved unstable."
# Upper ends of the distances to the model's nearest border in which abstained voxels are counted, mm (pixels).
BORDER = (0.0, 5.0, 10.0, 20.0, math.inf)


def numbers(found: Certified, image: Volume, clean: np.ndarray) -> dict[str, Any]:
    """Everything of certificate.json that is measured; clean: the model's own labels "*s" of the scan without noise."""
    question, tree = found.question, found.tree
    inside = tree.numbers(clean)
    inside = inside.ravel() if found.where is None else inside[found.where]
    answers = found.answers
    values, tested = int(image.data.size), len(answers)
    structures = {
        name: _structure(found, answers, inside == number, number) for number, name in enumerate(tree.names) if number
    }
    voxel = image.voxel_size
    for row in structures.values():
        row |= {f"{key}_size": row.pop(key) * voxel for key in ("predicted", "chosen", "certified")}
    leaves = np.array([len(node.classes) for node in tree.nodes])
    held = inside > 0
    return {
        "sigma": question.sigma,
        "tau": question.tau,
        "alpha": question.alpha,
        "correction": question.correction,
        "unit": image.unit,
        "n0": question.n0,
        "n": question.n,
        "tests": found.tests,
        "least_votes": found.least if found.least <= (question.n or 0) else None,
        "radius": {
            "l2": question.radius,
            "values": values,
            "rms": question.radius / math.sqrt(values),
            "roi_values": None if found.where is None else tested * len(image.data),
            "rms_in_roi": None if found.where is None else question.radius / math.sqrt(tested * len(image.data)),
        },
        "adaptive": _adaptive(found, answers, leaves),
        "structures": structures,
        "sizes": image.sizes,
        "certified": _share(answers != UNDECIDED),
        "certified_of_structures": _share(answers[held] == inside[held]),
        "abstained_of_structures": _share(answers[held] == UNDECIDED),
        "border": border(found, clean, image),
        "values": found.names,
        "stopped_early": found.stopped,
        "seed": question.seed,
        "paper": ADAPTIVE_PAPER if question.adaptive else PAPER,
    }


def _share(mask: np.ndarray) -> float | None:
    return float(mask.mean()) if mask.size else None


def _structure(found: Certified, answers: np.ndarray, mask: np.ndarray, number: int) -> dict[str, Any]:
    """One structure: voxels that the model finds without noise, that were tested for it, that are certified as it; and
    what became of those that the model finds, as shares that add up to 1."""
    mine = answers[mask]
    grouped = np.array([number in node.classes for node in found.tree.nodes[len(found.tree.names) :]], bool)
    in_group = np.isin(mine, len(found.tree.names) + np.flatnonzero(grouped))
    same, abstained = mine == number, mine == UNDECIDED
    return {
        "predicted": int(mask.sum()),
        "chosen": int((found.chosen == number).sum()),
        "certified": int((answers == number).sum()),
        "same": _share(same),
        "group": _share(in_group),
        "other": _share(~(same | in_group | abstained)),
        "abstained": _share(abstained),
    }


def _adaptive(found: Certified, answers: np.ndarray, leaves: np.ndarray) -> dict[str, Any] | None:
    """Groups and what they gave; information: the mean of (ln k - ln classes of the answer) / ln k over all voxels that
    count, 1 where every class is certified (certified information gain, over its largest)."""
    if not found.question.adaptive:
        return None
    tree, k = found.tree, len(found.tree.names)
    gain = np.append((math.log(k) - np.log(leaves)) / math.log(k), 0.0)  # the last one for UNDECIDED, -1
    return {
        "gap": found.question.gap,
        "groups": {node.name: [tree.names[one] for one in node.classes] for node in tree.groups},
        "certified": {node.name: _share(answers == k + i) for i, node in enumerate(tree.groups)},
        "undecided": _share(found.chosen == UNDECIDED),
        "information": float(gain[answers].mean()),
    }


def border(found: Certified, clean: np.ndarray, image: Volume) -> list[dict[str, Any]]:
    """Abstained voxels by their distance to the nearest voxel beside which another label begins, in mm (photographs:
    pixels): rows {above, up_to, voxels, abstained}; up_to None is any distance."""
    edge = np.zeros(clean.shape, bool)
    for axis in range(clean.ndim):
        one, other = (
            np.take(clean, part, axis) for part in (range(1, clean.shape[axis]), range(clean.shape[axis] - 1))
        )
        steps = one != other
        for start in (0, 1):
            part = [slice(None)] * clean.ndim
            part[axis] = slice(start, start + steps.shape[axis])
            edge[tuple(part)] |= steps
    if not edge.any():
        return []
    distance = np.asarray(ndimage.distance_transform_edt(~edge, sampling=image.ruler))
    distance = distance.ravel() if found.where is None else distance[found.where]
    abstained, rows, above = found.answers == UNDECIDED, [], -math.inf
    for up_to in BORDER:
        here = (distance > above) & (distance <= up_to)
        rows.append(
            {
                "above": None if above < 0 else above,
                "up_to": None if up_to == math.inf else up_to,
                "voxels": int(here.sum()),
                "abstained": int((here & abstained).sum()),
            }
        )
        above = up_to
    return rows


# ---------------------------------------------------------------- in words


def percent(share: float | None) -> str:
    """A share as one reads it; nothing certified or left over is rounded to all or none."""
    if share is None:
        return "–"
    if 0 < share < 0.001:
        return "< 0.1 %"
    if 0.999 < share < 1:
        return "> 99.9 %"
    return f"{fixed(100 * share, 1).removesuffix('.0')} %"


def unit_of(document: Mapping[str, Any]) -> str:
    """What its sizes of changes are in."""
    return "HU" if document["unit"] == "HU" else "intensity units"


def summary(document: Mapping[str, Any], found: Certified, clean: np.ndarray, image: Volume) -> dict[str, Any]:
    """What every face shows, of the numbers and the model that a document holds."""
    head, rows = rows_told(document)
    return {
        "headline": headline(document),
        "scope": SCOPE,
        **meaning(document, document["victim"]["name"]),
        "table": {"head": head, "rows": rows},
        "look": look(found, clean, image),
        "stopped": stopped(document),
    }


def headline(document: Mapping[str, Any]) -> str:
    """The sentence with which every face begins."""
    unit, radius = unit_of(document), document["radius"]
    about = f"With noise of {number(document['sigma'])} {unit} the smoothed model"
    known = {name: row["same"] for name, row in document["structures"].items() if row["same"] is not None}
    if not known:
        return f"{about} has nothing to certify: the model finds none of its structures here."
    if document["least_votes"] is None or not document["certified_of_structures"]:
        return f"{about} certifies nothing of what the model finds in this scan: its answers disagree too often."
    worst, best = min(known, key=lambda name: known[name]), max(known, key=lambda name: known[name])
    said = f"{percent(document['certified_of_structures'])} of what the model finds"
    if len(known) > 1:
        said += f" ({best} {percent(known[best])}, {worst} {percent(known[worst])})"
    return (
        f"{about} is certified on {said}: no change of L2 norm up to {number(radius['l2'])} {unit} over the volume, "
        f"{number(radius['rms'])} {unit} RMS, takes these answers away, with "
        f"{number(100 * (1 - document['alpha']), 6)} % confidence."
    )


def meaning(document: Mapping[str, Any], model: str) -> dict[str, list[str]]:
    """What it certifies and what it doesn't, a sentence each."""
    unit, radius = unit_of(document), document["radius"]
    l2, everywhere = number(radius["l2"]), number(math.sqrt(radius["values"]) / radius["l2"])
    groups = (document["adaptive"] or {}).get("groups") or {}
    region = radius["rms_in_roi"]
    certifies = [
        f"It certifies the smoothed model: the answer that {model} gives to more than "
        f"{number(100 * document['tau'])} % of all copies of this scan with noise of {number(document['sigma'])} "
        f"{unit}.",
        f"With {number(100 * (1 - document['alpha']), 6)} % confidence all certified voxels together keep their answer "
        f"under every change with an L2 norm up to {l2} {unit}: {l2} {unit} in a single voxel, or "
        f"{number(radius['rms'])} {unit} RMS in all of them"
        + ("." if region is None else f", or {number(region)} {unit} RMS in the region."),
        "The whole inference is smoothed, from the scan's own grid to the label map, clean-up included.",
    ]
    if groups:
        told = [f"{group} is {listed(held)}" for group, held in groups.items()]
        certifies.append(f"Where structures are close, a group is the answer: {'; '.join(told)}.")
    return {
        "certifies": certifies,
        "not": [
            SMOOTHED_ONLY.format(model=model),
            "It doesn't say that an answer is right, only that it is stable.",
            f"A change of 1 {unit.removesuffix('s')} in every voxel has {everywhere} times the certified norm; "
            "larger changes, shifts, other scanners and other protocols aren't covered.",
            "A voxel that abstains isn't proved unstable: its copies disagree too often for this many votes.",
        ],
    }


def stopped(document: Mapping[str, Any]) -> str | None:
    """The sentence of a certificate by fewer votes than were asked for; None of a whole one."""
    said = f"It was stopped early: the tests are those of {document['n']} votes."
    return said if document["stopped_early"] else None


def look(found: Certified, clean: np.ndarray, image: Volume) -> dict[str, int] | None:
    """Where a certificate shows best: the axis and index of the slice in which most of the structures' voxels abstain,
    or most of all voxels, or, where none does, that holds most of the structures. None of a 2D image."""
    if image.dims == 2:
        return None
    inside = found.tree.numbers(clean) > 0
    abstained = found.map == found.names["abstained"]
    shown = next((mask for mask in (abstained & inside, abstained) if mask.any()), inside)
    counts = [np.asarray(shown.sum(tuple(other for other in range(3) if other != axis))) for axis in range(3)]
    axis, index = most(counts, image.spacing)
    return {"axis": axis, "index": index}


def rows_told(document: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(head, rows) of the table of structures, the least certified first, as every face shows it."""
    sizes, grouped = document["sizes"], bool(document["adaptive"])
    head = ["Structure", f"Found {sizes}", "Certified", *(["Certified as a group"] if grouped else [])]
    head += ["Certified as another", "Abstained", f"Certified {sizes}"]
    rows = []
    known = document["structures"].items()
    for name, row in sorted(known, key=lambda pair: (pair[1]["same"] is None, pair[1]["same"])):
        if not row["predicted_size"] and not row["certified_size"]:
            continue
        shares = [row["same"], *([row["group"]] if grouped else []), row["other"], row["abstained"]]
        ends = [size(row[f"{key}_size"], sizes) for key in ("predicted", "certified")]
        rows.append([name, ends[0], *map(percent, shares), ends[1]])
    return head, rows
