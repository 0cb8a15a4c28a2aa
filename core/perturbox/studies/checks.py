"""What an evaluation can't carry: rules after Carlini et al. 2019 (arXiv 1902.06705) that a study's own rows decide.

Each rule says what it needs; "loud" ones put the study's verdict in question, "note" ones limit it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from perturbox.attacks import recipes
from perturbox.judge.summary import listed
from perturbox.studies import certified, defended
from perturbox.studies.analysis import pair_drops
from perturbox.studies.design import AttackOf, Study
from perturbox.studies.detected import BROKEN, PATIENTS, false_sights
from perturbox.studies.frames import Frame, aimed, corrupted, own, usable
from perturbox.studies.statistics import FEWEST

CLAIM_STEPS = 100
COSTLY = 0.05  # of Dice
SLACK = 0.02  # of Dice: what may differ by chance
NOISE_SHARE = 0.5
NO_ATTACK = {  # what a detector may see that is none
    "noise": "noise as large as {attack}",
    "rolled": "the rolled change of {attack}",
    "corruption": "{corruption} in grade {grade}",
}


@dataclass(frozen=True)
class Finding:
    """rule: its name; level: "loud" or "note"; cells: how many rows or groups it is about."""

    rule: str
    level: str
    sentence: str
    cells: int


Rule = Callable[[Study, Frame, Sequence[Mapping[str, Any]]], Iterator[Finding]]


def check(study: Study, rows: Sequence[Mapping[str, Any]], found: Mapping[str, Any] | None = None) -> list[Finding]:
    """Every finding of every rule, loud ones first; found: the numbers of the page, of a study of detectors."""
    if study.kind == "certify":
        told = certified.usable(rows)
        return [finding for rule in OF_CERTIFICATES for finding in rule(study, told, rows)]
    frame = aimed(study, usable(rows))
    controls = [attack.called for attack in study.attacks if recipes.get(attack.name).family == "control"]
    attacks = frame[~frame["attack"].isin(controls)]
    rules = OF_LADDERS if study.kind == "detectors" else RULES
    told = [finding for rule in rules for finding in rule(study, attacks, rows)]
    told += of_detectors(found or {"attempts": (), "evaluations": ()}) if study.kind == "detectors" else []
    return sorted(told, key=lambda finding: finding.level != "loud")


def untouched(study: Study, frame: Frame, rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Needs one result. An attack that changed nothing says nothing of the model: its gradient is zero or vanishes."""
    still = own(frame)[own(frame)["linf"] == 0]
    for (model, attack), part in still.groupby(["target", "attack"]):
        cases = part[["case", "eps", "seed"]].drop_duplicates()
        yield Finding(
            "untouched",
            "loud",
            f"{attack} changed nothing in {len(cases)} attack(s) on {model}: its gradient may be zero or vanish, so "
            "this says nothing of how robust the model is.",
            len(cases),
        )


def not_tested(study: Study, frame: Frame, rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Needs one result. A gradient that vanishes nearly everywhere, or scores that are no numbers: what held wasn't
    tested."""
    blind = own(frame)[(own(frame)["verdict"] == "not-tested") & (own(frame)["linf"] > 0)]
    for (model, attack), part in blind.groupby(["target", "attack"]):
        cases = part[["case", "eps", "seed"]].drop_duplicates()
        yield Finding(
            "not-tested",
            "loud",
            f"{attack} could not test {model} in {len(cases)} attack(s), for its gradient vanishes or its scores are "
            "no finite numbers: what held there says nothing.",
            len(cases),
        )


def randomised(study: Study, frame: Frame, rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Needs one result. A model that answers by chance hides its gradient and part of every fall."""
    restless = frame[frame["repeats"].eq(False)]
    for model, part in restless.groupby("target"):
        yield Finding(
            "randomised",
            "loud",
            f"{model} answers the same scan twice differently in {part['case'].nunique()} case(s): part of every fall "
            "is chance, and an attack must average over it (eot) before the model counts as sturdy.",
            part["case"].nunique(),
        )


def more_is_less(study: Study, frame: Frame, rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Needs a series of limits. Dice that rises with the limit shows an attack that doesn't find what is there."""
    mean = own(frame).groupby(["target", "attack", "eps"])["dice"].mean()
    for (model, attack), series in mean.groupby(["target", "attack"]):
        values = series.droplevel(["target", "attack"]).sort_index()
        rises = [(a, b) for a, b in zip(values.index, values.index[1:], strict=False) if values[b] > values[a] + SLACK]
        for small, large in rises:
            yield Finding(
                "more-is-less",
                "loud",
                f"{attack} on {model} leaves Dice {values[large]:.3f} at {large:g} and {values[small]:.3f} at the "
                f"smaller limit {small:g}: it doesn't find what is there.",
                1,
            )


def more_steps_is_less(study: Study, frame: Frame, rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Needs a study with one attack at several numbers of steps. Dice that rises with them: the search fails."""
    kinds: dict[str, list[tuple[int, str]]] = {}
    for attack in study.attacks:
        same = f"{attack.name} {sorted(attack.settings.items())}"
        kinds.setdefault(same, []).append((_steps(study, attack), attack.called))
    mean = own(frame).groupby(["target", "eps", "attack"])["dice"].mean()
    for series in kinds.values():
        for (few, less), (many, more) in pairwise(sorted(series)):
            for model, eps in {(model, eps) for model, eps, attack in mean.index if attack == less}:
                small, large = mean[model, eps, less], mean.get((model, eps, more))
                if few < many and large is not None and large > small + SLACK:
                    yield Finding(
                        "more-steps-is-less",
                        "loud",
                        f"{more} leaves {model} Dice {large:.3f} at {eps:g} after {many} steps, {less} {small:.3f} "
                        f"after {few}: it doesn't find what is there.",
                        1,
                    )


def _steps(study: Study, attack: AttackOf) -> int:
    built = recipes.get(attack.name).build(1.0, study.eps.norm, attack.steps, attack.settings, local=True)
    return built.parameters["steps"]


def noise_is_as_good(study: Study, frame: Frame, rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Needs one result. An attack that noise of its size nearly equals is no attack, or the model breaks by itself."""
    mean = own(frame).groupby(["target", "attack", "eps"])[["drop", "drop_noise"]].mean()
    for (model, attack, eps), row in mean.iterrows():
        if row["drop_noise"] > SLACK and row["drop_noise"] >= NOISE_SHARE * row["drop"]:
            yield Finding(
                "noise-is-as-good",
                "loud",
                f"Noise as large as {attack} at {eps:g} takes {row['drop_noise']:.3f} Dice of {model}, the attack "
                f"{row['drop']:.3f}: what is seen isn't the attack's doing alone.",
                1,
            )


def ordinary_is_as_good(study: Study, frame: Frame, rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Needs a study of kind corruptions. What a clinic does anyway nearly equals the attack at its own size."""
    changed = aimed(study, corrupted(rows))
    same = changed[changed["grade"].isna()].groupby(["target", "attack", "eps", "corruption"])["drop"].mean()
    mean = own(frame).groupby(["target", "attack", "eps"])["drop"].mean()
    for (model, attack, eps, name), drop in same.items():
        by_attack = mean.get((model, attack, eps))
        if by_attack is not None and drop > SLACK and drop >= NOISE_SHARE * by_attack:
            yield Finding(
                "ordinary-is-as-good",
                "loud",
                f"{name} as large as {attack} at {eps:g} takes {drop:.3f} Dice of {model}, the attack {by_attack:.3f}: "
                "the model needs no attacker to fail, or the attack is too weak.",
                1,
            )


def transfer_beats_own(study: Study, frame: Frame, rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Needs a study of several models. What was made for another model must not do more than what was made for it."""
    if study.kind == "defences":  # of which `masking` says the same
        return
    mean = pair_drops(frame).groupby(["attack", "eps", "surrogate", "target"])["drop"].mean()
    for (attack, eps, surrogate, target), drop in mean.items():
        white = mean.get((attack, eps, target, target))
        if surrogate != target and white is not None and drop > white + SLACK:
            yield Finding(
                "transfer-beats-own",
                "loud",
                f"{attack} at {eps:g} made for {surrogate} takes {drop:.3f} Dice of {target}, made for {target} itself "
                f"{white:.3f}: its gradient is masked.",
                1,
            )


def masking(study: Study, frame: Frame, rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Needs a study of kind defences. An attack that knows the defence and does less than one that doesn't was misled
    by it."""
    if study.kind != "defences":
        return
    for row in defended.worth(frame, defended.beside(study), study.confidence):
        if row["masking"]:
            yield Finding(
                "masking",
                "loud",
                f"{row['attack']} at {row['eps']:g} through the defence of {row['model']} leaves Dice "
                f"{row['adaptive']:.3f}, without knowledge of it {row['oblivious']:.3f}: the defence hides the "
                "gradient from this attack and isn't tested by it; give more steps.",
                1,
            )


def beaten_by_apgd(study: Study, frame: Frame, rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Needs a study with APGD beside an attack of fixed steps, which then is too weak for a claim."""
    names = {a.called: a.name for a in study.attacks if recipes.get(a.name).access == "white"}
    if "apgd" not in names.values():
        return
    mean = own(frame).groupby(["target", "eps", "attack"])["dice"].mean()
    weaker: dict[tuple[str, float], list[tuple[float, str]]] = {}  # by attack and limit: (how far behind, in words)
    for (model, eps), part in mean.groupby(["target", "eps"]):
        dice = part.droplevel(["target", "eps"])
        best = min((value for name, value in dice.items() if names.get(str(name)) == "apgd"), default=None)
        for name, value in dice.items():
            if best is not None and names.get(str(name), "apgd") != "apgd" and value > best + SLACK:
                told = f"{model} Dice {value:.3f} at {eps:g}, APGD {best:.3f}"
                weaker.setdefault((str(name), eps), []).append((value - best, told))
    for (name, _), found in weaker.items():
        more = f" (the largest of {len(found)} such differences)" if len(found) > 1 else ""
        yield Finding(
            "beaten-by-apgd",
            "note",
            f"{name} leaves {max(found)[1]}{more}: read its row{'s' * (len(found) > 1)} as an upper bound.",
            1,
        )


def black_beats_white(study: Study, frame: Frame, rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Needs a study with an attack that only asks the model. It must not beat one that knows the gradient."""
    access = {attack.called: recipes.get(attack.name).access for attack in study.attacks}
    mean = own(frame).groupby(["target", "eps", "attack"])["dice"].mean()
    for (model, eps), part in mean.groupby(["target", "eps"]):
        dice = {str(name): value for name, value in part.droplevel(["target", "eps"]).items()}
        white = min((value for name, value in dice.items() if access[name] == "white"), default=None)
        for name, value in dice.items():
            if white is not None and access[name] == "black" and value < white - SLACK:
                yield Finding(
                    "black-beats-white",
                    "loud",
                    f"{name}, which knows no gradient, leaves {model} Dice {value:.3f} at {eps:g}; those that know it "
                    f"leave {white:.3f}: the gradient is masked.",
                    1,
                )


def few_steps(study: Study, frame: Frame, rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Needs one result. Fewer than 100 steps are a look, not a claim."""
    taken: dict[int, list[str]] = {}
    for attack in study.attacks:
        recipe, steps = recipes.get(attack.name), _steps(study, attack)
        if recipe.family != "control" and steps < CLAIM_STEPS:
            taken.setdefault(steps, []).append(attack.called)
    for steps, named in taken.items():
        yield Finding(
            "few-steps",
            "note",
            f"{listed(named)} took {steps} step{'s' * (steps != 1)}: a look, not a claim; {CLAIM_STEPS} or more are "
            "needed to say that a model withstands it.",
            len(named),
        )


def few_patients(study: Study, frame: Frame, rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Needs a study. Below six patients no p-value can be told."""
    count = frame["patient"].nunique()
    if count < FEWEST:
        yield Finding(
            "few-patients",
            "note",
            f"{count} patient{'s' * (count != 1)}: too few for any p-value; {FEWEST} or more are needed.",
            count,
        )


def not_used(study: Study, frame: Frame, rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Needs a study. What failed and which models missed the gate."""
    failed = [row for row in rows if row["status"] == "failed"]
    if failed:
        yield Finding(
            "failed",
            "note",
            f"{len(failed)} of {len(rows)} rows failed and aren't used; the first because: {failed[0]['reason']}",
            len(failed),
        )
    gated = sorted({reason for row in rows if row["status"] == "gated" and (reason := row["reason"])})
    if gated:
        yield Finding("gated", "note", f"Struck out: {'; '.join(gated)}.", len(gated))


def nothing_certified(study: Study, frame: Frame, rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Needs a study of kind certify. Where nothing of a structure is certified the noise is too large for the model."""
    mean = frame.groupby(["model", "structure", "sigma"])["certified"].mean()
    for (model, structure, sigma), value in mean.items():
        if value == 0:
            yield Finding(
                "nothing-certified",
                "note",
                f"Nothing of the {structure} is certified for {model} with noise {sigma:g}: its answers disagree too "
                "often; take less noise, or a model that was trained with it.",
                1,
            )


def smoothing_costs(study: Study, frame: Frame, rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Needs a study of kind certify with labels. A smoothed model that answers worse than the model itself isn't what
    anyone uses."""
    mean = frame.dropna(subset=["dice_clean", "dice_smoothed"]).groupby(["model", "structure", "sigma"])
    for (model, structure, sigma), row in mean[["dice_clean", "dice_smoothed"]].mean().iterrows():
        if row["dice_smoothed"] < row["dice_clean"] - COSTLY:
            yield Finding(
                "smoothing-costs",
                "note",
                f"Noise {sigma:g} takes the Dice of {structure} ({model}) from {row['dice_clean']:.2f} to "
                f"{row['dice_smoothed']:.2f}: the smoothed model, which the certificate is of, is that much worse.",
                1,
            )


def few_to_certify(study: Study, frame: Frame, rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Needs a study of kind certify. A certificate is each scan's own; a mean over a few says little of others."""
    count = frame["patient"].nunique()
    if count < FEWEST:
        yield Finding(
            "few-patients",
            "note",
            f"{count} patient{'s' * (count != 1)}: what is certified holds for each scan, but a mean over fewer than "
            f"{FEWEST} says little of others.",
            count,
        )


def of_detectors(found: Mapping[str, Any]) -> Iterator[Finding]:
    """Needs a study of kind detectors. Too few patients, attacks that broke nothing, detectors that see what is no
    attack."""
    for row in found["attempts"]:
        if row["patients"] < PATIENTS:
            told = f"{row['patients']} patients: nothing is claimed of {row['attack']} on fewer than {PATIENTS}."
            yield Finding("few-patients", "note", told, row["patients"])
        elif row["patients_fell"] < BROKEN:
            told = f"{row['attack']} broke {row['patients_fell']} of {row['patients']} patients ({row['model']})"
            yield Finding("nothing-broken", "note", f"{told}: nothing is claimed of who sees it.", row["patients_fell"])
    if reasons := found.get("unseen"):
        told = f"Of {len(reasons)} scans or attacks detectors saw nothing; the first because: {reasons[0]}"
        yield Finding("unseen", "note", told, len(reasons))
    seen: dict[tuple[str, str, bool, bool], list[tuple[float, str]]] = {}  # what is no attack, by who sees it
    for row, much in false_sights(found["evaluations"]):
        learned = f" (learned {row['fitted_on']})" if row["fitted_on"] else ""
        who = (row["model"], f"{row['detector']}{learned}", row["positives"] == "corruption", much)
        seen.setdefault(who, []).append((row["auroc"], NO_ATTACK[row["positives"]].format(**row)))
    for (model, who, ordinary, much), told in seen.items():
        what = f"{listed([name for _, name in told])} ({model}, AUROC up to {max(told)[0]:.2f})"
        where = "what a clinic does to scans" if ordinary else "any change of that size"
        rule, level = ("sees-ordinary", "note") if ordinary else ("sees-no-attack", "loud" if much else "note")
        yield Finding(rule, level, f"{who} sees {what}: it fires {'' if much else 'a little '}at {where}.", len(told))


RULES: tuple[Rule, ...] = (
    untouched,
    not_tested,
    randomised,
    more_is_less,
    more_steps_is_less,
    noise_is_as_good,
    ordinary_is_as_good,
    transfer_beats_own,
    masking,
    black_beats_white,
    beaten_by_apgd,
    few_steps,
    few_patients,
    not_used,
)
OF_CERTIFICATES: tuple[Rule, ...] = (smoothing_costs, nothing_certified, few_to_certify, not_used)
# Limits differ from case to case, so nothing is said of one limit.
OF_LADDERS: tuple[Rule, ...] = (not_tested, randomised, few_steps, not_used)
