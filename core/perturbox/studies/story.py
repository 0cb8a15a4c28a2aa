"""A study in sentences: its verdict, its methods, its robustness card."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import perturbox
from perturbox import corruptions, defenses, detectors
from perturbox.attacks import recipes
from perturbox.certificates import document as certificates
from perturbox.judge.summary import listed
from perturbox.studies import certified_words, detected_words
from perturbox.studies.checks import Finding
from perturbox.studies.design import KINDS
from perturbox.studies.plan import Plan
from perturbox.studies.words import MEANS, UNITS, counted, interval, limit, patients, signless

RISK = "A stronger attack, another scanner or other patients may break what held here; nothing is proven."
RISKS = {"certify": certified_words.RISK, "detectors": detected_words.RISK}
WORTH = {
    "masking?": "the defence hides its gradient from this attack, so nothing is known of it",
    "can't be told: too few patients": "whether that is a gain, so few patients can't tell",
    "no difference shown": "no gain is shown",
    "keeps more": "it keeps more",
    "keeps less": "it keeps less",
}  # what an answer of `defended.worth` means


def verdict(plan: Plan, found: Mapping[str, Any], findings: Sequence[Finding]) -> list[str]:
    """What the study found, in a sentence or a few, most important first."""
    tell = {
        "curve": _of_curve,
        "universal": _of_curve,
        "worst-case": _of_worst,
        "transfer": _of_transfer,
        "non-inferiority": _of_comparison,
        "corruptions": _of_corruptions,
        "defences": _of_defences,
        "certify": certified_words.verdict,
        "detectors": detected_words.verdict,
    }
    loud = [finding for finding in findings if finding.level == "loud"]
    said = tell[plan.study.kind](plan, found)
    if not said:
        said = ["Nothing could be measured: every piece failed or was struck out; the reasons are below."]
    said += [_of_criterion(plan, row) for row in found.get("criterion", ())]
    if loud:
        said.append(f"{len(loud)} check{'s' * (len(loud) != 1)} below put this in question: read them first.")
    return said


def _of_curve(plan: Plan, found: Mapping[str, Any]) -> list[str]:
    said = []
    for model in plan.models:
        aimed = plan.study.target or plan.models[model].structures
        rows = [row for row in found["curves"] if row["model"] == model and row["structure"] in aimed]
        if not rows:
            continue
        most = max(row["eps"] for row in rows)
        row = min((row for row in rows if row["eps"] == most), key=lambda row: row["dice"])
        noise = "" if row["dice_noise"] is None else f"; noise of the same size leaves {row['dice_noise']:.2f}"
        said.append(
            f"{row['attack']} at {limit(plan, most)} takes the Dice of {row['structure']} ({model}) from "
            f"{row['dice_clean']:.2f} to {row['dice']:.2f}{interval(row['low'], row['high'])} over "
            f"{patients(row['n'])}{noise}."
        )
    return said


def _of_worst(plan: Plan, found: Mapping[str, Any]) -> list[str]:
    said = []
    for model in plan.models:
        rows = [row for row in found["worst"] if row["model"] == model]
        if not rows:
            continue
        row = max(rows, key=lambda row: row["eps"])
        most = max(row["worst_of"], key=lambda name: row["worst_of"][name])
        alone = min(row["attacks"].values())
        said.append(
            f"At {limit(plan, row['eps'])} the worst of {len(row['attacks'])} attacks leaves {model} a "
            f"{_means(plan)} of {row['mean']:.2f}{interval(row['low'], row['high'])} over {patients(row['n'])}, from "
            f"{row['clean']:.2f}; the best single attack leaves {alone:.2f}, and {most} is the worst of "
            f"{row['worst_of'][most]} cases."
        )
    return said


def _of_transfer(plan: Plan, found: Mapping[str, Any]) -> list[str]:
    most = max((row["eps"] for row in found["matrix"]), default=None)
    cells = [row for row in found["matrix"] if row["eps"] == most]
    said = []
    for attack in dict.fromkeys(row["attack"] for row in cells):
        across = [row["relative"] for row in cells if row["attack"] == attack and row["surrogate"] != row["target"]]
        known = [share for share in across if share is not None]
        if known:
            said.append(
                f"What {attack} at {limit(plan, most or 0.0)} makes for one model takes, of another, "
                f"{100 * sum(known) / len(known):.0f} % of the Dice that an attack on that one itself takes."
            )
        for row in found["contrasts"]:
            if row["attack"] == attack and row["eps"] == most:
                said.append(effect(row))
    return said


def effect(row: Mapping[str, Any]) -> str:
    """One factor's effect on transfer, in a sentence."""
    if row["answer"].startswith("can't"):
        counts = ", ".join(f"{level}: {n}" for level, n in row["levels"].items())
        least = row.get("p_least_holm")
        few = "" if least is None else f"; the clearest difference of so few has p {least:.2g}"
        return f"{row['factor']}: can't be told with this design (models per level: {counts or 'none'}{few})."
    within = "; ".join(f"within {level} {share:.2f}" for level, share in row["within"].items())
    return (
        f"{row['factor']}: {row['answer']}. Models that share it pass on {row['same']:.2f} of the white-box fall, "
        f"others {row['different']:.2f} (difference {signless(row['difference'])}"
        f"{interval(row['low'], row['high'])}, adjusted p over models {row['p_models_holm']:.3f}); {within}."
    )


def _means(plan: Plan) -> str:
    return f"mean Dice of {listed(plan.study.target)}" if plan.study.target else MEANS


def _of_corruptions(plan: Plan, found: Mapping[str, Any]) -> list[str]:
    said, means = [], _means(plan)
    for model in plan.models:
        rows = [row for row in found["beside"] if row["model"] == model]
        if not rows:
            continue
        row = max(rows, key=lambda row: (row["eps"], row["drop"]))
        size, worst = f"RMS {row['rms']:.3g}", row["worst"]
        same = (
            f" {worst} as large takes {row['same_rms'][worst]:.2f}, the most of all ordinary changes;" if worst else ""
        )
        grades = ", ".join(
            f"{bad['corruption']} from grade {bad['grade']} (RMS {bad['rms']:.3g})" for bad in row["as_bad"]
        )
        said.append(
            f"{row['attack']} at {limit(plan, row['eps'])} ({size}) takes {row['drop']:.2f}"
            f"{interval(row['low'], row['high'])} of the {means} from {model} over {patients(row['n'])};{same} "
            + (f"as much is taken by {grades}." if grades else "no grade of any takes as much.")
        )
    return said


def _of_defences(plan: Plan, found: Mapping[str, Any]) -> list[str]:
    """For each model the worst attack at the largest limit."""
    said, means = [], _means(plan)
    for model, target in plan.models.items():
        rows = [row for row in found["defences"] if row["model"] == model]
        if not rows:
            continue
        row = min(rows, key=lambda row: (-row["eps"], row["adaptive"]))
        kept = f"{row['adaptive']:.2f}{interval(row['adaptive_low'], row['adaptive_high'])}"
        known = (
            "" if row["oblivious"] is None else f" if it knows of the defence, {row['oblivious']:.2f} if it doesn't,"
        )
        named = f"{model} ({' + '.join(target.defense)} before {row['beside']})" if target.defense else model
        said.append(
            f"{row['attack']} at {limit(plan, row['eps'])} leaves {named} a {means} of {kept}{known} over "
            f"{patients(row['n'])}, from {row['clean']:.2f}; {row['beside']} keeps {row['undefended']:.2f} from "
            f"{row['clean'] + row['cost']:.2f}: {WORTH[row['answer']]}."
        )
    return said


def _of_comparison(plan: Plan, found: Mapping[str, Any]) -> list[str]:
    compare = plan.study.compare
    assert compare is not None
    said = []
    for row in found["comparison"]:
        where = f"{row['attack']}, {limit(plan, row['eps'])}"
        if row["difference"] is None:
            continue
        bound = ""
        if row["bound"] is not None:
            end = "at most" if row["bound"] >= 0 else "at least"
            bound = f", {end} {_further(row['bound'])} with {plan.study.confidence:.0%} confidence"
        said.append(
            f"{where}: the {_means(plan)} of {compare.new} falls {_further(row['difference'])} than that of "
            f"{compare.old} over {patients(row['n'])}{bound}; margin {row['margin']:g}: {row['answer']}."
        )
    return said


def _further(difference: float) -> str:
    return f"{difference:.3f} further" if difference >= 0 else f"{-difference:.3f} less"


def _of_criterion(plan: Plan, row: Mapping[str, Any]) -> str:
    worst = "" if row["low"] is None else f" (lowest: {row['structure']} with {row['attack']}, {row['low']:.2f})"
    return f"Criterion, fixed before ({_criterion(plan)}): {row['model']} {row['answer']}{worst}."


def methods(plan: Plan, study_sha256: str) -> str:
    """A paragraph to paste into a paper."""
    study = plan.study
    ends = (
        f"Intervals are BCa bootstraps over patients ({study.confidence:.0%})",
        f"Perturbox {perturbox.__version__}, study {study_sha256[:12]}, threads: {study.threads}.",
    )
    gate = "" if study.gate is None else f" Models below a clean Dice of {study.gate.clean_dice:g} were struck out."
    left = f" Left out, for a model was trained on them: {listed(sorted(plan.left_out))}." if plan.left_out else ""
    if study.kind == "certify":
        return f"{certified_words.methods(plan)}{gate}{left} {ends[0]}. {ends[1]}"
    detection = f" {detected_words.methods(plan)}" if study.kind == "detectors" else ""
    attacks = listed([_attack(plan, index) for index in range(len(study.attacks))])
    labels = "expert labels" if study.cases.labels else "each model's own prediction of the unchanged scan"
    count = len({scan.patient for scan in plan.cases.values()})
    limits = listed([limit(plan, eps) for eps in study.eps.values])
    models = counted(len(plan.models), "model")
    return (
        f"Attacked: {models} on {counted(len(plan.cases), 'scan')} of {patients(count)}, with {attacks}, each limited "
        f"to {limits} ({study.eps.norm}, {UNITS[study.eps.unit]}), {counted(len(study.seeds), 'seed')}. "
        "Every perturbed scan was saved in its source's format (for JPEG and DICOM another that loses nothing), read "
        f"again and then segmented by the model's ordinary inference; Dice is with {labels}.{gate}{left}"
        f"{_changes(plan)}{_defences(plan)}{detection} Controls were white noise of equal RMS, the change rolled to "
        "another place, and harmless changes (saved again, shifted by "
        f"half a grid step, the scan's own noise where it can be measured). {ends[0]}; claims about training permute "
        f"models, adjusted after Holm. {ends[1]}"
    )


def _changes(plan: Plan) -> str:
    """The ordinary changes of a study, in a sentence of its methods."""
    done = {look.corruption: corruptions.get(look.corruption, _physics(plan)).by for look in plan.looks}
    if not done:
        return ""
    named = listed([f"{name} ({by})" for name, by in done.items()])
    grades = listed([str(grade) for grade in plan.study.grades])
    said = f" Ordinary changes of {corruptions.SAID[_physics(plan)]} were {named}, in grades {grades} of 5"
    if plan.study.kind == "detectors":
        return f"{said}."
    return f"{said}, and as large as each attack: the change of grade 1 scaled to the RMS of the saved perturbation."


def _defences(plan: Plan) -> str:
    """How defended models were attacked, in two sentences of its methods."""
    named = [f"{name} ({' + '.join(model.defense)})" for name, model in plan.models.items() if model.defense]
    if not named:
        return ""
    return (
        f" Behind defences stood {listed(named)}. Each was attacked with what was made for the same model without them "
        "(oblivious) and through them (adaptive), once with each stand-in for their gradient, of which the one that "
        "left least counts; all are compared with what the model says without them."
    )


def _physics(plan: Plan) -> corruptions.Physics:
    return corruptions.physics_of(plan.models[plan.first].unit)


def _attack(plan: Plan, index: int) -> str:
    attack = plan.study.attacks[index]
    built = recipes.get(attack.name).build(1.0, plan.study.eps.norm, attack.steps, attack.settings, local=True)
    settings = ", ".join(f"{key} {value}" for key, value in attack.settings.items())
    return f"{attack.called} ({built.parameters['steps']} steps{', ' + settings if settings else ''})"


def sources(plan: Plan) -> list[str]:
    """Papers of the attacks and of the defences, as these name them."""
    papers = [certificates.PAPER] if plan.study.kind == "certify" else []
    papers += [recipes.get(attack.name).paper for attack in plan.study.attacks]
    papers += [detectors.get(name).paper for name in plan.study.detectors]
    papers += [defenses.read_spec(spec)[0].paper for model in plan.models.values() for spec in model.defense]
    return [paper for paper in dict.fromkeys(papers) if paper]


def card(plan: Plan, found: Mapping[str, Any], findings: Sequence[Finding], study_sha256: str) -> dict[str, Any]:
    """The robustness card: what a model's technical file needs of this study."""
    study = plan.study
    said = verdict(plan, found, findings)
    loud = [finding.sentence for finding in findings if finding.level == "loud"]
    return {
        "schema": "perturbox-card/1",
        "study": study.name,
        "question": study.question or KINDS[study.kind],
        "models": {
            name: {
                "sha256": model.sha256,
                "structures": list(model.structures),
                "defense": list(model.defense),
                "factors": dict(study.models[name].factors),
            }
            for name, model in plan.models.items()
        },
        "threat_model": _threat(plan, found),
        "data": {
            "cases": len(plan.cases),
            "patients": len({scan.patient for scan in plan.cases.values()}),
            "labels": "expert" if study.cases.labels else "none: against each model's own clean prediction",
            "left_out": dict(plan.left_out),
        },
        "criterion_fixed_before": _criterion(plan),
        "result": said,
        "what_it_cannot_carry": [finding.sentence for finding in findings],
        "residual_risk": "Put in question by the checks: see what_it_cannot_carry."
        if loud
        else RISKS.get(study.kind, RISK),
        "study_sha256": study_sha256,
        "measured_by": {
            "perturbox": perturbox.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "monai", "numpy", "scipy")},
        },
        "unreliable": bool(loud),
    }


def _threat(plan: Plan, found: Mapping[str, Any]) -> dict[str, Any]:
    study = plan.study
    if study.kind == "certify":
        return certified_words.threat(plan, found)
    return {
        "who": "someone who can change the stored scan before the model reads it, and knows the model and its defences",
        "change": f"at most {listed([limit(plan, eps) for eps in study.eps.values])} ({study.eps.norm})",
        "attacks": [_attack(plan, index) for index in range(len(study.attacks))],
        "ordinary_changes": list(dict.fromkeys(look.corruption for look in plan.looks)),
        **(detected_words.threat(plan, found) if study.kind == "detectors" else {}),
    }


def _criterion(plan: Plan) -> str:
    study, compare = plan.study, plan.study.compare
    if study.criterion is not None:
        where = limit(plan, study.criterion.eps)
        low = "the lower end of the interval of each structure's mean Dice"
        return f"at {where} {low} is {study.criterion.dice:g} or more"
    if compare is None:
        return "none was stated in the study file"
    return f"{compare.new} falls at most {compare.margin:g} Dice further than {compare.old}"
