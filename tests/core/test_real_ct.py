"""The main promise on a real CT: what result.json says is what anyone finds in the saved files."""

import json
import re

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference

from perturbox import io
from perturbox.cli import main
from perturbox.job.folder import verify
from perturbox.load import load_victim

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
CONTRACT = {
    "adversarial.nii.gz",
    "clean_seg.nii.gz",
    "adversarial_seg.nii.gz",
    "difference_seg.nii.gz",
    "influence.nii.gz",
    "perturbation.nii.gz",
    "result.json",
    "report.html",
}


def run(arguments: list[str]) -> None:
    assert main(arguments) == 0


@pytest.fixture(scope="module")
def attacked(real_ct, tmp_path_factory):
    """(folder, result) by limit, with 20 steps of PGD."""
    folder = tmp_path_factory.mktemp("real")
    made = {}
    for eps in (10, 40):
        out = folder / f"eps{eps}"
        run(
            [
                "attack",
                str(real_ct),
                "--victim",
                "ct-organs",
                "--attack",
                "pgd",
                "--eps",
                str(eps),
                "--steps",
                "20",
                "--out",
                str(out),
            ]
        )
        made[eps] = out, json.loads((out / "result.json").read_text())
    return made


def independent_segmentation(path) -> np.ndarray:
    """The victim's pipeline put together from nibabel and MONAI: the real CT lies on the network's grid already."""
    image = nib.load(path)
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S") and np.allclose(image.header.get_zooms()[:3], 3)
    hu = torch.from_numpy(np.asanyarray(image.dataobj).astype(np.float32))[None, None]
    victim = load_victim("ct-organs")
    x = (hu.clamp(-250, 350) + 250) / 300 - 1
    with torch.no_grad():
        logits = sliding_window_inference(
            x, victim.window.size, 1, victim.network, overlap=0.5, mode="gaussian", padding_mode="replicate"
        )
    labels = logits[0].argmax(0).numpy().astype(np.uint8)
    assert victim.clean_up is not None
    return victim.clean_up(labels, 0.027)


def mean_dice(table: dict) -> float:
    values = [row if isinstance(row, float) else row["dice"] for row in table.values()]
    return float(np.mean([value for value in values if value is not None]))


def test_the_folder_keeps_the_contract(attacked, real_ct):
    folder, result = attacked[10]
    assert {path.name for path in folder.iterdir()} == CONTRACT
    source, saved = nib.load(real_ct), nib.load(folder / "adversarial.nii.gz")
    assert saved.shape == source.shape and saved.get_data_dtype() == source.get_data_dtype()
    assert np.array_equal(saved.affine, source.affine)
    delta = np.asanyarray(saved.dataobj).astype(int) - np.asanyarray(source.dataobj)
    assert np.abs(delta).max() <= 10
    assert result["budget"]["measured"]["linf"] == np.abs(delta).max()


@pytest.mark.parametrize("eps", [10, 40])
def test_an_independent_script_finds_the_reported_dice(attacked, real_ct, eps):
    folder, result = attacked[eps]
    clean = independent_segmentation(real_ct)
    found = independent_segmentation(folder / "adversarial.nii.gz")
    for name, value in result["victim"]["labels"].items():
        if value:
            a, b = clean == value, found == value
            assert result["metrics"]["adversarial"][name]["dice"] == pytest.approx(
                2 * (a & b).sum() / (a.sum() + b.sum()), abs=2e-3
            )


def test_verify_agrees(attacked):
    assert verify(attacked[10][0]) == []


def test_the_attack_is_aimed_and_noise_is_not(attacked):
    fallen = {eps: mean_dice(result["metrics"]["adversarial"]) for eps, (_, result) in attacked.items()}
    assert fallen[10] <= 0.85
    assert fallen[40] < 0.40
    assert mean_dice(attacked[10][1]["control"]["noise"]["dice"]) > 0.97


def test_the_clean_prediction_is_as_good_as_the_model_card_says(attacked, data_dir):
    """Against TotalSegmentator's output, which is itself a model's."""
    names = json.loads((data_dir / "ct_abdomen" / "total117.json").read_text())
    truth = np.asanyarray(nib.load(data_dir / "ct_abdomen" / "example_seg.nii.gz").dataobj).astype(int)
    found = io.read_labels(
        attacked[10][0] / "clean_seg.nii.gz", io.read_volume(data_dir / "ct_abdomen" / "example_ct.nii.gz")
    )
    for name, value, stated, floor in (
        ("liver", 1, 0.856, 0.85),
        ("spleen", 2, 0.865, 0.80),
        ("kidney", 3, 0.747, 0.70),
    ):
        numbers = [int(number) for number, text in names.items() if re.fullmatch(f"{name}(_left|_right)?", text)]
        a, b = found == value, np.isin(truth, numbers)
        dice = 2 * (a & b).sum() / (a.sum() + b.sum())
        assert dice == pytest.approx(stated, abs=0.005) and dice >= floor, name
