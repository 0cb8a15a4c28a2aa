"""Grey and colour, 2D, slice by slice and 3D, against the own prediction and an expert label: every way through."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import spots
from spots import KINDS

from perturbox import io
from perturbox.cli import main
from perturbox.job.execute import Job, run_job
from perturbox.job.folder import read_scans, replay, verify
from perturbox.judge.noise import scan_noise
from perturbox.judge.record import read_record, required_file
from perturbox.report import write_report
from perturbox.report.load import load
from perturbox.report.page import windows
from perturbox.report.pictures import triptych
from perturbox.report.story import tell

HERE = Path(__file__).parent
EPS = 20.0


def spec(colour: str, grid: str) -> str:
    return f"{HERE / 'spots.py'}:{colour}_{grid}"


@pytest.mark.parametrize("expert", [False, True], ids=["own", "expert"])
@pytest.mark.parametrize(("colour", "grid"), KINDS)
def test_every_kind_of_scan_goes_all_the_way(colour, grid, expert, tmp_path, capfd):
    image, label = spots.write(tmp_path, colour, grid)
    out = tmp_path / "R"
    line = ["attack", image, "--victim", spec(colour, grid), "--eps", EPS, "--steps", 4, "--out", out]
    assert main([str(word) for word in [*line, *(["--label", label] if expert else [])]]) == 0
    told = capfd.readouterr().out
    assert f"Report: {out / 'report.html'}" in told

    record = read_record(out)
    assert record["reference"] == ("label" if expert else "clean_prediction")
    assert record["verdicts"]["spot"] in ("dice", "volume", "vanished")
    clean, adversarial = read_scans(out, record)
    original = io.read_volume(image)
    assert clean.data.shape == original.data.shape == (3 if colour == "colour" else 1, *spots.SHAPES[grid])
    assert np.array_equal(clean.data, original.data)
    assert 0 < np.abs(adversarial.data - original.data).max() <= EPS
    channels_changed = np.abs(adversarial.data - original.data).reshape(len(original.data), -1).max(1)
    assert (channels_changed > 0).all()
    page_is_about(out, original, adversarial)

    assert verify(out) == []
    again = replay(out, tmp_path / "again")
    assert again["metrics"] == record["metrics"] and again["noise"] == record["noise"]
    files = [required_file(place, record, "perturbation").read_bytes() for place in (out, tmp_path / "again")]
    assert files[0] == files[1]


def page_is_about(out: Path, original, adversarial) -> None:
    """The display copy holds the scan's own voxels, channel by channel, of several files the first, and a page of an
    older folder is made again."""
    story = tell(load(out))
    channels = 1 if "adversarial_0001" in story.result.record["files"] else len(original.data)
    axes = sorted(story.copy.axes, key=lambda axis: axis.file)
    order = [axis.file for axis in story.copy.axes]

    def shown(data: np.ndarray) -> np.ndarray:
        data = data[:channels].reshape((channels, *data.shape[1:], 1)[:4])
        return data[(..., *np.ix_(*(axis.kept for axis in axes)))].transpose(0, *(1 + axis for axis in order))

    assert np.array_equal(story.copy.values(story.copy.before), shown(original.data))
    assert np.array_equal(story.copy.values(story.copy.after), shown(adversarial.data))
    page = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    assert write_report(out).read_bytes() == page


@pytest.mark.parametrize("format", [".png", ".tif", ".bmp", ".jpg", ".nrrd", ".mha", ".nii.gz"])
def test_colour_pictures_of_every_format_are_attacked_and_shown(format, tmp_path):
    image, _ = spots.write(tmp_path, "colour", "flat", ".png" if format == ".jpg" else format)
    if format == ".jpg":  # not written by io, for it loses the perturbation
        image = tmp_path / "scan.jpg"
        sitk.WriteImage(sitk.ReadImage(str(tmp_path / "scan.png")), str(image), True, 95)
    result = run_job(Job(str(image), victim=spec("colour", "flat"), eps=EPS, steps=2), tmp_path / "R")
    assert not any("could not be written" in line for line in result["warnings"])
    saved = io.read_volume(tmp_path / "R" / result["files"]["adversarial"]["path"])
    original = io.read_volume(image)
    assert saved.data.shape == original.data.shape == (3, *spots.SHAPES["flat"])
    assert 0 < np.abs(saved.data - original.data).max() <= EPS
    assert verify(tmp_path / "R") == []


def test_a_colour_picture_is_drawn_in_its_colours(tmp_path):
    image, _ = spots.write(tmp_path, "colour", "flat")
    run_job(Job(str(image), victim=spec("colour", "flat"), eps=EPS, steps=2), tmp_path / "R")
    story = tell(load(tmp_path / "R"))
    (tmp_path / "before.png").write_bytes(triptych(story.copy, 0, 0, (255.0, 127.5)).before)
    drawn = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "before.png")))[::2, ::2]  # two pixels a voxel
    expected = np.moveaxis(spots.drawn("colour", "flat")[0], 0, -1).transpose(1, 0, 2)
    kept = np.ix_(story.copy.axes[1].kept, story.copy.axes[2].kept)
    background = story.copy.clean[0] == 0
    assert np.abs(drawn[background].astype(int) - expected[kept][background]).max() <= 1
    assert (np.ptp(drawn[background].astype(int), axis=-1) > 0).mean() > 0.9
    page = (tmp_path / "R" / "report.html").read_text(encoding="utf-8")
    assert '"channels":3' in page and windows(story)[0] == ("As stored", 255.0, 127.5)


def test_the_noise_of_a_colour_picture_is_that_of_its_channels(tmp_path):
    rng = np.random.default_rng(0)
    sigmas = (2.0, 4.0, 6.0)
    spot = np.ones((90, 80), int)
    image = np.stack([100 + rng.normal(0, sigma, spot.shape) for sigma in sigmas])
    found = scan_noise(image, spot, {"background": 0, "spot": 1}, (1.0, 1.0))["sigma"]
    assert found == pytest.approx(np.sqrt(np.mean(np.square(sigmas))), rel=0.05)
