"""Scans of every kind before a model behind defences: several channels, pictures, values that are no numbers, and
results of older versions beside one with a defence."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import parks
import pytest
import spots
import tiny
import torch
from test_channels import FOUR, files, listed  # noqa: F401 — a fixture

import perturbox as px
from perturbox import io
from perturbox.cli import main
from perturbox.defenses import defend, discover
from perturbox.job.execute import Job, run_job
from perturbox.job.folder import verify
from perturbox.job.recompute import read_scans
from perturbox.judge.record import read_record
from perturbox.load import load_victim
from perturbox.types import InputError

FIRST = Path(__file__).parent / "first_schema" / "own"
RANGED = {"bit-depth": "low=0:high=600", "tv": "low=0:high=600:iterations=3", "lgs": "low=0:high=600"}
SMALL = RANGED | {"smoothing": "copies=2", "dct": "step=20"}


def spec(name: str, folder: Path) -> str:
    if name == "park":  # the shipped weights are for CT
        return f"park:weights={parks.written(folder, 'intensity')}"
    return f"{name}:{SMALL[name]}" if name in SMALL else name


def dice_of(found: np.ndarray, reference: np.ndarray, value: int) -> float:
    a, b = found == value, reference == value
    return 2 * (a & b).sum() / (a.sum() + b.sum())


# ---------------------------------------------------------------- several channels


@pytest.fixture
def no_report(monkeypatch):
    monkeypatch.setattr("perturbox.job.execute.write_report", lambda *given: None)


@pytest.mark.parametrize("name", sorted(discover()))
def test_a_defence_filters_every_channel_and_each_is_written_twice(files, tmp_path, no_report, name):  # noqa: F811
    out = tmp_path / "R"
    given = {"victim": FOUR, "attack": "pgd", "steps": 1, "eps": 2, "eps_unit": "percent"}
    record = run_job(Job(listed(files), defense=(spec(name, tmp_path),), **given), out)
    for kind in ("adversarial", "oblivious"):
        written = [record["files"][f"{kind}{end}"]["path"] for end in ("", "_0001", "_0002", "_0003")]
        assert written == [f"{kind}_000{n}{end}" for n, end in enumerate((".nii.gz", ".nrrd", ".mha", ".nii"))]
    plain = load_victim(FOUR)
    model = defend(plain, spec(name, tmp_path))
    clean = io.read_scan(listed(files), unit=plain.unit, channels=plain.channels)
    reference = plain.predict(clean)
    oblivious = io.read_files([out / file for file in written], unit=plain.unit)
    for kind, scan in (("clean", clean), ("oblivious", oblivious)):
        expected = {s: dice_of(model.predict(scan), reference, value) for s, value in plain.structures.items()}
        assert record["defense"]["dice"][kind] == pytest.approx(expected)
    assert verify(out, trust=True) == []


def test_a_filter_of_channels_is_the_filter_of_each(files, tmp_path):  # noqa: F811
    plain = load_victim(FOUR)
    clean = io.read_scan(listed(files), unit=plain.unit, channels=plain.channels)
    x = torch.from_numpy(clean.native)[None].float()
    for name in ("aegis", "median", "gaussian", "bit-depth", "dct", "park"):
        (one,) = defend(plain, spec(name, tmp_path)).chain
        draws = torch.Generator()
        whole = one.filter(x, clean.spacing, draws)
        apart = torch.cat([one.filter(part, clean.spacing, draws) for part in x.split(1, 1)], 1)
        assert torch.equal(whole, apart), name


def test_a_range_is_asked_for_where_the_model_names_none(files, tmp_path):  # noqa: F811
    with pytest.raises(InputError) as refusal:
        run_job(
            Job(listed(files), victim=FOUR, defense=("bit-depth:bits=5",), eps=2, eps_unit="percent"), tmp_path / "R"
        )
    assert str(refusal.value).endswith("give it, as in bit-depth:bits=5:low=0:high=1000.")
    assert not (tmp_path / "R").exists()


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("colour", ["grey", "colour"])
@pytest.mark.parametrize("name", ["aegis", "median", "bit-depth", "lgs", "park", "smoothing"])
def test_pictures_are_attacked_behind_a_defence(tmp_path, no_report, colour, name):
    from PIL import Image

    shape = (*reversed(spots.SHAPES["flat"]), 3)[: 3 if colour == "colour" else 2]
    grey = np.random.default_rng(0).normal(60, 4, shape[:2])
    grey[8:20, 8:24] = 130
    values = grey if colour == "grey" else np.repeat(grey[..., None], 3, 2)
    picture = tmp_path / "picture.png"
    Image.fromarray(values.round().clip(0, 255).astype(np.uint8)).save(picture)
    victim, out = f"{spots.__file__}:{colour}_flat", tmp_path / "R"
    given = f"{name}:low=0:high=255" if name in RANGED else spec(name, tmp_path)
    record = run_job(Job(str(picture), victim=victim, attack="pgd", steps=3, eps=40, defense=(given,)), out)
    assert verify(out, trust=True) == []
    model = defend(load_victim(victim), given)
    saved = io.read_volume(out / record["files"]["adversarial"]["path"], unit="intensity")
    reference = model.plain.predict(io.read_scan(str(picture), unit="intensity", channels=model.channels))
    assert record["defense"]["dice"]["adaptive"]["spot"] == pytest.approx(dice_of(model.predict(saved), reference, 1))
    assert record["defense"]["dice"]["adaptive"]["spot"] < record["defense"]["dice"]["clean"]["spot"]


# ---------------------------------------------------------------- no numbers


def test_values_that_are_no_numbers_are_refused_before_any_filter(tmp_path, capsys):
    data = tiny.scan().astype(np.float32)
    data[3, 4, 5] = np.nan
    nib.save(nib.Nifti1Image(data, np.diag([*tiny.SPACING, 1.0])), tmp_path / "ct.nii.gz")
    given = ["attack", str(tmp_path / "ct.nii.gz"), "--victim", f"{tiny.__file__}:volume", "--out", str(tmp_path / "R")]
    assert main(given) == 2
    without = capsys.readouterr().err.splitlines()[-1]
    assert main([*given, "--defense", "median"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == without and "NaN" in without
    model = px.defend(tiny.volume(torch.device("cpu")), "median")
    with pytest.raises(InputError, match="NaN"):
        px.attack((data, np.diag([*tiny.SPACING, 1.0])), model)


# ---------------------------------------------------------------- older folders


def test_a_result_of_the_first_schema_stands_beside_one_behind_a_defence(tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])  # the victim was named from here
    old = Path(shutil.copytree(FIRST, tmp_path / "old"))
    record = read_record(old)
    assert "defense" not in record and "defense" not in record["victim"]
    clean, _ = read_scans(old, record)
    io.write_volume(tmp_path / "ct.nii.gz", clean)
    job = Job(str(tmp_path / "ct.nii.gz"), victim=record["victim"]["spec"], attack="pgd", steps=2, eps=12)
    run_job(Job(**{**vars(job), "defense": ("median",)}), tmp_path / "new")
    found = px.compare(old, tmp_path / "new").record
    assert len(found["results"]) == 2
    assert verify(old) == [] and verify(tmp_path / "new", trust=True) == []
