"""Study files that can't answer their question, or aren't studies: one sentence each, with the line that is wrong."""

import json
import textwrap
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tiny

from perturbox.types import InputError

pytest.importorskip("pyarrow", reason="studies need the extra 'study'")
from perturbox.studies.design import KINDS, Study
from perturbox.studies.gather import filled, make_plan
from perturbox.studies.reading import read_study

EXAMPLES = Path(__file__).parents[2] / "examples" / "studies"
GOOD = """\
schema: perturbox-study/1
name: tiny
kind: curve
models:
  tiny: {victim: "VICTIM"}
cases:
  images: ["a.nii.gz", "b.nii.gz"]
attacks:
  - name: pgd
    steps: 2
eps: {values: [10]}
"""
# What is replaced in the good file, by what, the line that is named, a piece of the sentence.
WRONG = [
    ("kind: curve", "kind: curves", 3, "'kind' can't be 'curves'"),
    ("name: tiny\n", "", 1, "'name' is missing"),
    ("schema: perturbox-study/1", "schema: perturbox-study/9", 1, "'schema' can't be"),
    ("name: tiny\n", "nmae: tiny\n", 1, "'name' is missing"),
    ("name: tiny\n", "name: tiny, first\n", 2, "'name' can't be 'tiny, first': take letters, digits, spaces"),
    ("    steps: 2", "    setps: 2", 10, "did you mean 'steps'?"),
    ("    steps: 2", "    steps: -2", 10, "greater than 0"),
    ("    steps: 2", "    steps: many", 10, "'attacks.0.steps' can't be 'many'"),
    ("name: pgd", "name: pdg", 9, "pdg"),
    ("    steps: 2", "    settings: {alhpa: 1}", 9, "alhpa"),
    ("values: [10]", "values: []", 11, "at least 1 item"),
    ("values: [10]", "values: [-1]", 11, "greater than 0"),
    ("values: [10]", "values: [.inf]", 11, "finite"),
    ("values: [10]", "values: [10], unit: hu", 11, "'eps.unit' can't be 'hu'"),
    ("values: [10]", "values: [10], norm: l7", 11, "'eps.norm' can't be 'l7'"),
    ("eps: {values: [10]}", "eps: {values: [10]}\nseeds: []", 12, "at least 1 item"),
    ("eps: {values: [10]}", "eps: {values: [10]}\neps: {values: [2]}", 12, "stands there twice"),
    ("kind: curve", "kind: transfer", 1, "at least two models"),
    ("kind: curve", "kind: worst-case", 1, "at least two attacks"),
    ("kind: curve", "kind: non-inferiority", 1, "compare"),
    ("kind: curve", "kind: universal", 1, "craft_on"),
    ("eps: {values: [10]}", "eps: {values: [10]}\ngate: {clean_dice: 0.5}", 1, "labels"),
    ("eps: {values: [10]}", "eps: {values: [10]}\ncriterion: {eps: 3, dice: 0.9}", 1, "isn't among `eps.values`"),
    ("eps: {values: [10]}", "eps: {values: [10]}\nconfidence: 95", 12, "less than 1"),
    ("    steps: 2", "    steps: 2\n  - name: pgd", 1, "two attacks are called 'pgd'"),
    ("VICTIM\"}", "VICTIM\", defense: [median]}", 4, "'tiny' stands behind a defence; name '"),
    ("VICTIM\"}", "VICTIM\"}\n  b: {victim: \"VICTIM\", defense: [median]}", 1, "`defense` of 'b' belongs to a study"),
    ("VICTIM\"}", "VICTIM\", defense: [meadian]}", 5, "'models.tiny.defense': Unknown defence 'meadian'; did you mean"),
    ("VICTIM\"}", "VICTIM\", defense: [\"median:size=4\"]}", 5, "size"),
    ("VICTIM\"}", "VICTIM\", defense: median}", 5, "'models.tiny.defense' can't be 'median'"),
    ("kind: curve", "kind: defences", 1, "a defences study needs a model with a `defense`"),
    ("eps: {values: [10]}", "eps: {values: [10]", 12, "this isn't YAML"),
    ("eps: {values: [10]}", "eps: {values: [10, 10.0]}", 11, "'10.0' stands there twice"),
    ("eps: {values: [10]}", "eps: {values: [10]}\nseeds: [3, 3]", 12, "'3' stands there twice"),
    (GOOD, "just text", 1, "a study is a list of `key: value`"),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("study")
    for seed, name in enumerate(("a", "b", "c")):
        tiny.write_scan(place / f"{name}.nii.gz", seed=seed)
    return place


def written(folder, text):
    path = folder / "study.yaml"
    path.write_text(text.replace("VICTIM", f"{tiny.__file__}:volume"))
    return path


def refused(folder, text):
    with pytest.raises(InputError) as error:
        make_plan(read_study(written(folder, text)), folder)
    said = str(error.value)
    assert "\n" not in said
    return said


def test_the_good_file_is_good(folder):
    plan = make_plan(read_study(written(folder, GOOD)), folder)
    assert [(craft.case, craft.eps) for craft in plan.crafts] == [("a", 10.0), ("b", 10.0)]


@pytest.mark.parametrize(("old", "new", "line", "piece"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_file_is_refused_with_its_line(folder, old, new, line, piece):
    said = refused(folder, GOOD.replace(old, new))
    assert f"study.yaml, line {line}: " in said
    assert piece in said


@pytest.mark.parametrize(
    ("old", "new", "piece"),
    [
        ('"b.nii.gz"', '"nobody.nii.gz"', "There is no scan"),
        ('"b.nii.gz"', '"x*.nii.gz"', "No scan matches 'x*.nii.gz'"),
        ('"b.nii.gz"', '"a.nii.gz"', "Two scans are called 'a'"),
        ('"b.nii.gz"', '"copy.nii.gz"', "are the same scan"),
        ('"b.nii.gz"]', '"b.nii.gz"]\n  labels: "labels/{name}.nii.gz"', "There is no label"),
        ('"b.nii.gz"]', '"b.nii.gz"]\n  patient: "{case}"', "isn't understood"),
        ("VICTIM", "nobody", "The model 'tiny': Unknown victim"),
        ("eps: {values: [10]}", "eps: {values: [10]}\ntarget: [spleen]", "`target` names 'spleen'"),
        ('victim: "VICTIM"', 'victim: "VICTIM", trained_on: a.nii.gz', "`trained_on`"),
        ('victim: "VICTIM"', 'victim: "VICTIM", trained_on: all.txt', "Every case is one that a model was trained on"),
        ('victim: "VICTIM"', 'victim: "VICTIM", trained_on: wrong.txt', "is no SHA-256 hash"),
    ],
)
def test_what_the_file_names_must_be_there(folder, old, new, piece):
    from perturbox.io.files import sha256

    (folder / "copy.nii.gz").write_bytes((folder / "a.nii.gz").read_bytes())
    (folder / "all.txt").write_text("\n".join(sha256(folder / f"{name}.nii.gz") for name in "abc"))
    (folder / "wrong.txt").write_text("case_a\n")
    assert piece in refused(folder, GOOD.replace(old, new))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_kind_has_an_example(path):
    assert read_study(path).kind == path.stem.removesuffix("-2d")


def test_there_is_an_example_of_each_kind():
    stems = {path.stem for path in EXAMPLES.glob("*.yaml")}
    assert {stem for stem in stems if not stem.endswith("-2d")} == set(KINDS)
    assert {stem for stem in stems if stem.endswith("-2d")} == {"curve-2d", "universal-2d", "transfer-2d"}


def test_the_schema_for_editors_is_that_of_the_code():
    assert json.loads(
        (EXAMPLES.parents[1] / "docs" / "study.schema.json").read_text(encoding="utf-8")
    ) == Study.model_json_schema(by_alias=True)


def test_training_cases_are_left_out_by_content(folder):
    from perturbox.io.files import sha256

    (folder / "trained.txt").write_text(sha256(folder / "a.nii.gz") + "\n")
    plan = make_plan(
        read_study(written(folder, GOOD.replace('victim: "VICTIM"', 'victim: "VICTIM", trained_on: trained.txt'))),
        folder,
    )
    assert list(plan.cases) == ["b"]
    assert plan.left_out == {"a": "a model was trained on it"}


def test_keys_are_of_contents_not_of_names(folder, tmp_path):
    """A renamed scan and a renamed model use what is there; another scan under the old name doesn't."""
    first = make_plan(read_study(written(folder, GOOD)), folder)
    (tmp_path / "z.nii.gz").write_bytes((folder / "a.nii.gz").read_bytes())
    (tmp_path / "b.nii.gz").write_bytes((folder / "c.nii.gz").read_bytes())
    renamed = GOOD.replace("a.nii.gz", "z.nii.gz").replace("  tiny:", "  other:")
    second = make_plan(read_study(written(tmp_path, renamed)), tmp_path)
    assert second.crafts[1].case == "z"
    assert second.crafts[1].key == first.crafts[0].key
    assert second.crafts[0].key != first.crafts[1].key


def test_a_patient_on_both_sides_of_a_universal_study_is_refused(folder):
    text = textwrap.dedent(GOOD).replace("kind: curve", "kind: universal").replace("name: pgd", "name: uap")
    said = refused(folder, text.replace("  images", '  patient: "x"\n  images') + 'craft_on: ["c.nii.gz"]\n')
    assert "are of the same patient" in said


def test_scans_that_one_change_is_made_on_need_no_labels(folder, tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.nii.gz").write_bytes((folder / f"{name}.nii.gz").read_bytes())
    for name in "ab":
        nib.save(nib.Nifti1Image(np.ones(tiny.SHAPE, np.uint8), np.eye(4)), tmp_path / f"{name}_label.nii.gz")
    text = GOOD.replace("kind: curve", "kind: universal").replace("name: pgd", "name: uap")
    text = text.replace('"b.nii.gz"]', '"b.nii.gz"]\n  labels: "{name}_label.nii.gz"') + 'craft_on: ["c.nii.gz"]\n'
    plan = make_plan(read_study(written(tmp_path, text)), tmp_path)
    assert [scan.label for scan in plan.craft_on] == [None] and all(scan.label for scan in plan.cases.values())


@pytest.mark.parametrize(
    ("pattern", "name", "told"),
    [
        ("{name}", "a_1", "a_1"),
        ("{name[:3]}", "pat_7", "pat"),
        ("x/{name[-1:]}.nii", "pat_7", "x/7.nii"),
        ("p", "a", "p"),
    ],
)
def test_patterns_take_the_name_or_a_part(pattern, name, told):
    assert filled("patient", pattern, name) == told
