"""Result folders of every kind, drawn here, and what each of them must be told as: one set of facts for every face.

    python tests/results_made.py FOLDER

Needs numpy alone, so that the tests of the package and those of the Slicer module, which have no environment in common,
read the same. Verdicts, scores and sentences are worked out again in plain loops; nothing is shared with what
is tested.
"""

import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from made_scores import LABELS, NAMES, failed_slices, nifti, nifti_values, png, scores, slice_rows

SHAPE, SPACING, SIGMA = (40, 24, 20), (3.0, 3.0, 3.0), 8.0
NOTICE = "ADVERSARIAL - NOT FOR CLINICAL USE"
BREAKS = ("vanished", "appeared", "dice", "volume", "distance", "local")
LIMITS = {"dice": 0.9, "volume_change": 0.1, "hd95_mm": 20.0, "slice_dice": 0.8, "failed_slices": 2}
OWN = "model's own clean prediction"


@dataclass(frozen=True)
class Case:
    """effects: what becomes of each structure; expert: which structures an expert outlined, None without one; floor:
    Dice under harmless changes; noise: what random noise leaves of each structure; used, eps: size of the change and
    its limit."""

    name: str
    effects: tuple[str, str, str]
    expert: tuple[str, ...] | None = None
    grid: str = "volume"  # or flat, photograph
    floor: float = 0.97
    noise: float = 0.996
    eps: float = 10.0
    used: float = 10.0
    norm: str = "linf"
    schema: int = 2
    stopped: str | None = None
    untested: str | None = None
    target: tuple[str, ...] = ()
    margin: dict = field(default_factory=dict)


def cases() -> list[Case]:
    held = ("held", "held", "held")
    found = []
    for effect in ("vanished", "appeared", "dice", "volume", "distance", "local", "absent", "held"):
        for schema in (1, 2):
            found.append(Case(f"{effect}-{schema}", (effect, "held", "held"), schema=schema))
            found.append(Case(f"{effect}-expert-{schema}", (effect, "held", "held"), expert=("spleen",), schema=schema))
        if effect != "local":
            found.append(Case(f"{effect}-flat", (effect, "held", "held"), grid="flat"))
            found.append(Case(f"{effect}-photograph", (effect, "held", "held"), grid="photograph"))
    found += [
        Case("benign-2", ("dice", "volume", "distance"), floor=0.85),
        Case("benign-1", ("dice", "volume", "distance"), floor=0.85, schema=1),
        Case("benign-expert", ("dice", "volume", "held"), floor=0.85, expert=("liver", "spleen", "kidney")),
        Case("benign-photograph", ("volume", "held", "dice"), floor=0.85, grid="photograph"),
        Case("photograph-1", ("dice", "distance", "held"), grid="photograph", schema=1),
        Case("flat-1", ("volume", "distance", "held"), grid="flat", schema=1),
        Case("photograph-expert", ("dice", "held", "volume"), grid="photograph", expert=("liver",)),
        Case("expert-of-all", ("dice", "vanished", "local"), expert=("liver", "spleen", "kidney")),
        Case("expert-of-two", ("distance", "local", "dice"), expert=("liver", "kidney"), target=("liver",)),
        Case("untested", held, untested="no voxel has a gradient"),
        Case("untested-expert", held, untested="no voxel has a gradient", expert=("liver",)),
        Case("untested-but-broken", ("dice", "held", "held"), untested="no voxel has a gradient"),
        Case("hardly-used", held, eps=100.0, used=6.0),
        Case("hardly-used-rms", ("dice", "held", "held"), eps=20.0, used=6.0, norm="l2"),
        Case("few-voxels", ("held", "volume", "held"), eps=0.5, used=10.0, norm="l0"),
        Case("nothing-changed", held, used=0.0),
        Case("stopped-at-once", held, used=0.0, stopped="stopped at step 1 of 20"),
        Case("stopped", ("dice", "held", "held"), stopped="stopped at step 7 of 20"),
        Case("traded", ("traded", "held", "held")),
        Case("traded-1", ("traded", "held", "held"), schema=1),
        Case("traded-flat", ("traded", "held", "held"), grid="flat"),
        Case("traded-photograph", ("traded", "held", "held"), grid="photograph"),
        Case("noise-does-it", ("dice", "held", "held"), noise=0.8),
        Case("noise-of-976", ("dice", "held", "held"), noise=0.976),
        Case(
            "margin",
            ("dice", "distance", "held"),
            margin={
                "liver": {"verdict": "dice", "breaks_at": 4.0, "above": 3.0, "used": 4.0},
                "spleen": {"verdict": "distance", "breaks_at": 10.0, "above": 9.0, "used": 10.0},
                "kidney": {"verdict": "held", "breaks_at": None, "above": 64.0, "used": 6.0},
            },
        ),
        Case(
            "margin-not-tested",
            ("dice", "held", "held"),
            margin={
                "liver": {"verdict": "dice", "breaks_at": 10.0, "above": 0.0, "used": 10.0},
                "spleen": {"verdict": "not-tested", "reason": "no gradient", "breaks_at": None, "above": None},
                "kidney": {"verdict": "benign", "breaks_at": None, "above": 32.0, "used": 32.0},
            },
        ),
    ]
    return found


# ---------------------------------------------------------------- label maps


def block(number: int) -> tuple[slice, ...]:
    """Where structure 0, 1 or 2 lies: 10 × 10 × 16 voxels."""
    return slice(2 + 12 * number, 12 + 12 * number), slice(2, 12), slice(2, 18)


def maps(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Label maps before and after, and the expert's: every outline one voxel smaller along x than the prediction."""
    before, after = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    expert = None if case.expert is None else np.zeros(SHAPE, np.uint8)
    for number, (name, effect) in enumerate(zip(NAMES, case.effects, strict=True)):
        x, y, z = block(number)
        value = LABELS[name]
        if effect not in ("appeared", "absent"):
            before[x, y, z] = value
        if effect not in ("vanished", "absent"):
            after[x, y, z] = value
        if effect == "dice":  # 20 of 100 in each slice: Dice 0.889
            after[x, slice(10, 12), z] = 0
        if effect == "volume":  # 12 of 100: Dice 0.936
            after[x, slice(11, 12), z] = 0
            after[slice(x.start, x.start + 2), slice(10, 11), z] = 0
        if effect == "distance":  # a leak of 3 × 3 in 6 slices, 8 voxels away
            after[slice(x.start, x.start + 3), slice(20, 23), slice(2, 8)] = value
        if effect == "local":  # 34 of 100 in three slices: Dice 0.795 there, 0.967 in all
            after[x, slice(9, 12), slice(2, 5)] = 0
            after[slice(x.start, x.start + 4), slice(8, 9), slice(2, 5)] = 0
        if expert is not None and name in case.expert:
            expert[slice(x.start + 1, x.stop), y, z] = value
    if "traded" in case.effects:  # the liver keeps its volume: a fifth becomes spleen, as much of the kidney liver
        after[block(0)[0], slice(10, 12), block(0)[2]] = LABELS["spleen"]
        after[block(2)[0], slice(10, 12), block(2)[2]] = LABELS["liver"]
    found = (before, after, expert)
    return found if case.grid == "volume" else tuple(None if m is None else m[:, :, 4] for m in found)


# ---------------------------------------------------------------- verdicts and sentences


def verdict(case: Case, name: str, before: np.ndarray, after: np.ndarray, row: dict, voxel: float) -> str:
    """By the words of docs/results.md."""
    a, b = before == LABELS[name], after == LABELS[name]
    if not a.any() and not b.any():
        return "absent"
    change = abs(int(b.sum()) - int(a.sum())) / max(int(a.sum()), 1)
    if not a.any() or not b.any():
        word = "appeared" if b.any() else "vanished"
    else:
        word = "dice" if row["dice"] < 0.9 else "volume" if change > 0.1 else ""
    if word:
        return "benign" if row["dice"] >= case.floor else word
    if row["hd95_mm"] > 20:
        return "distance"
    if failed_slices(a, b, voxel) > 2:
        return "local"
    if case.untested:
        return "not-tested"
    return "held" if case.expert is None or name in case.expert else "not-outlined"


def text(value: float) -> str:
    return f"{value:.3g}"


def listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def flow_rows(before: np.ndarray, after: np.ndarray, voxel: float) -> list[dict]:
    """What became what, pair by pair, the largest first, of equal ones the lowest labels."""
    found = []
    for old, was in LABELS.items():
        for new, now in LABELS.items():
            count = int(((before == was) & (after == now)).sum())
            if was != now and count:
                found.append((-count, was, now, {"from": old, "to": new, "ml": count * voxel}))
    return [row for *_, row in sorted(found, key=lambda entry: entry[:3])]


def became_in_files(folder: Path, voxel: float) -> dict[str, tuple[float, float]]:
    """By structure what it lost and what is newly called so, counted in the two saved label maps."""
    before, after = (nifti_values(folder / f"{name}_seg.nii.gz") for name in ("clean", "adversarial"))
    found = {}
    for name, n in LABELS.items():
        lost, new = (before == n) & (after != n), (before != n) & (after == n)
        found[name] = (int(lost.sum()) * voxel, int(new.sum()) * voxel)
    return found


def sums(flow: list[tuple[str, str, float]]) -> dict[str, tuple[float, float]]:
    """The same of a table of flows (from, to, amount)."""
    return {
        name: (sum(ml for a, b, ml in flow if a == name != b), sum(ml for a, b, ml in flow if b == name != a))
        for name in LABELS
    }


def amount(value: float, sizes: str) -> str:
    if sizes == "pixels":
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def parts(rows: list[dict], end: str, head: str, others: str, sizes: str) -> str:
    name = {row[end]: "nothing" if row[end] == "background" else row[end] for row in rows}
    if len(rows) == 1:
        return head + name[rows[0][end]]
    whole = sum(row["ml"] for row in rows)
    large = [row for row in rows if row["ml"] > 0.05 * whole]
    texts = [f"{name[row[end]]} {amount(row['ml'], sizes)}" for row in large]
    if len(large) < len(rows):
        texts.append(f"{others} {amount(whole - sum(row['ml'] for row in large), sizes)}")
    return head + ", ".join(texts)


def became(record: dict, rows: dict, broken: list[str], flow: list[dict]) -> str:
    """What the worst structure is called now, and what is newly called so."""
    sizes = record["source"]["sizes"]
    moved = {n: sum(row["ml"] for row in flow if n in (row["from"], row["to"])) for n in broken}
    name = next(n for n in broken if moved[n] >= 0.001 * max(moved.values()))
    lost, new = [row for row in flow if row["from"] == name], [row for row in flow if row["to"] == name]
    gone, come = (sum(row["ml"] for row in some) for some in (lost, new))
    said = []
    if gone > 0.05 * come:
        whole = f"{amount(rows[name]['before'], sizes)} {sizes} {name}"
        much = f"of {whole} {amount(gone, sizes)}" if rows[name]["after"] else f"all {whole}"
        said.append(f"{much} are lost ({parts(lost, 'to', 'now called ', 'elsewhere', sizes)})")
    if come > 0.05 * gone:
        since = parts(new, "from", "before: ", "others", sizes)
        said.append(f"{amount(come, sizes)} {sizes} are newly called {name} ({since})")
    return " and ".join(said)


def headline(case: Case, record: dict, rows: dict, flow: list[dict] | None) -> str:
    unit = "intensity units" if case.grid == "photograph" else "HU"
    budget = record["budget"]

    def size(value: float) -> str:
        return {
            "linf": f"{text(value)} {unit}",
            "l2": f"{text(value)} {unit} RMS",
            "l0": f"{text(100 * value)} % of the voxels",
        }[case.norm]

    if not case.used:
        if case.stopped:
            return f"The attack was {case.stopped}, before anything was found: the saved scan is the original."
        return (
            f"No change within {size(case.eps)} was found: the saved scan is the original, which is no proof of safety."
        )
    measured = budget["measured"][case.norm]
    used = measured if measured < 0.9 * case.eps else case.eps
    notes = [f"limit {size(case.eps)}"] if used < case.eps else []
    notes += [f"{used / SIGMA:.2g} × this scan's own noise"] if case.norm == "linf" else []
    broken = sorted((n for n in NAMES if rows[n]["verdict"] in BREAKS), key=lambda n: rows[n]["agreement"])
    with_expert = [n for n in broken if rows[n]["outlined"]]
    rest = [n for n in broken if not rows[n]["outlined"]]
    parts = [listed(with_expert)] if with_expert else []
    parts += [f"{listed(rest)} (not outlined: compared with the {OWN})"] if rest else []
    effect = f"broke {' and '.join(parts)}" if parts else "broke no structure, which is no proof of safety"
    if not parts and case.untested and case.schema == 2:
        return f"Not tested: {case.untested}"
    said = f"A change of at most {size(used)}{' (' + '; '.join(notes) + ')' if notes else ''} {effect}"
    chosen = [rows[n] for n in (case.target or NAMES) if rows[n]["outlined"]]
    means = [[r[k] for r in chosen if r[k] is not None] for k in ("dice_before", "dice_after")]
    said += f": {became(record, rows, broken, flow)}; " if broken and flow else ": "
    said += f"mean Dice {np.mean(means[0]):.2f} → {np.mean(means[1]):.2f}"
    left = {n: r for n, r in rows.items() if r["outlined"] and r["chance"] is not None}
    falls = {n: (1.0 if r["dice_before"] is None else r["dice_before"]) - r["chance"] for n, r in left.items()}
    worst = max(falls, key=lambda n: falls[n])
    if falls[worst] > 0.05:
        said += f"; random noise of the same size alone took {worst} to {left[worst]['chance']:.2f}"
    elif case.expert is None:
        least = math.floor(100 * min(r["chance"] for r in left.values()) + 1e-9) / 100
        said += f"; random noise of the same size left every Dice at {least:.2f} or above"
    else:
        most = math.ceil(100 * max(falls[worst], 0) - 1e-9) / 100
        said += f"; random noise of the same size lowered no Dice by more than {most:.2f}"
    return said + (f". The attack was {case.stopped}; this is the best change until then." if case.stopped else ".")


# ---------------------------------------------------------------- the record, and what each structure is told as


def geometry(case: Case) -> tuple[tuple[float, ...], float, str]:
    """Steps of a distance, size of a voxel, and what sizes are told in."""
    if case.grid == "volume":
        return SPACING, math.prod(SPACING) / 1000, "ml"
    return (
        ((1.0, 1.0), 1.0, "pixels") if case.grid == "photograph" else (SPACING[:2], math.prod(SPACING[:2]) / 100, "cm²")
    )


def perturbation(case: Case, shape: tuple[int, ...]) -> np.ndarray:
    """int16: ± `used` in a chequerboard, in every voxel or (l0) in half of them."""
    places = np.indices(shape).sum(0)
    delta = np.where(places % 2, case.used, -case.used).astype(np.int16)
    return np.where(places % 4 < 2, delta, 0) if case.norm == "l0" else delta


def made(case: Case) -> tuple[dict, dict]:
    """(result.json, {headline, told, sizes, broken, flow, structures {name: what it must be told as}})."""
    before, after, expert = maps(case)
    steps, voxel, sizes = geometry(case)
    reference = before if expert is None else expert
    outlined = None if case.expert is None else [name for name in NAMES if name in case.expert]
    against = scores(after, before, steps, voxel)
    metrics = {"clean": scores(before, reference, steps, voxel), "adversarial": scores(after, reference, steps, voxel)}
    structures = {}
    for name in NAMES:
        known = outlined is None or name in outlined
        start = before if known is False or expert is None else expert
        appears = (start == LABELS[name]).any() or (before == LABELS[name]).any()
        structures[name] = {
            "verdict": verdict(case, name, before, after, against[name], voxel),
            "outlined": known,
            "dice_before": metrics["clean"][name]["dice"] if known else None,
            "dice_after": (metrics["adversarial"] if known else against)[name]["dice"],
            "agreement": against[name]["dice"],
            "hd95": (metrics["adversarial"] if known else against)[name]["hd95_mm"],
            "before": metrics["clean"][name]["volume_ml"],
            "after": metrics["adversarial"][name]["volume_ml"],
            "chance": case.noise * (metrics["clean"][name]["dice"] or 0 if known else 1.0) if appears else None,
        }
    delta = perturbation(case, before.shape)
    photograph = case.grid == "photograph"
    measured = {
        "linf": float(case.used), "l2": float(np.sqrt(np.square(delta.astype(float)).mean())),
        "l0": float((delta != 0).mean()),
    }  # fmt: skip
    record = {
        "schema": f"perturbox-result/{case.schema}",
        "notice": NOTICE,
        "attack": {
            "name": "pgd", "title": "PGD", "paper": "none", "deviations": [], "own_budget": None,
            "parameters": {"eps": case.eps, "norm": case.norm, "steps": 20, "goal": "change",
                           "target": list(case.target)},
        },
        "victim": {"name": "made", "title": "Made", "spec": "made", "sha256": "ab" * 32, "labels": LABELS,
                   "unit": "HU"},
        "surrogates": [], "crafted_on": [],
        "source": {
            "format": ".png" if photograph else ".nii.gz", "dtype": "uint8" if photograph else "int16",
            "shape": list(before.shape), "spacing_mm": [1.0, 1.0] if photograph else list(SPACING[: before.ndim]),
            "unit": "intensity" if photograph else "HU", "sha256": None, "sizes": sizes,
        },
        "reference": "clean_prediction" if expert is None else "label",
        "outlined": outlined,
        "budget": {
            "eps": case.eps, "unit": "intensity" if photograph else "HU", "unit_asked": "native",
            "eps_asked": case.eps, "norm": case.norm, "step": 1.0, "measured": measured,
        },
        "noise": {
            "sigma": SIGMA, "region": "liver", "rms_over_sigma": measured["l2"] / SIGMA,
            "eps_over_sigma": None if case.norm == "l0" else case.eps / SIGMA,
        },
        "metrics": {**metrics, "against_clean": against},
        "limits": LIMITS,
        "verdicts": {name: row["verdict"] for name, row in structures.items()},
        "untested": case.untested, "flow": None, "precision": None,
        "image_metrics": {"psnr_db": None, "ssim": None, "data_range_hu": 400.0},
        "success": {"rule": "the rule", "value": 0.8, "threshold": 0.5, "succeeded": False},
        "control": {
            "noise": {"dice": {name: row["chance"] for name, row in structures.items()}},
            "rolled": {"dice": {name: row["chance"] for name, row in structures.items()}},
            "own": None,
            "benign": {"dice": {n: case.floor if (before == LABELS[n]).any() else None for n in NAMES}},
        },
        "margin": case.margin or None,
        "slices": slice_rows(before, after),
        "members": None, "trace": [], "best": {"step": 20, "restart": 0, "score": 0.8}, "stopped_early": case.stopped,
        "effort": {
            "forwards": 1.0, "backwards": 1.0, "model_calls": 1, "seconds": 1.0, "cpu_seconds": 1.0, "peak_bytes": 1,
        },
        "versions": {}, "device": "cpu", "threads": 1, "window_batch": 1, "seed": 0, "force": False, "replayable": True,
        "warnings": [],
        "files": {key: {"path": name, "sha256": "0" * 64} for key, name in file_names(case).items()},
    }  # fmt: skip
    flow = flow_rows(before, after, voxel)
    record["flow"] = flow
    told = headline(case, record, structures, flow)
    said = told if case.schema == 2 else headline(case, record, structures, None)
    broken = sorted((n for n in NAMES if structures[n]["verdict"] in BREAKS), key=lambda n: structures[n]["agreement"])
    record["summary"] = {"headline": said, "broken": broken}
    if outlined is not None:
        for rows in (metrics["clean"], metrics["adversarial"]):
            for name in set(NAMES) - set(outlined) if case.schema == 2 else ():
                rows[name].update(dict.fromkeys(("dice", "iou", "hd95_mm", "nsd")))
    if case.schema == 1:
        first_schema(record, structures)
    margin = {name: bound_text(bound) for name, bound in case.margin.items()}
    # told: what a face says that knows the label maps, also of a record of the first schema, which held no flow.
    expected = {"headline": said, "told": told, "sizes": sizes, "broken": broken, "structures": structures}
    return record, {**expected, "flow": flow, "margin": margin}


def first_schema(record: dict, structures: dict) -> None:
    """The same record as the first schema held it, which left part of every verdict to its readers."""
    for key in ("summary", "outlined", "limits", "untested", "flow", "precision"):
        del record[key]
    del record["metrics"]["against_clean"]
    for key in ("unit_asked", "eps_asked", "step"):
        del record["budget"][key]
    del record["source"]["sizes"]
    record["files"] = {key: file["path"] for key, file in record["files"].items()} | {
        "reference_seg": None,
        "roi": None,
    }
    for name, row in structures.items():
        agreement, word = row["agreement"], row["verdict"]
        if word == "benign":
            word = "vanished" if not row["after"] else "dice"
        record["verdicts"][name] = {"volume": "dice", "absent": "held", "not-outlined": "held"}.get(word, word)
        if not row["outlined"]:  # chance was compared with an outline that isn't there; the distance isn't known
            record["control"]["noise"]["dice"][name] = None if agreement is None else 0.0
            row["chance"], row["hd95"] = None, None
    area = 0.01 if record["source"]["format"] == ".png" else 1.0  # in cm², of pixels of a millimetre
    for rows in record["metrics"].values():
        for row in rows.values():
            row["volume_ml"] *= area


def bound_text(bound: dict) -> str:
    if bound["breaks_at"] is not None:
        return f"≤ {text(bound['breaks_at'])}"
    return "not tested" if bound["above"] is None else f"> {text(bound['above'])}"


# ---------------------------------------------------------------- files


def file_names(case: Case) -> dict[str, str]:
    return {
        "adversarial": "adversarial.png" if case.grid == "photograph" else "adversarial.nii.gz",
        "perturbation": "perturbation.nii.gz",
        "clean_seg": "clean_seg.nii.gz",
        "adversarial_seg": "adversarial_seg.nii.gz",
        "difference_seg": "difference_seg.nii.gz",
    }


def write(case: Case, folder: Path) -> dict:
    """Write one result folder; returns what it must be told as."""
    folder.mkdir(parents=True)
    record, expected = made(case)
    before, after, _ = maps(case)
    spacing = tuple(record["source"]["spacing_mm"])
    delta = perturbation(case, before.shape)
    scan = np.random.default_rng(1).integers(60, 190, before.shape).astype(np.int16) + delta
    if case.grid == "photograph":
        png(folder / "adversarial.png", scan)
    else:
        nifti(folder / "adversarial.nii.gz", scan, spacing)
    difference = np.select([before == after, after == 0, before == 0], [0, 1, 2], 3).astype(np.uint8)
    nifti(folder / "perturbation.nii.gz", delta, spacing)
    for name, array in {"clean_seg": before, "adversarial_seg": after, "difference_seg": difference}.items():
        nifti(folder / f"{name}.nii.gz", array, spacing)
    (folder / "result.json").write_text(json.dumps(record, allow_nan=False), encoding="utf-8")
    return expected


def write_all(folder: Path) -> dict:
    """Write every case and expected.json, {case: what it must be told as}, which is returned."""
    expected = {case.name: write(case, folder / case.name) for case in cases()}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1), encoding="utf-8")
    return expected


if __name__ == "__main__":
    print(f"{len(write_all(Path(sys.argv[1])))} result folders in {sys.argv[1]}")
