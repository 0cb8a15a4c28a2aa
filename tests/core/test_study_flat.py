"""Studies of photographs and of 2D CT slices: every row from Pillow's and NumPy's own reading of the saved files, every
number of the page by pandas, and no word that belongs to volumes."""

import json
import re
import sys
from pathlib import Path

import at_once
import mixes
import nibabel as nib
import numpy as np
import pytest
import study_by_pandas as again
import tiny
import yaml
from PIL import Image
from scipy import ndimage
from test_study_recomputed import check_common, near

from perturbox.types import InputError

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import flat_study_victims

pytest.importorskip("pyarrow", reason="studies need the extra 'study'")
import pandas as pd

from perturbox.studies.plan import kept_in
from perturbox.studies.pricing import price
from perturbox.studies.run import load, run_study

PHOTOGRAPHS = {"images": "eye[1-6].png", "labels": "{name}_mask.png", "label_map": "spot=255"}
RED = {"red1": {"victim": f"{mixes.__file__}:red1"}}
ALL = {
    name: {"victim": f"{mixes.__file__}:{name}", "factors": {"looks": name[:-1], "seed": int(name[-1])}}
    for name in mixes.MIXES
}
PGD = [{"name": "pgd", "steps": 3}]


def written(folder: Path, **study) -> Path:
    document = {"schema": "perturbox-study/1", "name": "flat", "cases": PHOTOGRAPHS, "keep_worst": 1, **study}
    (folder / "study.yaml").write_text(yaml.safe_dump(document))
    return folder / "study.yaml"


def carried_out(folder: Path, **study):
    """(what came of it, the plan, the table, the page's text)."""
    path = written(folder, **study)
    with pytest.MonkeyPatch.context() as patch:
        at_once.use(patch)
        done, (plan, _) = run_study(path, folder / "out"), load(path)
    page = (done.out / "report.html").read_text(encoding="utf-8")
    return done, plan, pd.read_parquet(done.out / "results.parquet"), re.sub(r"<[^>]+>", " ", page)


@pytest.fixture(scope="module")
def curve(tmp_path_factory):
    folder = tmp_path_factory.mktemp("curve")
    mixes.write(folder, 6)
    return carried_out(folder, kind="curve", models=RED, attacks=PGD, eps={"values": [2, 4]})


@pytest.fixture(scope="module")
def transfer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transfer")
    mixes.write(folder, 6)
    return carried_out(folder, kind="transfer", models=ALL, attacks=PGD, eps={"values": [7], "unit": "percent"})


@pytest.fixture(scope="module")
def universal(tmp_path_factory):
    folder = tmp_path_factory.mktemp("universal")
    mixes.write(folder, 8)
    crafting = {"craft_on": ["eye7.png", "eye8.png"], "attacks": [{"name": "uap", "steps": 3, "settings": {"side": 4}}]}
    return carried_out(folder, kind="universal", models=RED, eps={"values": [8]}, **crafting)


def of_file(craft, done) -> np.ndarray:
    """The saved photograph "y x c" as Pillow reads it."""
    (file,) = kept_in(done.out / "crafts", craft.key).iterdir()
    with Image.open(file) as picture:
        assert "ADVERSARIAL" in str(picture.info)
        return np.asarray(picture)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("kind", ["curve", "transfer", "universal"])
def test_a_row_is_what_the_saved_photograph_does(kind, request):
    """Dice, area and change of each row from the PNG file, the mask and the model's formula in NumPy."""
    done, plan, table, _ = request.getfixturevalue(kind)
    for craft in plan.crafts:
        saved = of_file(craft, done)
        number = int(craft.case[3:])
        clean, spot = mixes.draw(number)
        change = saved.astype(float) - clean
        for target in plan.judges(craft):
            chosen = (table["surrogate"] == craft.model) & (table["target"] == target) & (table["case"] == craft.case)
            (row,) = table[chosen & (table["eps"] == craft.eps)].to_dict("records")
            before, after = (mixes.answer(picture, target) for picture in (clean, saved))
            assert row["dice_clean"] == near(overlap(before, spot))
            assert row["dice"] == near(overlap(after, spot))
            assert row["dice_against_clean"] == near(overlap(after, before))
            assert (row["size"], row["volume_clean"], row["volume"]) == (spot.sum(), before.sum(), after.sum())
            assert row["linf"] == np.abs(change).max() <= row["eps_native"]
            assert row["rms"] == near(np.sqrt((change**2).mean()))
            if plan.study.eps.unit == "percent":
                low, high = np.percentile(clean, [1, 99])
                assert row["eps_native"] == near(craft.eps * (high - low) / 100)


@pytest.mark.parametrize("kind", ["curve", "transfer", "universal"])
def test_the_page_follows_from_the_table(kind, request):
    done, _, table, _ = request.getfixturevalue(kind)
    found = json.loads((done.out / "study.json").read_text())["found"]
    check_common(found, table, 1)
    if kind == "transfer":
        cells = {(r["attack"], r["eps"], r["surrogate"], r["target"]): r for r in found["matrix"]}
        expected = again.matrix(table)
        assert cells.keys() == expected.keys() and len(cells) == 36
        for key, mine in expected.items():
            assert tuple(cells[key][name] for name in ("drop", "noise", "relative")) == near(mine)
        (told,) = found["contrasts"]
        mine = again.contrasts(table, {name: model["factors"] for name, model in ALL.items()})["pgd", 7.0, "looks"]
        assert told["difference"] == near(mine["difference"]) and told["p_models"] == near(mine["p_models"])
        assert (told["low"], told["high"]) == near(mine["interval"])
        assert told["p_patients"] == near(mine["p_patients"])
        # What is made for red is another thing to blue.
        assert told["difference"] > 0.9 and told["levels"] == {"red": 3, "blue": 3}
        assert told["answer"] == "can't be told with this design" and told["p_models"] == near(0.1)


@pytest.mark.parametrize("kind", ["curve", "transfer", "universal"])
def test_no_word_of_the_page_belongs_to_volumes(kind, request):
    done, _, _, page = request.getfixturevalue(kind)
    card = (done.out / "card.yaml").read_text(encoding="utf-8")
    for text in (page, card):
        assert not re.search(r"voxel|volume|\bml\b|\bmm\b|\bHU\b", text), re.search(r".{40}(voxel|volume).{20}", text)
    assert ("% of range" if kind == "transfer" else "intensity units") in page
    cases = pd.read_parquet(done.out / "cases.parquet")
    assert set(cases["sizes"]) == {"pixels"} and cases["spacing_mm"].isna().all()
    assert set(cases["shape"]) == {"40 × 32"} and set(cases["storage_step"]) == {1.0}
    assert "middle size, pixels" in page


def test_the_worst_photograph_is_a_whole_result(curve):
    from perturbox.job.folder import verify

    done = curve[0]
    (place,) = (done.out / "worst").iterdir()
    assert verify(place) == []
    with Image.open(place / "adversarial.png") as picture:
        assert picture.mode == "RGB" and picture.size == mixes.SHAPE


def test_a_study_that_was_stopped_goes_on_to_the_same_bytes(curve, tmp_path, monkeypatch):
    at_once.use(monkeypatch)
    mixes.write(tmp_path, 6)
    path = written(tmp_path, kind="curve", models=RED, attacks=PGD, eps={"values": [2, 4]})
    count = iter(range(100))
    assert run_study(path, tmp_path / "out", stop=lambda: next(count) == 5) is None
    assert run_study(path, tmp_path / "out") is not None
    for table in ("results", "cases", "models", "checks"):
        mine, theirs = (folder / f"{table}.parquet" for folder in (tmp_path / "out", curve[0].out))
        assert mine.read_bytes() == theirs.read_bytes()


def test_the_price_of_photographs_counts_what_is_written(curve, tmp_path):
    """JPEG is a tenth of the PNG that comes of it."""
    mixes.write(tmp_path, 6, ".jpg")
    cases = {**PHOTOGRAPHS, "images": "eye[1-6].jpg"}
    plan, _ = load(written(tmp_path, kind="curve", models=RED, attacks=PGD, eps={"values": [2, 4]}, cases=cases))
    written_bytes = 12 * 40 * 32 * 3
    assert 0.5 * written_bytes < price(plan, 1).bytes < written_bytes


def test_phantoms_of_retinas_are_dark_curves_of_a_seed():
    picture, vessels = flat_study_victims.branching(np.random.default_rng(1))
    again_, _ = flat_study_victims.branching(np.random.default_rng(1))
    assert np.array_equal(picture, again_) and picture.shape == (3, 96, 96)
    assert 0.03 < vessels.mean() < 0.5
    thickest = 2 * ndimage.distance_transform_edt(vessels).max()
    assert 2 < thickest < 12
    inside, outside = picture[1][vessels == 1], picture[1][vessels == 0]
    assert inside.mean() < outside.mean() - 0.3


# ---------------------------------------------------------------- slices of CT


def test_flat_ct_counts_square_centimetres_and_leaves_out_what_a_label_says_nothing_of(tmp_path):
    """A label without bone isn't one of no bone: the model's bone has no Dice there, and doesn't count as 0."""
    for number in range(4):
        hu = tiny.scan((30, 26), seed=number)
        labels = np.digitize(hu, [0, 150]) if number else (hu > 0) & (hu < 150)
        for kind, values in (("ct", hu), ("label", labels.astype(np.uint8))):
            nib.save(nib.Nifti1Image(values, np.diag([2.0, 3.0, 1.0, 1.0])), tmp_path / f"{kind}{number}.nii.gz")
    for number in range(4):
        (tmp_path / f"label{number}.nii.gz").rename(tmp_path / f"ct{number}_label.nii.gz")
    cases = {"images": "ct?.nii.gz", "labels": "{name}_label.nii.gz"}
    models = {"tiny": {"victim": f"{tiny.__file__}:flat"}}
    study = {"kind": "curve", "models": models, "attacks": PGD, "eps": {"values": [10]}, "gate": {"clean_dice": 0.5}}
    done, _, table, page = carried_out(tmp_path, cases=cases, **study)
    bone = table[table["structure"] == "bone"].set_index("case")
    assert bone.loc["ct0", ["dice_clean", "dice", "dice_noise"]].isna().all() and bone.loc["ct0", "volume"] > 0
    assert bone.drop("ct0")["dice_clean"].gt(0.5).all()
    models = pd.read_parquet(done.out / "models.parquet").set_index("structure")
    assert models.loc["bone", "cases"] == 3 and not models["gated"].any()
    check_common(json.loads((done.out / "study.json").read_text())["found"], table, 1)
    assert done.found["sizes"] == "cm²" and "10 HU" in page and "voxel" not in page
    cases = pd.read_parquet(done.out / "cases.parquet")
    assert set(cases["sizes"]) == {"cm²"} and set(cases["spacing_mm"]) == {"2 × 3"}
    pixels = nib.load(tmp_path / "ct1_label.nii.gz").get_fdata() == 2
    assert bone.loc["ct1", "size"] == near(pixels.sum() * 0.06)


# ---------------------------------------------------------------- wrong files


def failed(folder: Path, **study) -> str:
    """The reason why nothing of a study could be done."""
    given = {"kind": "curve", "models": RED, "attacks": PGD, "eps": {"values": [4]}}
    done, _, table, _ = carried_out(folder, **{**given, **study})
    assert set(table["status"]) == {"failed"}
    assert "Nothing could be measured" in done.said[0]
    (reason,) = set(table["reason"])
    return reason


def test_wrong_masks_are_refused_in_a_sentence(tmp_path):
    picture, spot = mixes.draw(1)
    Image.fromarray(picture).save(tmp_path / "eye1.png")
    cases = {"images": "eye1.png", "labels": "{name}_mask.png"}
    mask = tmp_path / "eye1_mask.png"
    Image.fromarray((255 * spot).astype(np.uint8)).save(mask)
    assert "255" in failed(tmp_path, cases=cases)
    Image.fromarray(picture).save(mask)
    assert "colour" in failed(tmp_path, cases={**cases, "label_map": "spot=255"})
    Image.fromarray((255 * spot[:-1]).astype(np.uint8)).save(mask)
    reason = failed(tmp_path, cases={**cases, "label_map": "spot=255"})
    assert "40×31 pixels instead of 40×32" in reason


def test_a_grey_photograph_for_a_model_of_colour_is_refused(tmp_path):
    picture, spot = mixes.draw(1)
    Image.fromarray(picture[..., 0]).save(tmp_path / "eye1.png")
    Image.fromarray((255 * spot).astype(np.uint8)).save(tmp_path / "eye1_mask.png")
    assert "give the colour original" in failed(tmp_path, cases={**PHOTOGRAPHS, "images": "eye1.png"})


def test_a_limit_below_a_grey_level_is_refused_before_anything_runs_in_price(tmp_path):
    mixes.write(tmp_path, 1)
    cases = {**PHOTOGRAPHS, "images": "eye1.png"}
    assert "stores steps of 1" in failed(tmp_path, cases=cases, eps={"values": [0.5]})
    plan, _ = load(tmp_path / "study.yaml")
    with pytest.raises(InputError, match="stores steps of 1"):
        price(plan, 1)
