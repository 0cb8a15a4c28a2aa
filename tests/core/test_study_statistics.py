"""The numbers of a study against closed forms, and its sentences against rows written by hand."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

pytest.importorskip("pyarrow", reason="studies need the extra 'study'")
from perturbox.studies import analysis, statistics, story
from perturbox.studies.checks import check
from perturbox.studies.columns import RESULTS
from perturbox.studies.design import Study
from perturbox.studies.plan import Plan, Target
from perturbox.studies.words import interval


def test_an_interval_of_equal_values_is_the_value():
    assert statistics.mean_interval([0.5] * 7) == statistics.Interval(0.5, 0.5, 0.5, 7)


def test_few_values_have_no_interval():
    assert statistics.mean_interval([]) is None
    assert statistics.mean_interval([0.2, 0.4]) == statistics.Interval(pytest.approx(0.3), None, None, 2)
    assert statistics.upper_bound([0.1] * 5, 0.95) is None


def test_an_interval_of_many_normal_values_is_students():
    values = np.random.default_rng(1).normal(0.5, 0.1, 400)
    found = statistics.mean_interval(values.tolist())
    low, high = stats.t.interval(0.95, 399, values.mean(), stats.sem(values))
    assert found is not None
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-4)
    one_sided = values.mean() + stats.t.ppf(0.95, 399) * stats.sem(values)
    assert statistics.upper_bound(values.tolist(), 0.95) == pytest.approx(one_sided, abs=5e-4)


def test_wilcoxon_of_six_of_one_sign_is_two_in_sixty_four():
    assert statistics.paired_p([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == pytest.approx(2 / 64)
    assert statistics.paired_p([0.1] * 5) is None
    assert statistics.paired_p([0.0] * 8) is None


def test_holm_by_hand():
    """Smallest times three, next times two, the largest once, never falling."""
    assert statistics.holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert statistics.holm([None]) == [None]


def test_a_permutation_counts_every_relabelling():
    """Of the 20 ways to call three of six models A, only the observed one and its mirror reach the largest gap."""
    values = np.arange(6.0)

    def gap(labels):
        return float(
            np.mean(values[[label == "A" for label in labels]]) - np.mean(values[[label != "A" for label in labels]])
        )

    assert statistics.permutation_p(list("AAABBB"), gap) == pytest.approx(2 / 20)
    assert statistics.permutation_p(list("ABAABB"), lambda labels: None) is None


def test_random_relabellings_come_near_all():
    values = np.random.default_rng(0).normal(size=18)

    def gap(labels):
        a = np.array(labels) == "A"
        return float(values[a].mean() - values[~a].mean())

    labels = ["A"] * 9 + ["B"] * 9
    assert statistics.permutation_p(labels, gap) == pytest.approx(
        stats.permutation_test((values[:9], values[9:]), lambda a, b: a.mean() - b.mean(), n_resamples=np.inf).pvalue,
        abs=0.015,
    )


# ---------------------------------------------------------------- rows written by hand


def study(kind="curve", **more):
    models = more.pop("models", ["m"])
    return Study.model_validate(
        {
            "schema": "perturbox-study/1",
            "name": "s",
            "kind": kind,
            "models": {name: {"victim": name, "factors": more.get("factors", {}).get(name, {})} for name in models},
            "cases": {"images": "x"},
            "attacks": more.pop("attacks", [{"name": "apgd", "steps": 100}]),
            "eps": {"values": more.pop("eps", [10])},
            **{key: value for key, value in more.items() if key != "factors"},
        }
    )


def row(**told):
    base = {"surrogate": "m", "target": "m", "attack": "apgd", "eps": 10.0, "seed": 0, "structure": "s", "status": "ok",
            "dice_clean": 0.9, "dice": 0.5, "dice_noise": 0.9, "dice_rolled": 0.9, "dice_benign": 0.95, "linf": 10.0,
            "size": 5.0, "verdict": "dice", "reason": None, "case": "c0"}  # fmt: skip
    made = {**dict.fromkeys(RESULTS), **base, **told}
    return {**made, "patient": told.get("patient", made["case"])}


def patients(n=8, **told):
    return [row(case=f"c{i}", **told) for i in range(n)]


def rules(study, rows):
    return {finding.rule: finding.level for finding in check(study, rows)}


ONE, MANY = [{"name": "apgd", "steps": 100}], [{"name": "apgd", "steps": 100}, {"name": "pgd", "steps": 100}]
BLACK = [{"name": "apgd", "steps": 100}, {"name": "square", "steps": 100}]
LONGER = [{"name": "apgd", "steps": 100}, {"name": "apgd", "steps": 200, "label": "long"}]
HONEST = patients(dice=0.5)
# The rule, the study's attacks, rows that trip it, and honest rows beside them that don't.
TRIPPED = [
    ("untouched", "loud", ONE, patients(dice=0.9, linf=0.0), HONEST),
    ("not-tested", "loud", ONE, patients(dice=0.9, verdict="not-tested"), patients(dice=0.9, verdict="held")),
    ("randomised", "loud", ONE, patients(repeats=False), patients(repeats=True)),
    ("more-steps-is-less", "loud", LONGER, HONEST + patients(dice=0.6, attack="long"),
     HONEST + patients(dice=0.4, attack="long")),
    (
        "more-is-less",
        "loud",
        ONE,
        patients(dice=0.5, eps=5.0) + patients(dice=0.6),
        patients(dice=0.6, eps=5.0) + patients(dice=0.5),
    ),
    ("noise-is-as-good", "loud", ONE, patients(dice=0.7, dice_noise=0.78), patients(dice=0.7, dice_noise=0.88)),
    (
        "transfer-beats-own",
        "loud",
        ONE,
        patients(dice=0.8) + patients(dice=0.4, surrogate="n") + patients(dice=0.3, surrogate="n", target="n"),
        patients(dice=0.3) + patients(dice=0.6, surrogate="n") + patients(dice=0.3, surrogate="n", target="n"),
    ),
    ("beaten-by-apgd", "note", MANY, HONEST + patients(dice=0.7, attack="pgd"), HONEST + patients(attack="pgd")),
    ("black-beats-white", "loud", BLACK, HONEST + patients(dice=0.3, attack="square"),
     HONEST + patients(dice=0.7, attack="square")),
    ("few-steps", "note", [{"name": "apgd", "steps": 20}], HONEST, None),
    ("few-patients", "note", ONE, patients(5), HONEST),
    ("failed", "note", ONE, [*HONEST, row(case="c9", status="failed", reason="no", dice=None)], HONEST),
    ("gated", "note", ONE, [*HONEST, row(case="c9", status="gated", reason="m missed the gate")], HONEST),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "level", "attacks", "bad", "good"), TRIPPED, ids=[entry[0] for entry in TRIPPED])
def test_each_check_objects_to_its_fault_and_to_nothing_else(rule, level, attacks, bad, good):
    assert rules(study(attacks=attacks, eps=[5, 10]), bad) == {rule: level}
    if good is not None:
        assert rules(study(attacks=attacks, eps=[5, 10]), good) == {}
    else:
        assert rules(study(attacks=ONE, eps=[5, 10]), bad) == {}


def test_seeds_and_cases_of_a_patient_count_once():
    rows = [
        row(case="a", patient="p", dice=0.2),
        row(case="b", patient="p", dice=0.4),
        row(case="c", patient="q", dice=0.9),
    ]
    (curve,) = analysis.analyse(study(), rows)["curves"]
    assert (curve["n"], curve["dice"]) == (2, pytest.approx((0.3 + 0.9) / 2))


def test_the_worst_of_several_attacks_is_taken_case_by_case():
    rows = [row(case=case, attack=name, dice=dice) for case, name, dice in
            (("a", "apgd", 0.2), ("a", "pgd", 0.5), ("b", "apgd", 0.6), ("b", "pgd", 0.1))]  # fmt: skip
    (worst,) = analysis.analyse(study("worst-case", attacks=MANY), rows)["worst"]
    assert worst["mean"] == pytest.approx(0.15)
    assert worst["worst_of"] == {"apgd": 1, "pgd": 1}
    assert worst["attacks"] == {"apgd": pytest.approx(0.4), "pgd": pytest.approx(0.3)}


def test_a_factor_that_matters_is_found_and_one_that_does_not_is_not():
    """Twelve models: transfer is .8 within a start and .3 between, whatever the data."""
    names = [f"{init}{data}{n}" for init, data, n in product("rp", "AB", (1, 2, 3))]
    factors = {name: {"init": name[0], "data": name[1], "seed": int(name[2])} for name in names}
    rng = np.random.default_rng(0)
    rows = []
    for a, b, i in product(names, names, range(6)):
        share = 1.0 if a == b else 0.8 if a[0] == b[0] else 0.3
        rows += [row(surrogate=a, target=b, case=f"c{i}", dice=0.9 - 0.4 * share + rng.normal(0, 1e-3))]
    found = analysis.analyse(study("transfer", models=names, factors=factors), rows)
    data, init = found["contrasts"]
    assert (init["factor"], init["answer"]) == ("init", "found")
    assert init["same"] == pytest.approx(0.8, abs=0.01)
    assert init["different"] == pytest.approx(0.3, abs=0.01)
    # In each half of the data the split or its mirror; two relabellings leave nothing to compare.
    assert init["p_models"] == pytest.approx(4 / 922)
    assert (data["factor"], data["answer"]) == ("data", "not found")
    assert data["p_models_holm"] >= data["p_models"]


def test_two_models_per_level_tell_nothing_of_a_factor():
    names = ["a1", "a2", "b1", "b2"]
    factors = {name: {"arch": name[0]} for name in names}
    rows = [row(surrogate=a, target=b, case=f"c{i}", dice=0.5) for a, b, i in product(names, names, range(6))]
    (contrast,) = analysis.analyse(study("transfer", models=names, factors=factors), rows)["contrasts"]
    assert contrast["answer"] == "can't be told with this design"
    assert contrast["p_models"] is None


def test_three_models_per_level_can_find_nothing_and_four_can():
    """Of 20 ways to label three and three, the true one and its mirror are the clearest: p is 0.1 at best."""
    for count, answer in ((3, "can't be told with this design"), (4, "found")):
        factors = {f"{arch}{n}": {"arch": arch} for arch, n in product("ab", range(count))}
        rows = [
            row(surrogate=a, target=b, case=f"c{i}", dice=0.1 if a == b else 0.2 + 0.4 * (a[0] != b[0]) + 0.001 * i)
            for a, b, i in product(factors, factors, range(6))
        ]
        design = study("transfer", models=list(factors), factors=factors)
        (contrast,) = analysis.analyse(design, rows)["contrasts"]
        assert contrast["p_models"] == contrast["p_least"] == pytest.approx({3: 2 / 20, 4: 2 / 70}[count])
        assert contrast["answer"] == answer
    few = {**contrast, "answer": "can't be told with this design", "p_least_holm": 0.1}
    assert story.effect(few).endswith("models per level: a: 4, b: 4; the clearest difference of so few has p 0.1).")


@pytest.mark.parametrize(
    ("further", "n", "answer"),
    [
        (0.01, 12, "no more fragile by the margin"),
        (0.06, 12, "not shown"),
        (0.01, 5, "can't be told: too few patients"),
    ],
)
def test_a_new_version_is_no_more_fragile_only_where_the_bound_says_so(further, n, answer):
    rows = []
    for i in range(n):
        rows += [row(target="old", surrogate="old", case=f"c{i}", dice=0.5)]
        rows += [row(target="new", surrogate="new", case=f"c{i}", dice=0.5 - further + 0.001 * (-1) ** i)]
    compare = {"new": "new", "old": "old", "margin": 0.05}
    (found,) = analysis.analyse(study("non-inferiority", models=["new", "old"], compare=compare), rows)["comparison"]
    assert found["answer"] == answer
    assert found["difference"] == pytest.approx(further, abs=2e-3)


def test_a_curve_speaks_of_what_was_attacked():
    """A neighbour that fell further along the way isn't what the study asked about."""
    rows = [row(structure="liver", dice=0.6), row(structure="kidney", dice=0.2)]
    for target, said in (([], "kidney (m) from 0.90 to 0.20"), (["liver"], "liver (m) from 0.90 to 0.60")):
        asked = study(target=target)
        plan = Plan(asked, {"m": Target("m", "m", "", ("liver", "kidney"), "HU")}, {}, {}, [], [])
        (sentence, *_) = story.verdict(plan, analysis.analyse(asked, rows), [])
        assert said in sentence


def test_a_criterion_is_met_by_the_lower_end_of_the_worst_structure():
    promise = {"criterion": {"eps": 10, "dice": 0.5}}
    rows = patients(dice=0.6) + patients(dice=0.4, structure="t")
    (told,) = analysis.analyse(study(**promise), rows)["criterion"]
    assert (told["answer"], told["structure"]) == ("doesn't meet it", "t")
    (told,) = analysis.analyse(study(**promise), patients(dice=0.6))["criterion"]
    assert told["answer"] == "meets it"
    (told,) = analysis.analyse(study(**promise), patients(2))["criterion"]
    assert told["answer"] == "can't be told"


def test_gated_and_failed_rows_change_no_number():
    clean = analysis.analyse(study(), HONEST)
    noisy = [*HONEST, row(case="c8", status="gated", dice=0.0), row(case="c9", status="failed", dice=None)]
    assert analysis.analyse(study(), noisy) == clean


def test_many_rows_that_apgd_beats_are_one_note_with_the_widest():
    other = {"surrogate": "n", "target": "n"}
    weak = patients(dice=0.7, attack="pgd") + patients(dice=0.45, **other) + patients(dice=0.8, attack="pgd", **other)
    (found,) = [
        one for one in check(study(models=["m", "n"], attacks=MANY), HONEST + weak) if one.rule == "beaten-by-apgd"
    ]
    assert found.sentence == (
        "pgd leaves n Dice 0.800 at 10, APGD 0.450 (the largest of 2 such differences): read its rows as an upper "
        "bound."
    )


def test_no_zero_on_a_page_has_a_sign():
    assert interval(-0.001, 0.004) == " [0.00, 0.00]" and interval(-0.006, 0.5) == " [-0.01, 0.50]"
