"""What a study of kind certify found, in sentences: its verdict, what it means, its methods."""

from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import norm

from perturbox.certificates.document import PAPER, SMOOTHED_ONLY, percent
from perturbox.judge.summary import listed
from perturbox.judge.summary import number as rounded
from perturbox.judge.units import NATIVE
from perturbox.studies.plan import Plan
from perturbox.studies.words import UNITS, counted, limit, patients, unit_of

RISK = (
    "The model as it is used, without noise, is covered by no certificate, nor are larger changes, other scanners or "
    "other patients."
)


def unit(plan: Plan) -> str:
    """Of the noise."""
    assert plan.study.certify is not None
    return plan.study.certify.unit


def aimed(plan: Plan, model: str) -> Sequence[str]:
    """The structures that the page is about."""
    return plan.study.target or plan.models[model].structures


def share(row: Mapping[str, Any]) -> str:
    """The certified share of a structure with its interval: "84.1 % [80.2, 87.9]"."""
    if row["low"] is None:
        return percent(row["certified"])
    value = row["certified"]
    told = f"{100 * value:.1f} %" if 0.001 <= value <= 0.999 else percent(value)
    return f"{told} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def verdict(plan: Plan, found: Mapping[str, Any]) -> list[str]:
    """Per model and noise: the structure of which least and that of which most is certified, and how far that
    reaches."""
    said = []
    reach = {(row["model"], row["sigma"]): row for row in found["votes"]}
    for model in plan.models:
        rows = [row for row in found["certificates"] if row["model"] == model]
        rows = [row for row in rows if row["structure"] in aimed(plan, model)]
        for sigma in dict.fromkeys(row["sigma"] for row in sorted(rows, key=lambda row: row["sigma"])):
            here = sorted((row for row in rows if row["sigma"] == sigma), key=lambda row: row["certified"])
            told = [here[0]] if len(here) == 1 else [here[0], here[-1]]
            parts = listed([f"{share(row)} of the {row['structure']}" for row in told])
            said.append(
                f"With noise of {limit(plan, sigma, unit(plan))} the smoothed {model} is certified on {parts} that the "
                f"model finds, over {patients(max(row['n'] for row in here))}: {_reach(plan, reach[model, sigma])}"
            )
    if said:
        said.append(SMOOTHED_ONLY.format(model=listed(list(plan.models))))
    return said


def _reach(plan: Plan, row: Mapping[str, Any]) -> str:
    how = plan.study.certify
    assert how is not None and row["radius"] is not None
    r, rms = (f"{rounded(row[name][0])} {unit_of(plan, NATIVE)}" for name in ("radius", "radius_rms"))
    least = "" if row["radius"][0] == row["radius"][1] else ", or more on other scans,"
    return (
        f"no change of L2 norm up to {r}, {rms} RMS over the scan{least} takes these answers away, with "
        f"{rounded(100 * (1 - how.alpha), 6)} % confidence for each scan."
    )


def meaning(plan: Plan) -> list[str]:
    """What is certified and what isn't, a sentence each."""
    how = plan.study.certify
    assert how is not None
    return [
        f"Certified is the answer of the smoothed model: what the model gives to more than {rounded(100 * how.tau)} % "
        "of all copies of the scan with that noise. The whole inference is smoothed, clean-up included.",
        f"R is σ·Φ⁻¹(τ), {rounded(float(norm.ppf(how.tau)))} times the noise, over all values of the scan together.",
        SMOOTHED_ONLY.format(model=listed(list(plan.models))),
        "It doesn't say that an answer is right, only that it is stable; how far it is right says the Dice of what is "
        "certified, where there are labels.",
        "An answer that is abstained from isn't proved unstable: the copies disagree too often for this many votes.",
        "Larger changes, shifts, other scanners and other protocols aren't covered.",
    ]


def methods(plan: Plan) -> str:
    """How it was done, in sentences to paste."""
    study, how = plan.study, plan.study.certify
    assert how is not None
    levels = listed([limit(plan, sigma, how.unit) for sigma in how.sigma])
    votes = "as many as it takes for anything to be certified, and a quarter more," if how.n is None else f"{how.n}"
    count = len({scan.patient for scan in plan.cases.values()})
    labels = " Dice is with expert labels." if study.cases.labels else ""
    return (
        f"Certified: {counted(len(plan.models), 'model')} on {counted(len(plan.cases), 'scan')} of {patients(count)}, "
        f"each smoothed by normal noise of {levels} ({UNITS[how.unit]}) on the scan's own grid, before the whole "
        f"inference ({PAPER}). {how.n0} noisy copies chose the answers, {votes} others voted; an answer "
        f"is certified where the binomial test at tau {how.tau:g}, corrected over all answers of the scan "
        f"({how.correction}), stays below alpha {how.alpha:g}. {counted(len(study.seeds), 'seed')}.{labels}"
    )


def threat(plan: Plan, found: Mapping[str, Any]) -> dict[str, Any]:
    """The threat model of the robustness card."""
    own = unit_of(plan, NATIVE)
    radii = {
        f"{row['model']}, noise of {limit(plan, row['sigma'], unit(plan))}": f"{rounded(row['radius'][0])} {own}"
        for row in found["votes"]
        if row["radius"]
    }
    return {
        "who": "anyone who can change the stored scan before the smoothed model reads it, whatever they know",
        "change": "any with an L2 norm over the whole scan up to the certified radius",
        "certified_radius": radii,
    }
