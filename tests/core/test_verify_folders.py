"""`verify` on what else leaves folders: scans of every format, attacks with a budget of their own, searches for the
margin."""

import json
import re
import shutil
from pathlib import Path

import dicom_series
import numpy as np
import pytest
import SimpleITK as sitk
import tiny
import victims

from perturbox import io
from perturbox.io.formats import PHOTOGRAPHS
from perturbox.job.compare import MARGIN_RECORDED, leaves, only_recorded
from perturbox.job.execute import Job, run_job
from perturbox.job.folder import examine, verify
from perturbox.job.margins import find_margin
from perturbox.types import InputError

HERE = Path(tiny.__file__)


def scan_as(format: str, folder: Path) -> Path:
    path = folder / f"scan{format}"
    values = tiny.scan()
    if format in ("CT", "MR"):
        dicom_series.write_series(folder / "series", values, spacing=tiny.SPACING, modality=format, slope=0.5)
        return folder / "series"
    if format in PHOTOGRAPHS:
        grey = np.clip((values[:, :, 9] + 200) / 2, 0, 255).astype(np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(grey.T), str(path))
        return path
    image = sitk.GetImageFromArray(values.transpose(2, 1, 0))
    image.SetSpacing(tiny.SPACING)
    sitk.WriteImage(image, str(path))
    return path


@pytest.mark.parametrize("format", [".png", ".jpg", ".bmp", ".tif", ".nii", ".nrrd", ".mhd", ".mha", "CT", "MR"])
def test_an_untouched_folder_holds_whatever_the_format(format, tmp_path):
    kind = "flat" if format in PHOTOGRAPHS else "volume"
    run_job(Job(str(scan_as(format, tmp_path)), f"{HERE}:{kind}", eps=6, steps=2, force=True), tmp_path / "R")
    found = examine(tmp_path / "R", trust=True)
    assert found.problems == [] and [note for note in found.notes if "HU" not in note] == []


@pytest.mark.parametrize("attack", ["deformation", "patch", "fgsm", "ensemble", "noise"])
def test_an_untouched_folder_holds_whatever_the_attack(attack, tmp_path):
    run_job(Job(str(tiny.write_scan(tmp_path / "ct.nii.gz")), f"{HERE}:volume", attack, eps=6, steps=2), tmp_path / "R")
    assert verify(tmp_path / "R", trust=True) == []


@pytest.fixture(scope="module")
def search(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    io.write_volume(folder / "scan.nii.gz", victims.organ_scan())
    job = Job(str(folder / "scan.nii.gz"), f"{Path(victims.__file__)}:organ", steps=5, force=True)
    find_margin(job, folder / "M", 64.0)
    return folder / "M"


def test_every_leaf_of_margin_json_is_recomputed_or_only_recorded(search, tmp_path, monkeypatch):
    found = examine(search, trust=True)
    assert found.problems == []
    copy = shutil.copytree(search, tmp_path / "M")
    document = json.loads((search / "margin.json").read_text())
    (witness,) = {row["witness"] for row in document["structures"].values()} - {None}
    assert list(document["witnesses"]) == [witness]
    whole = found.__class__()  # the witness was verified above and stays as it is
    monkeypatch.setattr("perturbox.job.folder.recompute", lambda *arguments: whole)
    for place in leaves(document):
        changed = json.loads(json.dumps(document))
        target = changed
        *inner, last = (int(part[1:-1]) if re.fullmatch(r"\[\d+\]", part) else part for part in place)
        for part in inner:
            target = target[part]
        target[last] = "x" if not isinstance(target[last], int | float) else target[last] + 3
        (copy / "margin.json").write_text(json.dumps(changed))
        whole.problems.clear()
        try:
            lines = verify(copy, trust=True)
        except InputError as error:
            lines = [str(error)]
        assert lines or only_recorded(place, MARGIN_RECORDED), place


def test_a_search_is_refused_where_its_rows_lead_out_of_it(search, tmp_path):
    copy = shutil.copytree(search, tmp_path / "M")
    text = (copy / "margin.json").read_text()
    (witness,) = json.loads(text)["witnesses"]
    for name in (f"../M/{witness}", "/", "..", ""):
        (copy / "margin.json").write_text(text.replace(f'"witness": "{witness}"', f'"witness": "{name}"'))
        with pytest.raises(InputError, match="lies outside"):
            verify(copy, trust=True)
    for damaged in ("{", "[]", "{}", '{"structures": 3}', text.replace('"trials": [', '"trials": [3, ', 1)):
        (copy / "margin.json").write_text(damaged)
        with pytest.raises(InputError, match="damaged"):
            verify(copy, trust=True)
    (copy / "margin.json").write_text(text)
    (copy / witness / "roi.nii.gz").write_bytes(b"")
    found = examine(copy, trust=True)
    assert found.problems == []
    assert found.notes == [f"{witness}: roi.nii.gz isn't part of this result and wasn't looked at."]
    shutil.rmtree(copy / witness)
    assert f"{witness}: is missing; copy the whole folder" in verify(copy, trust=True)
