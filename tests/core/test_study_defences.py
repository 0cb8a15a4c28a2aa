"""Defended models in a study: each meets what was made for the model without its defence and what goes through it, both
judged against the model without it, and every number of the page follows from the rows."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import study_by_pandas as again
import tiny

pytest.importorskip("pyarrow", reason="studies need the extra 'study'")
import pandas as pd
from test_study_recomputed import check_common, drawn, found_and_table, near
from test_study_statistics import row

from perturbox import io
from perturbox.defenses import defend
from perturbox.job.execute import run_job
from perturbox.load import load_victim
from perturbox.studies import defended, story
from perturbox.studies.checks import check
from perturbox.studies.design import Study
from perturbox.studies.plan import Plan, Target, kept_in
from perturbox.studies.pricing import price
from perturbox.studies.run import load, run_study
from perturbox.types import InputError

VICTIM = f"{tiny.__file__}:volume"
TEXT = f"""\
schema: perturbox-study/1
name: defences
kind: defences
models:
  rounded: {{victim: "{VICTIM}", defense: ["bit-depth:bits=6", "gaussian:sigma=0.4"]}}
  tiny: {{victim: "{VICTIM}"}}
  smooth: {{victim: "{VICTIM}", defense: ["gaussian:sigma=0.7"]}}
cases: {{images: "scan*.nii.gz"}}
attacks:
  - {{name: apgd, steps: 4, settings: {{loss: dice}}}}
eps: {{values: [12]}}
keep_worst: 0
"""
MODELS = {"rounded": ("bit-depth:bits=6", "gaussian:sigma=0.4"), "tiny": (), "smooth": ("gaussian:sigma=0.7",)}
KNOWN = [
    ("rounded", "rounded", "adaptive"),
    ("smooth", "smooth", "adaptive"),
    ("tiny", "rounded", "oblivious"),
    ("tiny", "smooth", "oblivious"),
    ("tiny", "tiny", "white-box"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("defences")
    for seed in range(2):
        tiny.write_scan(place / f"scan{seed}.nii.gz", seed=seed)
    (place / "study.yaml").write_text(TEXT)
    return place


@pytest.fixture(scope="module")
def done(folder):
    return run_study(folder / "study.yaml", folder / "out")


@pytest.fixture(scope="module")
def rows(done):
    return pd.read_parquet(done.out / "results.parquet")


def models():
    plain = load_victim(VICTIM)
    return {name: defend(plain, *specs) if specs else plain for name, specs in MODELS.items()}


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


# ---------------------------------------------------------------- end to end


def test_every_defended_model_has_both_rows_and_a_plain_one_its_own(rows):
    assert (rows["status"] == "ok").all()
    keys = ["surrogate", "target", "knowledge", "case", "structure"]
    wanted = {(*known, f"scan{n}", structure) for known in KNOWN for n in (0, 1) for structure in ("liver", "bone")}
    assert set(rows[keys].itertuples(index=False, name=None)) == wanted and len(rows) == len(wanted)


def test_both_are_judged_against_the_model_without_its_defence(folder, done, rows):
    """Every file is read by nibabel and segmented again; Dice by NumPy, with the plain model's clean prediction."""
    plan, asked = load(folder / "study.yaml")[0], models()
    files = {(craft.model, craft.case): kept_in(done.out / "crafts", craft.key) for craft in plan.crafts}
    for told in rows.itertuples():
        (file,) = files[told.surrogate, told.case].iterdir()
        assert np.abs(nib.load(file).get_fdata() - nib.load(plan.cases[told.case].image).get_fdata()).max() <= 12
        clean, model = io.read_volume(Path(plan.cases[told.case].image)), asked[told.target]
        value = model.structures[told.structure]
        reference = asked["tiny"].predict(clean) == value
        assert told.dice == near(dice(model.predict(io.read_volume(file)) == value, reference))
        assert told.dice_clean == near(dice(model.predict(clean) == value, reference))
        assert told.volume_clean == near(reference.sum() * clean.voxel_size)
    livers = rows[rows["structure"] == "liver"].groupby("target")["dice_clean"].mean()
    assert livers["tiny"] == 1 and livers["rounded"] < 1 and livers["smooth"] < 0.9


def test_what_knows_nothing_is_made_once_for_all(done, folder):
    """One craft for each model; the plain one's is judged by all three. Gradients: 4 for each stand-in."""
    effort = pd.read_parquet(done.out / "effort.parquet")
    assert dict(effort["kind"].value_counts()) == {"clean": 6, "craft": 6, "judge": 10}
    made = effort[effort["kind"] == "craft"]["backwards"]
    assert sorted(made) == [4, 4, 8, 8, 8, 8]
    cost = price(load(folder / "study.yaml")[0], 1)
    assert (cost.crafts, cost.judgements) == (6, 10)


def test_the_page_and_its_words_follow_from_the_rows(done, rows):
    found = json.loads((done.out / "study.json").read_text())["found"]
    check_common(found, rows, 0)
    compare(found, rows, {"rounded": "tiny", "smooth": "tiny"})
    assert {(r["model"], r["gradients"]) for r in found["defences"]} == {("rounded", 2.0), ("smooth", 2.0)}
    page = (done.out / "report.html").read_text(encoding="utf-8")
    for told in found["defences"]:
        numbers = [f"<td>{told[name]:.3f}</td>" for name in ("clean", "oblivious")]
        assert all(number in page for number in numbers) and f"<td>{told['undefended']:.3f} (tiny)</td>" in page
    assert "adaptive, interval" in page and "the attack doesn" in page
    said = next(sentence for sentence in done.said if "smooth" in sentence)
    mean = rows.groupby(["target", "knowledge"])["dice"].mean()
    assert f"of {mean['smooth', 'adaptive']:.2f} if it knows of the defence" in said
    assert (
        f"{mean['smooth', 'oblivious']:.2f} if it doesn't" in said and f"keeps {mean['tiny', 'white-box']:.2f}" in said
    )
    table = pd.read_parquet(done.out / "models.parquet").drop_duplicates("model").set_index("model")
    assert table.loc["smooth", "defense"] == "gaussian:sigma=0.7" and pd.isna(table.loc["tiny", "defense"])


def test_a_case_s_own_result_holds_both_attacks_as_the_rows_do(folder, rows, tmp_path):
    """As one of the worst cases is kept: the same attacks once more, with a report."""
    plan, _ = load(folder / "study.yaml")
    craft = next(craft for craft in plan.crafts if (craft.model, craft.case) == ("smooth", "scan1"))
    record = run_job(plan.job(craft, "cpu"), tmp_path / "R")
    own = rows[(rows["target"] == "smooth") & (rows["case"] == "scan1")].set_index(["knowledge", "structure"])
    for kind in ("oblivious", "adaptive"):
        told = {name: near(own.loc[(kind, name), "dice"]) for name in ("liver", "bone")}
        assert record["defense"]["dice"][kind] == told
    assert record["defense"]["stand_in"] == own.loc[("adaptive", "liver"), "stand_in"]
    assert record["verdicts"]["liver"] == own.loc[("adaptive", "liver"), "verdict"]


def test_another_defence_is_done_again_and_nothing_else(folder):
    def keys(text):
        (folder / "other.yaml").write_text(text)
        return set(load(folder / "other.yaml")[0].pieces())

    first, renamed = keys(TEXT), keys(TEXT.replace("smooth:", "blurred:"))
    assert first == renamed
    assert keys(TEXT.replace("sigma=0.7", "sigma=0.70")) == first
    other = keys(TEXT.replace("sigma=0.7", "sigma=0.8"))
    assert len(first - other) == len(other - first) == 2 * 4  # a clean look, a craft, two judgements for each scan


def test_a_plan_with_defences_reads_as_it_was_written(folder):
    plan, _ = load(folder / "study.yaml")
    assert Plan.read(json.loads(json.dumps(plan.document()))) == plan
    assert plan.models["smooth"].defense == ("gaussian:sigma=0.7",)
    older = json.loads(json.dumps(plan.document()))
    for model in older["models"].values():
        model.pop("defense")  # as it was written before studies knew of any
    assert Plan.read(older).models["tiny"] == plan.models["tiny"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("gaussian:sigma=0.7", 'bit-depth:bits=6", "gaussian:sigma=0.40', "'rounded' and 'smooth' are the same model"),
        (f'"{VICTIM}"', '"behind.py:made"', "The model 'rounded': it brings defences of its own"),
        (f'"{VICTIM}"', '"behind.py:unseen"', "The model 'rounded': tiny doesn't say which range of values"),
    ],
)
def test_a_defended_model_that_cannot_be_compared_is_refused(folder, old, new, said):
    (folder / "behind.py").write_text(
        f"import dataclasses, sys; sys.path.insert(0, {str(Path(tiny.__file__).parent)!r})\n"
        "import tiny\nfrom perturbox.defenses import defend\n"
        "def made(device): return defend(tiny.volume(device), 'median')\n"
        "def unseen(device): return dataclasses.replace(tiny.volume(device), normalise=lambda x: x / 600)\n"
    )
    (folder / "wrong.yaml").write_text(TEXT.replace(old, new))
    with pytest.raises(InputError) as error:
        load(folder / "wrong.yaml")
    assert said in str(error.value) and "\n" not in str(error.value)


# ---------------------------------------------------------------- rows written by hand


def design(**more):
    given = {"b": {"victim": "v", "defense": ["median"]}, "h": {"victim": "w"}, "m": {"victim": "v"}}
    return Study.model_validate(
        {
            "schema": "perturbox-study/1",
            "name": "s",
            "kind": "defences",
            "models": given,
            "cases": {"images": "x"},
            "attacks": [{"name": "apgd", "steps": 100}, {"name": "pgd", "steps": 100}],
            "eps": {"values": [5, 10]},
            **more,
        }
    )


def compare(found, table, beside):
    curves = again.knowledge(table)
    assert {(r["model"], r["attack"], r["knowledge"], r["eps"]) for r in found["knowledge"]} == set(curves)
    for told in found["knowledge"]:
        mine = curves[told["model"], told["attack"], told["knowledge"], told["eps"]]
        values = [told[name] for name in ("n", "dice", "dice_clean", "dice_low", "dice_high")]
        assert values == [value if value is None else near(value) for value in mine]
    mine = again.defences(table, beside)
    assert {(r["model"], r["attack"], r["eps"]) for r in found["defences"]} == set(mine)
    for told in found["defences"]:
        for name, value in mine[told["model"], told["attack"], told["eps"]].items():
            assert told[name] == (value if value is None else near(value)), name


def test_a_study_of_defences_recomputed(tmp_path):
    """Eight patients, two with two scans, two seeds, failed and gated rows, a hardened model beside the first."""
    made = drawn("bhm", [("b", "b"), ("m", "b"), ("h", "h"), ("m", "m")])
    for told in made:
        pair = told["surrogate"], told["target"]
        told["knowledge"] = {("b", "b"): "adaptive", ("m", "b"): "oblivious"}.get(pair, "white-box")
        told["gradients"] = 200.0 if pair == ("b", "b") else 100.0
        told["dice_clean"] -= 0.03 * (told["target"] == "b")
        told["stand_in"] = ("identity" if told["case"] == "c1" else "window mean") if pair == ("b", "b") else None
    study = design()
    assert defended.beside(study) == {"b": "m", "h": "m"}
    found, table = found_and_table(study, made, tmp_path)
    check_common(found, table, 3)
    compare(found, table, defended.beside(study))
    assert [r["p_holm"] for r in found["defences"]] == near(again.holm([r["p"] for r in found["defences"]]))
    told = next(r for r in found["defences"] if r["model"] == "b" and r["attack"] == "pgd")
    assert told["gradients"] == 2.0 and told["stand_ins"]["identity"] == 2 and sum(told["stand_ins"].values()) <= 20
    aimed, _ = found_and_table(design(target=["s"]), made, tmp_path)
    assert aimed["curves"] == found["curves"]
    compare(aimed, table[table["structure"] == "s"], defended.beside(study))


def patients(n=8, **told):
    return [row(case=f"c{i}", gradients=100.0, **told) for i in range(n)]


def of(adaptive, oblivious, undefended=0.5, n=8):
    """Rows of a defended model "b" and of "m" without its defence, the same Dice for each patient but a little."""
    small = [0.001 * i for i in range(n)]
    knowing, blind = patients(n, surrogate="b", target="b"), patients(n, surrogate="m", target="b")
    plain = patients(n, surrogate="m", target="m")
    for rows, knowledge, value in (
        (knowing, "adaptive", adaptive), (blind, "oblivious", oblivious), (plain, "white-box", undefended),
    ):  # fmt: skip
        for one, more in zip(rows, small, strict=True):
            one |= {"knowledge": knowledge, "dice": value + more * (knowledge == "adaptive")}
    return knowing + blind + plain


@pytest.mark.parametrize(
    ("rows", "answer", "masked"),
    [
        (of(0.6, 0.7), "keeps more", False),
        (of(0.4, 0.7), "keeps less", False),
        (of(0.4965, 0.7), "no difference shown", False),
        (of(0.7, 0.6), "masking?", True),
        (of(0.605, 0.6), "keeps more", False),  # by less than 0.01
        (of(0.6, 0.7, n=5), "can't be told: too few patients", False),
    ],
)
def test_what_is_said_of_a_defence(rows, answer, masked):
    from perturbox.studies.analysis import analyse

    study = design(eps={"values": [10]})
    found = analyse(study, rows)
    (told,) = found["defences"]
    assert (told["answer"], told["masking"]) == (answer, masked)
    objections = [finding for finding in check(study, rows) if finding.rule == "masking"]
    assert [finding.level for finding in objections] == ["loud"] * masked
    assert not [finding for finding in check(study, rows) if finding.rule == "transfer-beats-own"]
    targets = {name: Target(name, "v", name, ("s",), "HU", ("median:size=3",) * (name == "b")) for name in "bhm"}
    said, *_ = story.verdict(Plan(study, targets, {}, {}, [], []), found, objections)
    assert said.startswith("apgd at 10 HU leaves b (median:size=3 before m) a mean Dice of the structures of ")
    assert said.endswith(f"m keeps 0.50 from 0.90: {story.WORTH[answer]}.")
    assert f"if it knows of the defence, {told['oblivious']:.2f} if it doesn't" in said


def test_without_the_oblivious_rows_nothing_is_said_of_a_defended_model():
    from perturbox.studies.analysis import analyse

    rows = [one for one in of(0.6, 0.7) if one["knowledge"] != "oblivious"]
    assert analyse(design(), rows)["defences"] == []
