"""Influence: gradient times change, against gradients taken here, by hand, and in the saved file."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import victims
from attacking import attacked
from tiny import write_scan

from perturbox.attacks.influence import MeanGradient
from perturbox.job.execute import Job, run_job
from perturbox.job.folder import examine
from perturbox.model.sliding import Window

TINY = f"{Path(__file__).parent / 'tiny.py'}:volume"


def test_the_second_half_of_the_steps_counts_or_all_of_a_start_that_ended_before():
    grads = [torch.full((1, 1, 2), float(k)) for k in (1, 2, 4, 8)]
    change = np.array([[3.0, -1.0]])
    for until, mean in ((1, 1.0), (2, 1.5), (3, 4.0), (4, 6.0)):
        one = MeanGradient(steps=4)
        for step, grad in enumerate(grads[:until]):
            one.add(step, grad)
        assert one.times(change).tolist() == [[3 * mean, -mean]]
    assert MeanGradient(4).times(change) is None
    assert one.times(np.zeros((1, 2))) is None  # nothing was changed


def test_it_is_the_gradient_times_the_change_that_was_saved():
    """Of FGSM, whose one gradient is taken at the scan itself."""
    image = victims.random_scan((12, 12, 12), scale=20.0, dtype=np.dtype(np.float32))
    victim = victims.textured(window=Window((12,) * 3, padding="constant"))
    reference = torch.from_numpy(victim.predict(image)).long()[None]
    x = torch.from_numpy(image.data)[None].requires_grad_()
    loss = torch.nn.functional.cross_entropy(victim.network(x.clamp(-100, 100) / 100), reference)
    (gradient,) = torch.autograd.grad(loss, x)
    found = attacked(image, victim, "fgsm", 3.0, loss="ce")
    expected = gradient[0].numpy() * found.delta
    np.testing.assert_allclose(found.influence, expected, atol=1e-5 * np.abs(expected).max())
    assert found.influence.sum() > 0  # a step of the sign's pushes the loss up everywhere


def test_attacks_without_a_gradient_or_a_change_have_none():
    image, victim = victims.random_scan(), victims.textured()
    assert attacked(image, victim, "square", 6.0, steps=3).influence is None
    assert attacked(image, victim, "pgd", 6.0, steps=3).influence.shape == image.data.shape


@pytest.mark.parametrize("attack", ["pgd", "square"])
def test_it_is_a_file_of_the_result_and_null_without_gradients(attack, tmp_path):
    scan = tmp_path / "scan.nii.gz"
    write_scan(scan)
    record = run_job(Job(str(scan), victim=TINY, attack=attack, eps=12.0, steps=3), tmp_path / "R")
    assert examine(tmp_path / "R", trust=True).problems == []
    if attack == "square":
        assert record["files"]["influence"] is None and not (tmp_path / "R" / "influence.nii.gz").exists()
        return
    influence, change = (nib.load(tmp_path / "R" / f"{name}.nii.gz") for name in ("influence", "perturbation"))
    assert (influence.affine == change.affine).all() and influence.shape == change.shape
    assert influence.header["descrip"] == change.header["descrip"]
    values = influence.get_fdata()
    assert values.any() and not values[np.asanyarray(change.dataobj) == 0].any()
    assert influence.get_data_dtype() == np.int16 and np.abs(influence.dataobj.get_unscaled()).max() == 32767

    old = json.loads((tmp_path / "R" / "result.json").read_text())  # a folder of before there was one
    del old["files"]["influence"]
    (tmp_path / "R" / "influence.nii.gz").unlink()
    (tmp_path / "R" / "result.json").write_text(json.dumps(old))
    (tmp_path / "R" / "report.html").unlink()
    assert examine(tmp_path / "R", trust=True).problems == []
