"""The Python face: an attack on objects in memory is the command line's, and arrays are what the files hold."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tiny
import torch
from monai.data.meta_tensor import MetaTensor

import perturbox as px
from perturbox import api, io
from perturbox.io.itk import FLIP
from perturbox.job.execute import Job, run_job
from perturbox.judge.metrics import BROKEN
from perturbox.judge.record import read_record
from perturbox.types import InputError, Volume

AFFINE = np.diag([*tiny.SPACING, 1.0])
SETTINGS = {"eps": 12, "steps": 3, "seed": 3}


@pytest.fixture(scope="module")
def victim():
    return tiny.volume(torch.device("cpu"))


@pytest.fixture(scope="module")
def scan():
    return tiny.scan()


@pytest.fixture(scope="module")
def result(victim, scan):
    return api.attack((scan, AFFINE), victim, "pgd", **SETTINGS)


def as_sitk(scan):
    image = sitk.GetImageFromArray(scan.T)
    lps = FLIP @ AFFINE
    image.SetSpacing(tiny.SPACING)
    image.SetDirection((lps[:3, :3] / np.array(tiny.SPACING)).ravel().tolist())
    return image


def as_metatensor(scan):
    return MetaTensor(torch.from_numpy(scan)[None], affine=torch.from_numpy(AFFINE))


KINDS = {
    "nibabel": lambda scan: nib.Nifti1Image(scan, AFFINE),
    "simpleitk": as_sitk,
    "metatensor": as_metatensor,
    "metatensor without channel": lambda scan: MetaTensor(torch.from_numpy(scan), affine=torch.from_numpy(AFFINE)),
    "volume": lambda scan: Volume(scan[None].astype(np.float32), AFFINE),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_is_the_same_scan(kind, scan):
    expected = api.read((scan, AFFINE))
    found = api.read(KINDS[kind](scan))
    assert np.array_equal(found.data, expected.data) and np.array_equal(found.data[0], scan)
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-12)
    assert (found.dtype, found.step, found.unit) == (np.dtype(np.int16), 1.0, "HU")


def test_an_attack_on_an_array_is_that_on_its_file(tmp_path, victim, scan, result):
    path = tiny.write_scan(tmp_path / "ct.nii.gz")
    record = run_job(Job(str(path), victim="tiny", attack="pgd", **SETTINGS), tmp_path / "R", victim=victim)
    for key in ("metrics", "verdicts", "control", "slices", "trace", "budget", "noise", "flow"):
        assert result.record[key] == record[key], key
    saved = io.read_volume(tmp_path / "R" / "adversarial.nii.gz")
    assert np.array_equal(result.adversarial, saved.data[0])
    assert np.array_equal(result.adversarial - result.delta, scan)
    assert 0 < np.abs(result.delta).max() <= 12
    assert np.array_equal(result.clean_segmentation, victim.predict(api.read((scan, AFFINE))))
    assert np.array_equal(result.segmentation, victim.predict(saved))
    assert result.dice == {name: row["dice"] for name, row in record["metrics"]["adversarial"].items()}


def test_a_result_can_be_saved_opened_and_verified(tmp_path, victim, result):
    assert result.save(tmp_path / "kept") == tmp_path / "kept"
    again = api.Result(tmp_path / "kept")
    assert again.record == result.record and np.array_equal(again.delta, result.delta)
    assert api.verify(tmp_path / "kept", victim) == []
    with pytest.raises(InputError):
        result.save(tmp_path / "kept")


def test_a_result_is_shown_as_its_report_in_a_frame(result):
    html = result.show(700)._repr_html_()
    assert html.startswith("<iframe") and "height:700px" in html
    assert "ADVERSARIAL - NOT FOR CLINICAL USE" in html and "<script" not in html.split("srcdoc")[0]
    assert "pgd on tiny" in repr(result)


def test_label_and_region_may_be_arrays(victim, scan):
    outline = np.zeros(scan.shape, np.uint8)
    outline[victim.predict(api.read((scan, AFFINE))) == 1] = 1
    region = np.zeros(scan.shape, bool)
    region[:12] = True
    found = api.attack((scan, AFFINE), victim, "pgd", label=outline, roi=region, **SETTINGS)
    assert found.record["reference"] == "label"
    assert found.metrics["clean"]["liver"]["dice"] == 1.0
    assert np.abs(found.delta[12:]).max() == 0 < np.abs(found.delta[:12]).max()
    with pytest.raises(InputError, match="give it on its grid"):
        api.attack((scan, AFFINE), victim, label=outline[1:], **SETTINGS)


def test_a_frame_has_a_row_per_structure(result):
    pandas = pytest.importorskip("pandas", reason="pandas is an extra of the user's own")
    frame = result.to_frame()
    assert isinstance(frame, pandas.DataFrame) and list(frame.structure) == ["liver", "bone"]
    assert frame.dice.tolist() == list(result.dice.values())
    assert frame.noise_dice.tolist() == list(result.record["control"]["noise"]["dice"].values())


def test_a_frame_without_pandas_says_what_to_install(result, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(InputError, match="pip install pandas"):
        result.to_frame()


def test_the_margin_is_a_mapping_and_its_witness_a_result(tmp_path, victim, scan):
    found = api.margin((scan, AFFINE), victim, max_eps=16, steps=3, target="liver")
    assert list(found) == ["liver"] and 0 < found["liver"] <= 16
    witness = found.result("liver")
    assert np.abs(witness.delta).max() == found["liver"]
    assert read_record(witness.folder)["budget"]["measured"]["linf"] == found["liver"]
    assert "liver ≤" in repr(found)
    found.save(tmp_path / "margin")
    assert api.verify(tmp_path / "margin", victim) == []


def test_segment_is_the_models_prediction(victim, scan):
    assert np.array_equal(api.segment((scan, AFFINE), victim), victim.predict(api.read((scan, AFFINE))))


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (object(), "not a object"),
        ((np.zeros((4, 4, 4)), np.eye(2)), "4×4"),
        (np.zeros((4, 4, 4), complex), "complex128 values"),
        (np.full((4, 4, 4), np.nan), "NaN|finite"),
        (np.zeros((2, 1, 4, 4, 4)), "dimensions"),
        ((np.arange(64.0).reshape(4, 4, 4), np.zeros((4, 4))), "affine|spacing"),
    ],
)
def test_what_is_no_image_is_refused_in_a_sentence(image, sentence):
    with pytest.raises(InputError, match=sentence):
        api.read(image)


def test_what_is_no_victim_is_refused(scan):
    with pytest.raises(InputError, match="wrap a network in px"):
        api.segment(scan, torch.nn.Identity())


def test_the_public_names_are_these():
    assert px.__all__ == sorted(px.__all__, key=lambda name: (not name[0].isupper(), name))
    assert set(px.__all__) == {
        "Certificate", "Comparison", "Defense", "Detection", "Detector", "ExactSlidingWindowInferer", "InputError",
        "IntensityWindow", "Margin", "Pipeline", "Result", "StandIn", "Study", "Victim", "Volume", "Window",
        "__version__", "attack", "certify", "compare", "corrupt", "defend", "detect", "fit_detector", "harden",
        "load_victim", "margin", "read", "segment", "sliding_window", "study", "verify",
    }  # fmt: skip
    assert all(getattr(px, name) is not None for name in px.__all__)
    # No module of that name hides them.
    assert px.attack is api.attack and px.margin is api.margin and callable(px.certify)
    with pytest.raises(AttributeError, match="no attribute 'defend_all'"):
        _ = px.defend_all


def test_the_import_loads_nothing_heavy():
    code = "import sys, perturbox; print(sorted({'torch', 'numpy', 'monai', 'SimpleITK'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_victim_in_short(victim, scan):
    short = px.Victim(network=tiny.Ranges(3), labels=tiny.LABELS, window=(16, 16, 16), normalise=(-250, 350))
    assert (short.name, short.window, short.normalise) == ("ranges", px.Window((16, 16, 16)), tiny.RANGE_HU)
    long = px.Victim("x", tiny.Ranges(3), tiny.LABELS, px.Window((16, 16, 16)), normalise=tiny.RANGE_HU)
    assert np.array_equal(px.segment((scan, AFFINE), short), px.segment((scan, AFFINE), long))
    with pytest.raises(InputError, match="needs its network, labels and window"):
        px.Victim(network=tiny.Ranges(3))
    with pytest.raises(InputError, match="window size"):
        px.Victim(network=tiny.Ranges(3), labels=tiny.LABELS, window=(16,))


NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"


@pytest.mark.parametrize("name", sorted(path.name for path in NOTEBOOKS.glob("*.ipynb")))
def test_a_notebook_runs(name, tmp_path):
    """Cell by cell in a process of its own, warnings being errors; the last value of a cell is shown, as there."""
    cells = json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    (tmp_path / "cells.json").write_text(json.dumps(sources), encoding="utf-8")
    runner = (
        "import ast, json, pathlib\n"
        "space = {}\n"
        "for source in json.loads(pathlib.Path('cells.json').read_text(encoding='utf-8')):\n"
        "    tree = ast.parse(source)\n"
        "    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None\n"
        "    exec(compile(tree, 'cell', 'exec'), space)\n"
        "    if last is not None:\n"
        "        value = eval(compile(ast.Expression(last.value), 'cell', 'eval'), space)\n"
        "        shown = value._repr_html_() if hasattr(value, '_repr_html_') else repr(value)\n"
        "        print(shown[:300].replace('\\n', ' '))\n"
    )
    ours = {**os.environ, "PYTHONPATH": str(Path(px.__file__).parents[1])}
    command = [sys.executable, "-W", "error", "-c", runner]
    done = subprocess.run(command, cwd=tmp_path, env=ours, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    said = done.stdout.splitlines()
    if name == "exact_inferer.ipynb":
        clean, robust = ast.literal_eval(said[-1])
        assert said[0] == "True" and clean > 0.8 and robust > 0.5
    else:
        assert "<Result of annealed on ranges" in said[1] and "<iframe" in said[4]
        breaks_at, word = ast.literal_eval(said[-1])
        assert 0 < breaks_at <= 16 and word in BROKEN
