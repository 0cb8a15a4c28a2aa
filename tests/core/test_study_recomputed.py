"""Every number of a study's page, for each kind, worked out again from its Parquet file by `study_by_pandas`: 1e-12."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import study_by_pandas as again
import tiny

pytest.importorskip("pyarrow", reason="studies need the extra 'study'")
import pandas as pd
from test_study_statistics import row, study

from perturbox.plain import to_json
from perturbox.studies import analysis
from perturbox.studies.columns import RESULTS
from perturbox.studies.run import run_study
from perturbox.studies.tables import write_table

TWO = [{"name": "apgd", "steps": 100}, {"name": "pgd", "steps": 100}]
MODELS = {f"{start}{n}": {"init": start, "seed": n} for start, n in product("rp", (1, 2, 3))}


def near(value):
    return pytest.approx(value, abs=1e-12)


def drawn(models, pairs, attacks=("apgd", "pgd"), limits=(5.0, 10.0)):
    """Rows of random numbers: 8 patients, two of them with two scans, two seeds, some failed, gated and empty rows."""
    rng, made = np.random.default_rng(0), []
    cases = [(f"c{i}", f"p{i % 8}") for i in range(10)]
    grid = product(pairs, attacks, limits, cases, (0, 1), ("s", "t"))
    for (a, b), attack, eps, (case, patient), seed, structure in grid:
        fall = (0.5 if a == b else 0.2 + 0.1 * (a[0] == b[0])) * eps / 10
        numbers = {
            "dice_clean": 0.9, "dice": 0.9 - fall + rng.normal(0, 0.02), "dice_noise": 0.88 + rng.normal(0, 0.005),
            "dice_rolled": 0.85 + rng.normal(0, 0.005), "size": rng.uniform(1, 9), "rms": rng.uniform(3, 4) * eps / 5,
        }  # fmt: skip
        told = {"surrogate": a, "target": b, "attack": attack, "eps": eps, "seed": seed, "structure": structure}
        made.append(row(**told, case=case, patient=patient, verdict=str(rng.choice(["dice", "held"])), **numbers))
    for place in rng.choice(len(made), len(made) // 30, replace=False):
        made[place] |= {"status": "failed", "dice": None, "reason": "no memory"}
    made[3] |= {"dice_noise": None}
    made[5] |= {"status": "gated", "dice": 0.0}
    return made


def found_and_table(design, rows, tmp_path):
    write_table(tmp_path / "results.parquet", rows, RESULTS, {})
    return json.loads(json.dumps(to_json(analysis.analyse(design, rows)))), pd.read_parquet(
        tmp_path / "results.parquet"
    )


def own(models):
    return [(model, model) for model in models]


def check_common(found, table, worst):
    """What every kind's page holds."""
    curves = again.curves(table)
    told = {(r["model"], r["attack"], r["structure"], r["eps"]): r for r in found["curves"]}
    assert told.keys() == curves.keys()
    for key, mine in curves.items():
        for name, value in mine.items():
            assert told[key][name] == (value if value is None else near(value)), (key, name)
    assert {
        (r["target"], r["attack"], r["eps"], r["structure"], r["verdict"]): r["cases"] for r in found["verdicts"]
    } == again.verdicts(table)
    strata = {(r["model"], r["attack"], r["eps"], r["structure"]): r for r in found["strata"]}
    assert {
        key: tuple(r[n] for n in ("middle", "small", "large", "n_small", "n_large")) for key, r in strata.items()
    } == {key: near(value) for key, value in again.strata(table).items()}
    assert [(r["target"], r["case"], near(r["drop"])) for r in found["worst_cases"]] == again.worst_cases(table, worst)


def test_curve_and_its_criterion(tmp_path):
    design = study("curve", attacks=TWO, eps=[5, 10], criterion={"eps": 10, "dice": 0.39}, models=["m", "n"])
    found, table = found_and_table(design, drawn("mn", own("mn")), tmp_path)
    check_common(found, table, 3)
    for told in found["criterion"]:
        low, structure, attack, met = again.criterion(table, 10, 0.39)[told["model"]]
        assert (told["structure"], told["attack"]) == (structure, attack) and told["low"] == near(low)
        assert told["answer"] == ("meets it" if met else "doesn't meet it")


def test_universal(tmp_path):
    design = study("universal", attacks=[{"name": "uap", "steps": 5}], craft_on=["x"])
    found, table = found_and_table(design, drawn("m", own("m"), ("uap",), (10.0,)), tmp_path)
    check_common(found, table, 3)


def test_worst_case(tmp_path):
    found, table = found_and_table(study("worst-case", attacks=TWO, eps=[5, 10]), drawn("m", own("m")), tmp_path)
    check_common(found, table, 3)
    for told in found["worst"]:
        least, low, high, which, attacks = again.worst(table)[told["model"], told["eps"]]
        assert (told["mean"], told["low"], told["high"]) == (near(least), near(low), near(high))
        assert told["worst_of"] == which and told["attacks"] == near(attacks)


def test_transfer(tmp_path):
    design = study("transfer", models=list(MODELS), factors=MODELS, eps=[10])
    rows = drawn(MODELS, product(MODELS, MODELS), ("apgd",), (10.0,))
    found, table = found_and_table(design, rows, tmp_path)
    check_common(found, table, 3)
    cells = {(r["attack"], r["eps"], r["surrogate"], r["target"]): r for r in found["matrix"]}
    mine = again.matrix(table)
    assert cells.keys() == mine.keys() and len(cells) == 36
    for key, values in mine.items():
        assert tuple(cells[key][name] for name in ("drop", "noise", "relative")) == near(values)
    (told,) = found["contrasts"]
    (wanted,) = again.contrasts(table, MODELS).values()
    assert told["factor"] == "init" and told["levels"] == {"r": 3, "p": 3}
    assert told["difference"] == near(wanted["difference"]) and told["within"] == near(wanted["within"])
    assert told["p_models"] == near(wanted["p_models"]) == told["p_models_holm"]
    assert (told["low"], told["high"]) == near(wanted["interval"]) and told["p_patients"] == near(wanted["p_patients"])


def test_holm_over_several_factors(tmp_path):
    factors = {name: {**given, "data": "AB"[given["seed"] % 2]} for name, given in MODELS.items()}
    design = study("transfer", models=list(MODELS), factors=factors, eps=[10])
    found, _ = found_and_table(design, drawn(MODELS, product(MODELS, MODELS), ("apgd",), (10.0,)), tmp_path)
    known = [r for r in found["contrasts"] if r["p_models"] is not None]
    assert [r["p_models_holm"] for r in known] == near(again.holm([r["p_models"] for r in known]))


def test_non_inferiority(tmp_path):
    compare = {"new": "n", "old": "o", "margin": 0.05}
    design = study("non-inferiority", models=["n", "o"], compare=compare, attacks=TWO, eps=[5, 10])
    found, table = found_and_table(design, drawn("no", own("no")), tmp_path)
    check_common(found, table, 3)
    for told in found["comparison"]:
        n, further, bound = again.comparison(table, "n", "o")[told["attack"], told["eps"]]
        assert (told["n"], told["difference"], told["bound"]) == (n, near(further), near(bound))
        assert (told["answer"] == "no more fragile by the margin") is bool(bound < 0.05)


@pytest.mark.parametrize("kind", ["worst-case", "transfer", "non-inferiority", "curve"])
def test_means_are_of_the_structures_that_were_attacked(kind):
    """A study aimed at s says of means what one does that knows no other structure."""
    pairs = product(MODELS, MODELS) if kind == "transfer" else own(MODELS)
    asked = {"models": list(MODELS), "factors": MODELS, "attacks": TWO, "eps": [5, 10]}
    asked |= {"compare": {"new": "r1", "old": "p1", "margin": 0.05}} if kind == "non-inferiority" else {}
    rows = drawn(MODELS, pairs)
    found = analysis.analyse(study(kind, **asked, target=["s"]), rows)
    alone = analysis.analyse(study(kind, **asked), [one for one in rows if one["structure"] == "s"])
    both = analysis.analyse(study(kind, **asked), rows)
    for name in {"worst_cases", "worst", "matrix", "contrasts", "comparison"} & set(found):
        assert found[name] == alone[name] != both[name]
    for name in ("curves", "verdicts", "strata"):
        assert found[name] == both[name]


def test_corruptions(tmp_path):
    design = study("corruptions", attacks=TWO, eps=[5, 10])
    rows = drawn("m", own("m"))
    rng = np.random.default_rng(1)
    for name, grade, i, structure in product(("dose", "slices"), (1, 3, 5), range(8), ("s", "t")):
        dice = 0.9 - 0.12 * grade * (name == "slices") + rng.normal(0, 0.01)
        changed = {"corruption": name, "grade": grade, "attack": None, "eps": None, "structure": structure}
        rows.append(row(**changed, case=f"c{i}", dice=dice, rms=10.0 * grade, repeats=True))
    for name, attack, eps, i in product(("dose", "slices"), ("apgd", "pgd"), (5.0, 10.0), range(8)):
        same = {"corruption": name, "attack": attack, "eps": eps, "rms": eps}
        rows.append(row(**same, case=f"c{i}", dice=0.88 + rng.normal(0, 0.01)))
    found, table = found_and_table(design, rows, tmp_path)
    check_common(found, table, 3)
    mine = again.corruptions(table)
    names = ("model", "structure", "corruption", "grade", "attack", "eps")
    assert len(mine) == len(found["corruptions"]) == 2 * 4 + 2 * 4 + 2 * 3 * 2
    for told in found["corruptions"]:
        values = mine[tuple(told[name] for name in names)]
        assert tuple(told[name] for name in ("n", "dice", "rms", "dice_clean", "low", "high")) == near(values)
    for told in found["beside"]:
        drop, rms, same, mildest = again.beside(table)[told["model"], told["attack"], told["eps"]]
        assert (told["drop"], told["rms"]) == near((drop, rms)) and told["same_rms"] == near(same)
        assert {r["corruption"]: r["grade"] for r in told["as_bad"]} == mildest
    assert any(told["as_bad"] for told in found["beside"])
    aimed, _ = found_and_table(study("corruptions", attacks=TWO, eps=[5, 10], target=["s"]), rows, tmp_path)
    assert aimed["corruptions"] == found["corruptions"]
    for told in aimed["beside"]:  # only what was attacked counts
        mine = again.beside(table[table["structure"] == "s"])[told["model"], told["attack"], told["eps"]]
        assert (told["drop"], told["same_rms"]) == (near(mine[0]), near(mine[2]))


# ---------------------------------------------------------------- slice by slice, end to end

FLAT = f"""\
import sys; sys.path.insert(0, {str(Path(tiny.__file__).parent)!r})
import torch, tiny
def started(device, seed):
    made = tiny.flat(device)
    with torch.no_grad():
        made.network.offsets[1] += 0.01 * torch.randn((), generator=torch.Generator().manual_seed(seed))
    return made
def first(device): return started(device, 1)
def second(device): return started(device, 2)
"""
HEAD = """\
schema: perturbox-study/1
name: flat
kind: {kind}
models:
  first: {{victim: "flat.py:first", factors: {{init: random, seed: 1}}}}
{more}
cases:
  images: {images}
attacks:
  - {{name: {attack}, steps: 2}}
eps: {{values: [20, 40]}}
keep_worst: 1
"""
SECOND = '  second: {victim: "flat.py:second", factors: {init: random, seed: 2}}'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("flat")
    (place / "flat.py").write_text(FLAT)
    for seed in range(3):
        tiny.write_scan(place / f"scan{seed}.nii.gz", (20, 18, 5), seed)
    return place


@pytest.mark.parametrize("kind", ["curve", "universal", "transfer"])
def test_slice_by_slice(folder, kind):
    """A model of two dimensions on volumes: the same kinds, the same numbers."""
    images = '["scan1.nii.gz", "scan2.nii.gz"]' if kind == "universal" else '"scan*.nii.gz"'
    attack = "uap" if kind == "universal" else "pgd"
    text = HEAD.format(kind=kind, more=SECOND if kind == "transfer" else "", images=images, attack=attack)
    (folder / f"{kind}.yaml").write_text(text + ("craft_on: [scan0.nii.gz]\n" if kind == "universal" else ""))
    done = run_study(folder / f"{kind}.yaml", folder / kind)
    table = pd.read_parquet(folder / kind / "results.parquet")
    found = json.loads((folder / kind / "study.json").read_text())["found"]
    models, cases = (2 if kind == "transfer" else 1), (2 if kind == "universal" else 3)
    assert (table["status"] == "ok").all() and len(table) == models**2 * cases * 2 * 2
    check_common(found, table, 1)
    if kind == "transfer":
        cells = {(r["attack"], r["eps"], r["surrogate"], r["target"]): r for r in found["matrix"]}
        assert {key: (r["drop"], r["relative"]) for key, r in cells.items()} == {
            key: (near(fall), None if share is None else near(share))
            for key, (fall, _, share) in again.matrix(table).items()
        }
        white = table[table["surrogate"] == table["target"]]
        assert len(white) == len(table) / 2 and (white["dice"] < white["dice_clean"]).any()
        assert found["contrasts"][0]["answer"] == "can't be told with this design"
    assert done.said and (folder / kind / "report.html").exists()
