"""`perturbox victim check`: what it finds of a model, the page it writes, and whom it compares with."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import test_bundle
import test_nnunet_folder
import torch
import unusable
import victims
from test_margins import three_tissues
from unusable import Layers, layered

from perturbox import io
from perturbox.against import SCRIPTS, run_framework
from perturbox.cli import main
from perturbox.judge.victim import Known, check_victim, told
from perturbox.load import read_spec
from perturbox.model.pipeline import Pipeline
from perturbox.model.pipeline.intensity import Range, Truncate
from perturbox.model.victim import as_input
from perturbox.report.check_page import build_check
from perturbox.types import InputError


def piped():
    return layered(Layers(), pipeline=Pipeline((Truncate(), Range(-200.5, 400.5, (-200.5, 400.5)))))


def test_what_it_says_of_a_model():
    victim, image = piped(), three_tissues()
    found = check_victim(victim, image)
    labels = victim.predict(image)
    assert found["victim"]["sha256"] == victim.sha256 and found["cut"] is None
    assert [(step["name"], step["kind"]) for step in found["steps"]] == [
        ("truncate", "straight-through"), ("range", "clip")
    ]  # fmt: skip
    assert found["opaque"] == ["truncate"] and found["grid"] == list(image.shape) and found["windows"] == 2
    assert found["volumes"] == {n: (labels == v).sum() * image.voxel_size for n, v in victim.structures.items()}
    said = dict(told(found))
    assert said["Not differentiable"].startswith("truncate;") and "2 windows of" in said["Grid"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_cut_gradient_is_said():
    found = check_victim(layered(Layers(unusable.rounding)), three_tissues())
    assert found["cut"] == "its network" and found["derivative_error"] is None
    assert "cut in its network" in dict(told(found))["Gradient"]


def test_differences_are_counted_on_both_grids():
    victim, image = piped(), three_tissues()
    labels = victim.predict(image)
    other = labels.copy()
    organ = np.argwhere(labels == 2)
    other[tuple(organ[:3].T)] = 1
    bound, x = victim.on(image), as_input(image, victim.device)
    with torch.no_grad():
        given, scores = bound.prepare(x)[0].numpy(), bound.judge(x)[0].numpy()
    given[0, 0, 0, 0] += 0.25
    found = check_victim(victim, image, Known("Other 1.0", other, given, scores, 2.0))
    against, many = found["against"], int((labels == 2).sum())
    assert (against["what"], against["differ"], against["voxels"]) == ("Other 1.0", 3, labels.size)
    assert against["structures"]["organ"] == {"dice": pytest.approx(2 * (many - 3) / (2 * many - 3)), "differ": 3}
    assert against["structures"]["bone"] == {"dice": 1.0, "differ": 0}
    assert against["input"]["largest"] == 0.25 and against["scores"]["largest"] == 0.0
    said = dict(told(found))
    assert said["Against Other 1.0"].startswith("3 of ") and said["Scores"] == "the same bits"
    assert said["Network input"].startswith("differs by 2.5e-01")
    shorter = check_victim(victim, image, Known("Other 1.0", other, given[:, 1:], scores))
    assert shorter["against"]["input"]["largest"] is None and "of another shape" in dict(told(shorter))["Network input"]


def test_the_page_holds_what_the_json_holds(tmp_path, capsys):
    image = three_tissues()
    io.write_volume(tmp_path / "scan.nii.gz", image)
    io.write_labels(tmp_path / "labels.nii.gz", piped().predict(image), image)
    common = ["victim", "check", f"{unusable.__file__}:plain", str(tmp_path / "scan.nii.gz")]
    asked = [*common, "--against", str(tmp_path / "labels.nii.gz"), "--out", str(tmp_path / "new")]
    assert main(asked) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "new" / "check.json").read_text())
    page = (tmp_path / "new" / "check.html").read_text(encoding="utf-8")
    assert page == build_check(found) and "check.html in a browser" in printed
    for title, sentence in told(found):
        assert f"{title}: {sentence}" in printed
        assert title == "Labels" or re.search(rf"<dt>{title}</dt><dd>[^<]+</dd>", page)
    assert "Against a label map" in page and str(tmp_path) not in page and "<script" not in page
    assert all(f'<th scope="row">{name}</th>' in page for name in ("soft", "organ", "bone"))
    assert main(asked) == 2  # the folder is there


# ---------------------------------------------------------------- the framework's own run


def test_a_framework_gets_as_many_threads_as_we_have(tmp_path, monkeypatch):
    """Sums of another number of threads differ in their last bits, and so would logits that are equal."""
    script, before = tmp_path / "script.py", torch.get_num_threads()
    script.write_text("import os, sys\nsys.exit(os.environ['OMP_NUM_THREADS'])\n")
    monkeypatch.setitem(SCRIPTS, "nnunet", ("nnU-Net", str(script)))
    folder = tmp_path / "model"
    folder.mkdir()
    try:
        torch.set_num_threads(3)
        with pytest.raises(InputError, match=r"nnU-Net's own run failed \(3\)"):
            run_framework(read_spec(f"nnunet:{folder}"), three_tissues(), tmp_path / "no.nii.gz", sys.executable)
    finally:
        torch.set_num_threads(before)


def test_frameworks_that_are_not_there_are_one_sentence(tmp_path, monkeypatch):
    image, file = three_tissues(), tmp_path / "scan.nii.gz"
    io.write_volume(file, image)
    folder, bundle = test_nnunet_folder.make(tmp_path / "nnunet"), test_bundle.make(tmp_path / "bundle")
    for spec, words in ((f"nnunet:{folder}", "nnU-Net isn't complete"), (f"bundle:{bundle}", "MONAI isn't complete")):
        with pytest.raises(InputError, match=words) as refusal:
            run_framework(read_spec(spec), image, file, bare_python(tmp_path), trust=True)
        assert "--framework-python" in str(refusal.value) and "\n" not in str(refusal.value)
    with pytest.raises(InputError, match="add --trust"):
        run_framework(read_spec(f"bundle:{bundle}"), image, file, sys.executable)
    with pytest.raises(InputError, match="has no framework of its own"):
        run_framework(read_spec("ct-organs"), image, file, sys.executable)
    with pytest.raises(InputError, match=r"'/no/python' can't be run \(No such file or directory\)"):
        run_framework(read_spec(f"nnunet:{folder}"), image, file, "/no/python")
    assert not (tmp_path / "ran").exists() and not Path("ran").exists()


def bare_python(folder: Path) -> str:
    """An interpreter without packages."""
    place = folder / "bare"
    if not place.exists():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    return str(next(place.glob("bin/python")) if (place / "bin").is_dir() else place / "Scripts" / "python.exe")


def test_a_run_that_fails_is_one_sentence(tmp_path, monkeypatch):
    image, file = victims.random_scan((8, 8, 8)), tmp_path / "scan.nii.gz"
    io.write_volume(file, image)
    (tmp_path / "fails.py").write_text("raise RuntimeError('no weights')")
    monkeypatch.setitem(SCRIPTS, "nnunet", ("nnU-Net", str(tmp_path / "fails.py")))
    with pytest.raises(InputError, match=r"nnU-Net's own run failed \(RuntimeError: no weights\)"):
        run_framework(read_spec(f"nnunet:{tmp_path}"), image, file, sys.executable)


def test_a_scan_of_several_channels_is_written_for_its_framework(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    data = generator.normal(0, 9, (2, 7, 6, 5)).round().astype(np.int16)
    image = victims.Volume(data, np.diag([1.0, 2.0, 3.0, 1.0]), "intensity", np.dtype(np.int16))
    script = tmp_path / "sums.py"
    script.write_text(
        "import json, sys, numpy as np, nibabel as nib\n"
        "asked = json.load(open(sys.argv[1]))\n"
        "files = [nib.load(file) for file in asked['files']]\n"
        "labels = sum((np.asarray(file.dataobj) > 0).astype(np.int16) for file in files)\n"
        "nib.save(nib.Nifti1Image(labels, files[0].affine), asked['out'] + '/labels.nii.gz')\n"
        "told = {'version': '1', 'labels': 'labels.nii.gz', 'seconds': 0.5}\n"
        "json.dump(told, open(asked['out'] + '/told.json', 'w'))\n"
    )
    monkeypatch.setitem(SCRIPTS, "nnunet", ("nnU-Net", str(script)))
    found = run_framework(read_spec(f"nnunet:{tmp_path}"), image, tmp_path / "four_d.nii.gz", sys.executable)
    assert np.array_equal(found.labels, (data > 0).sum(0)) and found.framework == "nnU-Net 1"
    assert found.input is None and found.seconds == 0.5
