"""A scan of clinical size goes through attack, file, measurement and report within a workstation's memory."""

import json
import resource
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from clinical import SHAPE, SPACING, make, oblique

from perturbox.zoo import BUILT_IN
from perturbox.zoo.models import WEIGHTS


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_three_pgd_steps_on_512_512_300(real_ct, tmp_path):
    assert "ct-organs" in BUILT_IN and (WEIGHTS / "ct-organs.safetensors").is_file()
    make(real_ct, tmp_path / "ct.nii.gz")
    command = [sys.executable, "-m", "perturbox", "attack", str(tmp_path / "ct.nii.gz"), "--victim", "ct-organs"]
    command += ["--attack", "pgd", "--eps", "10", "--steps", "3", "--out", str(tmp_path / "result")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr

    result = json.loads((tmp_path / "result" / "result.json").read_text())
    saved = nib.load(tmp_path / "result" / "adversarial.nii.gz")
    source = nib.load(tmp_path / "ct.nii.gz")
    assert saved.shape == SHAPE and saved.get_data_dtype() == np.int16
    assert np.array_equal(saved.affine, source.affine)
    assert np.allclose(saved.affine, oblique(SPACING), atol=1e-5)
    delta = np.asanyarray(saved.dataobj).astype(np.int32) - np.asanyarray(source.dataobj)
    assert np.abs(delta).max() == result["budget"]["measured"]["linf"] == 10

    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < 16e9
    assert (tmp_path / "result" / "report.html").stat().st_size <= 15e6
    image = result["image_metrics"]
    assert 0 < image["uninfluential_fraction"] < 1
    assert 0 < image["energy_above_grid"] < 1
