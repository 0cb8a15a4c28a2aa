"""The Python face: an attack on objects in memory is the command line's, and arrays are what the files hold."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tiny
import torch
from monai.data.meta_tensor import MetaTensor

from perturbox import api, io
from perturbox.io.itk import FLIP
from perturbox.job import Job, run_job
from perturbox.record import read_record
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
