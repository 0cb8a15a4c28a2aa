"""`perturbox certify` and `px.certify`: what they leave agrees with itself, and they refuse and stop in words."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tiny
import victims
from PIL import Image
from scipy import ndimage
from scipy.stats import binom
from test_certificates import SIGMA, sure

import perturbox as px
from perturbox.certificates.document import border, percent
from perturbox.certificates.smoothed import Question, certify
from perturbox.cli import main
from perturbox.types import InputError, Volume

TINY = f"{Path(tiny.__file__)}:volume"
SHAPE = (16, 16, 12)  # one window


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """ct.nii.gz and its certificate in C, adaptive, at 20 HU."""
    place = tmp_path_factory.mktemp("certified")
    tiny.write_scan(place / "ct.nii.gz", SHAPE)
    line = f"certify {place / 'ct.nii.gz'} --victim {TINY} --sigma 20 --adaptive --out {place / 'C'}"
    assert main(line.split()) == 0
    return place


@pytest.fixture(scope="module")
def document(folder) -> dict:
    return json.loads((folder / "C" / "certificate.json").read_text())


def values(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj).astype(int)


def test_the_folder_holds_maps_numbers_and_page(folder, document):
    assert {path.name for path in (folder / "C").iterdir()} == {
        "certified.nii.gz", "clean_seg.nii.gz", "votes.nii.gz", "certificate.json", "certificate.html",
    }  # fmt: skip
    assert document["schema"] == "perturbox-certificate/1"
    for name in ("certified", "clean_seg", "votes"):
        image = nib.load(folder / "C" / document["files"][name]["path"])
        assert image.shape == SHAPE and np.array_equal(image.affine, nib.load(folder / "ct.nii.gz").affine)
    assert document["effort"]["forwards"] == 111 and document["seed"] == 0
    assert document["victim"]["spec"] == TINY and len(document["victim"]["sha256"]) == 64


def test_the_numbers_are_those_of_the_maps(folder, document):
    """Certified is what has enough votes; every share counts voxels of the saved maps."""
    certified, clean, votes = (values(folder / "C" / f"{name}.nii.gz") for name in ("certified", "clean_seg", "votes"))
    known = document["values"]
    assert known == {"background": 0, "liver": 1, "bone": 2, "abstained": 3, "some structure": 4}
    assert np.array_equal(certified != 3, votes >= document["least_votes"])
    assert binom.sf(document["least_votes"] - 1, 100, 0.75) <= 0.001
    for name, value in (("liver", 1), ("bone", 2)):
        mine, row = certified[clean == value], document["structures"][name]
        assert row["same"] == pytest.approx((mine == value).mean()) and row["group"] == pytest.approx(
            (mine == 4).mean()
        )
        assert row["abstained"] == pytest.approx((mine == 3).mean())
        assert row["same"] + row["group"] + row["other"] + row["abstained"] == pytest.approx(1)
        assert row["predicted_size"] == pytest.approx(0.012 * len(mine))
        assert row["certified_size"] == pytest.approx(0.012 * (certified == value).sum())
    held = clean > 0
    assert document["certified_of_structures"] == pytest.approx((certified[held] == clean[held]).mean())
    assert document["certified"] == pytest.approx((certified != 3).mean())
    gains = np.array([1.0, 1.0, 1.0, 0.0, 1 - np.log(2) / np.log(3)])
    assert document["adaptive"]["information"] == pytest.approx(gains[certified].mean())
    sizes = document["radius"]
    assert sizes["l2"] == pytest.approx(13.4898, abs=1e-4)
    assert sizes["rms"] == pytest.approx(13.4898 / np.sqrt(16 * 16 * 12), abs=1e-6) and sizes["rms_in_roi"] is None


def test_abstained_voxels_are_counted_by_their_distance_to_the_border(folder, document):
    """Brute force: the distance to the nearest voxel with a neighbour of another label."""
    certified, clean = (values(folder / "C" / f"{name}.nii.gz") for name in ("certified", "clean_seg"))
    cross = ndimage.generate_binary_structure(3, 1)
    edge = ndimage.maximum_filter(clean, footprint=cross) != ndimage.minimum_filter(clean, footprint=cross)
    distance = ndimage.distance_transform_edt(~edge, sampling=tiny.SPACING)
    rows, above = document["border"], -1.0
    for row, up_to in zip(rows, (0, 5, 10, 20, np.inf), strict=True):
        here = (distance > above) & (distance <= up_to)
        assert (row["voxels"], row["abstained"]) == (here.sum(), (here & (certified == 3)).sum())
        above = up_to
    assert sum(row["voxels"] for row in rows) == clean.size
    assert rows[0]["abstained"] > 20 > rows[2]["abstained"], "it abstains where structures meet"


def test_what_every_face_shows_is_told(folder, document):
    """The slice is the one in which structures abstain on the largest area, by brute force."""
    said = document["summary"]
    assert said["scope"].startswith("It certifies the smoothed model, not the model without noise")
    assert said["table"]["head"][:3] == ["Structure", "Found ml", "Certified"]
    shares = {name: f"{100 * row['same']:.1f} %" for name, row in document["structures"].items()}
    assert {row[0]: row[2] for row in said["table"]["rows"]} == shares
    certified, clean = (values(folder / "C" / f"{name}.nii.gz") for name in ("certified", "clean_seg"))
    lost = (certified == 3) & (clean > 0)
    areas = {(a, n): lost.take(n, a).sum() / tiny.SPACING[a] for a in range(3) for n in range(SHAPE[a])}
    assert (said["look"]["axis"], said["look"]["index"]) == max(areas, key=areas.__getitem__) == (0, 6)


def test_a_scan_without_borders_has_none():
    found = certify(victims.organ(), sure(1 - 1e-9), Question(SIGMA))
    assert border(found, found.map, sure(0.9)) == []


def test_the_page_is_whole_and_says_what_it_does_not_certify(folder, document):
    text = (folder / "C" / "certificate.html").read_text(encoding="utf-8")
    for sentence in (*document["summary"]["certifies"], *document["summary"]["not"], document["summary"]["headline"]):
        assert sentence in text.replace("&#x27;", "'").replace("&lt;", "<").replace("&gt;", ">")
    assert text.count('src="data:image/png') == 3 and "<script" not in text
    assert str(folder) not in text and "tiny.py" not in text, "it names no path"
    assert "smoothed" in document["summary"]["headline"]


def test_every_key_is_explained(document):
    """In docs/certify.md, or in docs/results.md where result.json has the same."""

    def keys(value: object) -> set[str]:
        if isinstance(value, dict):
            return set(value) | {key for part in value.values() for key in keys(part)}
        return {key for part in value for key in keys(part)} if isinstance(value, list) else set()

    docs = Path(__file__).parents[2] / "docs"
    text = "".join((docs / page).read_text(encoding="utf-8") for page in ("certify.md", "results.md"))
    explained = {word.partition(".")[0] for word in re.findall(r"`([\w.*]+)`", text)}
    own = {*document["values"], *document["victim"]["labels"], *document["versions"]}
    assert keys(document) - own - explained == set()


def test_it_prints_a_sentence_and_a_table(folder, capfd):
    out = folder / "again"
    assert main(f"certify {folder / 'ct.nii.gz'} --victim {TINY} --sigma 20 --out {out}".split()) == 0
    said, told = capfd.readouterr()
    record = json.loads((out / "certificate.json").read_text())
    assert record["summary"]["headline"] in said and f"Report: {out / 'certificate.html'}" in said
    for name in ("liver", "bone"):
        (line,) = (line for line in said.splitlines() if line.strip().startswith(name))
        assert percent(record["structures"][name]["same"]) in line
    assert "Certifying tiny by 110 noisy copies" in told and "Counting votes: noisy copy 110 of 110" in told


def test_python_gives_the_same_certificate(folder, document):
    again = px.certify(folder / "ct.nii.gz", tiny.volume(victims.CPU), sigma=20, adaptive=True)
    assert np.array_equal(again.labels, values(folder / "C" / "certified.nii.gz"))
    assert np.array_equal(again.votes, values(folder / "C" / "votes.nii.gz"))
    assert again["liver"] == document["structures"]["liver"]["same"] and list(again) == ["liver", "bone"]
    assert (
        repr(again).startswith("<Certificate of the smoothed tiny: liver ") and "smoothed" in again.show()._repr_html_()
    )
    assert px.certify(folder / "ct.nii.gz", tiny.volume(victims.CPU), sigma=20, seed=1).record["seed"] == 1


def test_a_region_from_memory_and_a_defended_model():
    scan, mask = tiny.scan(SHAPE), np.zeros(SHAPE, np.uint8)
    mask[4:9, 5:11, 3:9] = 1
    model = px.defend(tiny.volume(victims.CPU), "gaussian:sigma=0.5")
    found = px.certify((scan, np.diag([*tiny.SPACING, 1.0])), model, sigma=10, roi=mask)
    assert found.record["tests"] == mask.sum() and found.record["victim"]["defense"][0]["name"] == "gaussian"
    assert (found.labels[mask == 0] == found.values["not tested"]).all()
    assert found.record["radius"]["rms_in_roi"] == pytest.approx(6.7449 / np.sqrt(mask.sum()), abs=1e-4)


def test_a_picture_is_certified(tmp_path):
    grey = (tiny.scan((40, 30))[..., None].clip(0, 255) * np.ones(3)).astype(np.uint8)[..., 0].T
    Image.fromarray(grey).save(tmp_path / "picture.png")
    found = px.certify(tmp_path / "picture.png", replace(tiny.flat(victims.CPU), unit="intensity"), sigma=5)
    assert found.labels.shape == (40, 30) and found.record["sizes"] == "pixels"
    assert "Image, where most abstains" in found.show()._repr_html_()


def test_a_model_that_finds_nothing_says_so():
    found = px.certify((np.full((16, 16, 16), -900.0, np.float32) + np.eye(16, dtype=np.float32), np.eye(4)),
                       tiny.volume(victims.CPU), sigma=5, n0=3)  # fmt: skip
    assert found.record["summary"]["headline"].endswith("the model finds none of its structures here.")
    assert found["liver"] is None and found.record["certified"] == 1 and found.record["certified_of_structures"] is None


@pytest.mark.parametrize(
    "more, said",
    {
        "--sigma 0": "sigma must be a number above 0, not 0; it is in the scan's unit, HU on CT.",
        "--sigma 20 --tau 0.4": "tau must lie between 0.5 and 1, not 0.4: at 0.5 the radius is 0.",
        "--sigma 20 --n 40": "40 votes can't certify any of 3,072 voxels at tau 0.75 and alpha 0.001; give --n 52 or "
        "more, fewer voxels (--roi), a smaller tau or a larger alpha.",
        "--sigma 20 --group both": "'both' isn't understood; write a group as --group name=liver+spleen.",
        "--sigma 20 --adaptive --group a=liver+heart": "The group 'a' names 'heart', which the model doesn't know; it "
        "has liver, bone.",
        "--sigma 20 --roi nothing.nii.gz": "nothing.nii.gz doesn't exist; check its path and name.",
        "": "--sigma is missing; see `perturbox certify --help`.",
    }.items(),
)  # fmt: skip
def test_the_command_refuses_in_a_sentence(folder, more, said, capfd):
    out = folder / "refused"
    line = f"certify {folder / 'ct.nii.gz'} --victim {TINY} --out {out} {more}"
    assert main(line.split()) == 2
    assert capfd.readouterr().err.strip() == said and not out.exists()


def test_an_existing_folder_is_never_overwritten(folder, capfd):
    line = f"certify {folder / 'ct.nii.gz'} --victim {TINY} --sigma 20 --out {folder / 'C'}"
    assert main(line.split()) == 2 and "exists already" in capfd.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's here")
def test_ctrl_c_tests_the_votes_that_there_are(folder):
    """Stopped while votes are counted, once enough are there: the tests have as many trials as votes."""
    out = folder / "stopped"
    command = f"-m perturbox certify {folder / 'ct.nii.gz'} --victim {TINY} --sigma 20 --n 800 --out {out}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8", "env": environment}
    with subprocess.Popen([sys.executable, *command.split()], **how) as process:
        for line in process.stderr:
            if line.startswith("Counting votes"):
                process.send_signal(signal.SIGINT)
                break
        said, _ = process.communicate()
    assert process.returncode == 0
    record = json.loads((out / "certificate.json").read_text())
    assert record["stopped_early"] and 92 <= record["n"] < 800
    assert values(out / "votes.nii.gz").max() == record["n"]
    assert f"It was stopped early: the tests are those of {record['n']} votes." in said


def test_shares_are_never_rounded_to_all_or_nothing():
    said = {0.0: "0 %", 1e-5: "< 0.1 %", 0.5: "50 %", 0.8225: "82.2 %", 0.99999: "> 99.9 %", 1.0: "100 %"}
    assert {share: percent(share) for share in said} == said and percent(None) == "–"


def test_two_channels_of_intensities_are_certified():
    scan = Volume(np.random.default_rng(0).normal(0, 50, (2, 8, 8, 6)).astype(np.float32), unit="intensity")
    model = victims.organ_of(3, network=victims.Linear([1.0, 0.5], 10.0), channels=2, unit="intensity")
    found = px.certify(scan, model, sigma=15.0)
    assert (
        found.record["radius"]["values"] == 2 * 8 * 8 * 6 and "intensity units" in found.record["summary"]["headline"]
    )
    # The score w.x - b has a deviation of sigma |w| from noise, so each voxel's share is known.
    score = np.tensordot([1.0, 0.5], scan.data, 1) - 10
    certain = np.abs(score) > 4 * 15 * np.sqrt(1.25)
    assert np.array_equal(found.labels[certain], (score > 0)[certain].astype(int))
    assert (found.labels[np.abs(score) < 3] == found.values["abstained"]).all()


def test_a_refusal_of_the_model_passes_through():
    with pytest.raises(InputError, match="needs a 3D volume"):
        px.certify(
            np.zeros((9, 9), np.float32) + np.eye(9, dtype=np.float32), victims.organ_of(3, unit="intensity"), sigma=5
        )
