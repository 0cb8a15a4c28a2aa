"""Detectors that come with perturbox: whose they are, and that their names work wherever a detector is asked for."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tiny
import victims
from attacking import attacked, recipe_of
from detecting import fitted, scans

import perturbox as px
from perturbox.cli import main
from perturbox.detectors import shipped as place_of
from perturbox.detectors.fitted import Detector
from perturbox.detectors.seen import fingerprint
from perturbox.detectors.shipped import DETECTORS, find, place, shipped, victims_with
from perturbox.job.demo import SEED
from perturbox.job.detecting import named
from perturbox.types import InputError, Volume
from perturbox.zoo.phantom import phantom_case

TINY = f"{Path(tiny.__file__)}:volume"
NAMES = ["entropy", "mahalanobis"]
ABSENT = "There is no detector '{}': it is no file, and {}; fit one with `perturbox fit-detector`."


# ---------------------------------------------------------------- the files


def test_those_of_ct_organs_are_small_and_of_its_weights():
    assert list(shipped("ct-organs")) == NAMES and shipped("ct-organs-2d") == {}
    files = [path for path in DETECTORS.rglob("*") if path.is_file()]
    assert len(files) == len(NAMES) and sum(path.stat().st_size for path in files) < 2_000_000
    victim = px.load_victim("ct-organs")
    for name in NAMES:
        found = find(name, victim)
        assert (found.method.name, found.victim, len(found.clean), found.rate) == (name, "ct-organs", 40, 0.05)
        assert found.alarms == pytest.approx(2 / 41)
        assert found.note == "It was fitted on phantoms, and a patient's scan is unlike all of them, attacked or not."
    other = px.load_victim("ct-organs-hardened")
    with pytest.raises(InputError) as refused:
        find("entropy", other)
    assert str(refused.value) == ABSENT.format("entropy", "none is shipped for ct-organs-hardened")


def test_they_were_fitted_on_no_phantom_of_the_demo():
    known = set(Detector.read(shipped("ct-organs")["entropy"]).facts["scans"])
    assert len(known) == 40
    hu, _, affine = phantom_case(SEED)
    assert fingerprint(Volume(hu[None].astype(np.float32), affine)) not in known


@pytest.mark.slow
def test_what_they_say_of_the_demo_s_phantom(tmp_path):
    """docs/detectors.md says it; the note ends the sentence."""
    assert main(["demo", "--scan", str(tmp_path / "ct.nii.gz")]) == 0
    said = {name: px.detect(tmp_path / "ct.nii.gz", "ct-organs", name) for name in NAMES}
    assert {name: (round(one.score, 1), round(one.threshold, 2)) for name, one in said.items()} == {
        "entropy": (0.3, 2.21),
        "mahalanobis": (0.6, 1.44),
    }
    for one in said.values():
        assert not one.fires and not one.fitted_on
        assert one.sentence.endswith(f"may pass it. {one.note}") and one.note in one.to_json()["sentence"]


# ---------------------------------------------------------------- a name or a file


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A detector that is shipped for the 2D victim of these tests: (victim, scans, detector)."""
    victim, images, found = fitted("lid", 12)
    found.write(tmp_path / "shelf" / "textured" / "lid.safetensors")
    monkeypatch.setattr(place_of, "DETECTORS", tmp_path / "shelf")
    monkeypatch.chdir(tmp_path)
    return victim, images, found


def test_a_name_is_that_of_the_victim_s_own(shelf):
    victim, images, found = shelf
    assert victims_with("lid") == ["textured"] and victims_with("svm") == []
    assert px.detect(images[3].with_data(images[3].data + np.float32(1)), victim, "lid") == found.detect(
        victim, images[3].with_data(images[3].data + np.float32(1))
    )
    again = victims.textured(2, network=victims.conv_net(2, seed=4))
    with pytest.raises(InputError, match=r"fitted on another model \(textured\) than textured, or on other weights"):
        find("lid", again)


def test_a_file_goes_before_a_name(shelf, tmp_path):
    victim = shelf[0]
    fitted("entropy", 12)[2].write(tmp_path / "lid")
    assert find("lid", victim).method.name == "entropy" and place("lid", "textured") == Path("lid")
    (tmp_path / "lid").unlink()
    (tmp_path / "lid").mkdir()  # a folder is no detector
    assert find("lid", victim).method.name == "lid"


@pytest.mark.parametrize("word", ["lidd", "textured/lid", "../textured/lid", "gone.safetensors", ""])
def test_an_unknown_word_is_refused_with_what_is_shipped(shelf, word):
    for call in (place, lambda word, name: px.detect(shelf[1][0], shelf[0], word)):
        with pytest.raises(InputError) as refused:
            call(word, "textured")
        assert str(refused.value) == ABSENT.format(word, "the one shipped for textured is lid")
    with pytest.raises(InputError) as refused:
        place(word, "../textured")
    assert "none is shipped for ../textured" in str(refused.value)


def test_what_a_server_takes(shelf, tmp_path):
    file, own = tmp_path / "shelf" / "textured" / "lid.safetensors", tmp_path / "own.safetensors"
    fitted("entropy", 12)[2].write(own)
    assert named(["lid"], ["other", "textured"]) == named(["shipped"], ["textured"]) == {"lid": file}
    assert named(["shipped"], ["other"]) == {}, "none is shipped, which is no mistake"
    assert named(["shipped", str(own), "second=own.safetensors"], ["textured"]) == {
        "lid": file, "own": own, "second": own,
    }  # fmt: skip
    assert named(["mine=lid"], ["other", "textured"]) == {"mine": file}
    assert named(["shipped", "lid"], ["textured", "textured"]) == {"lid": file}, "the same one twice is one"
    with pytest.raises(InputError, match="Two detectors are named 'lid'; rename one"):
        named(["shipped", "lid=own.safetensors"], ["textured"])
    with pytest.raises(InputError) as refused:
        named(["entropy"], ["other", "textured"])
    assert str(refused.value) == (
        "'entropy' isn't understood; write a detector as NAME=FILE, give its file or a folder of them, or name a "
        "shipped one (the one shipped for textured is lid)."
    )


# ---------------------------------------------------------------- an attack that knows of it


def test_evade_passes_one_by_its_name_and_records_the_name(shelf, tmp_path):
    victim, new = shelf[0], scans(40)[39]
    built = recipe_of("evade", 8.0, detector="lid")
    built.check(victim, new)
    assert built.parameters["detector"] == "lid"
    told = {"base_settings": "loss=ce", "detector_weight": 1.0}
    file = str(tmp_path / "shelf" / "textured" / "lid.safetensors")
    by_name, by_file = (attacked(new, victim, "evade", 8.0, steps=3, detector=word, **told) for word in ("lid", file))
    assert np.array_equal(by_name.x_adv, by_file.x_adv)
    plain = attacked(new, victim, "evade", 8.0, steps=3, detector="lid", **(told | {"detector_weight": 0.0}))
    assert not np.array_equal(by_name.x_adv, plain.x_adv)
    costs = [next(recipe_of("evade", 8.0, detector=word).attack.leaves()).queries for word in ("lid", file)]
    assert costs == [2, 2]


def test_evade_takes_a_file_by_its_whole_path_and_refuses_what_is_neither(shelf, tmp_path):
    victim, images, found = shelf
    found.write("near.safetensors")
    assert recipe_of("evade", 8.0, detector="near.safetensors").parameters["detector"] == str(
        tmp_path / "near.safetensors"
    )
    with pytest.raises(InputError) as refused:
        recipe_of("evade", 8.0, detector="svm").check(victim, images[0])
    assert str(refused.value) == ABSENT.format("svm", "the one shipped for textured is lid")


# ---------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> Path:
    """A shelf with a detector of the tiny victim, and ct.nii.gz."""
    place = tmp_path_factory.mktemp("asked")
    grid = np.diag([*tiny.SPACING, 1.0])
    clean = []
    for seed in range(12):
        noise = np.random.default_rng(seed).normal(0, 5 + seed, tiny.SHAPE)
        clean.append((np.rint(tiny.scan(seed=seed) + noise).astype(np.int16), grid))
    px.fit_detector(TINY, "entropy", clean).write(place / "shelf" / "tiny" / "entropy.safetensors")
    nib.save(nib.Nifti1Image(tiny.scan(seed=40), grid), place / "ct.nii.gz")
    return place


def test_detect_takes_a_name_and_leaves_detection_json(asked, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(place_of, "DETECTORS", asked / "shelf")
    line = ["detect", str(asked / "ct.nii.gz"), "--victim", TINY, "--detector", "entropy"]
    out = tmp_path / "seen"
    assert main([*line, "--out", str(out)]) == 0
    told = capsys.readouterr().out
    found = px.detect(asked / "ct.nii.gz", TINY, "entropy")
    assert told == f"Mean entropy of the answer on tiny: {found.sentence}\nDetection: {out / 'detection.json'}\n"
    assert [path.name for path in out.iterdir()] == ["detection.json"]
    victim = px.load_victim(TINY)
    assert json.loads((out / "detection.json").read_text()) == {
        "schema": "perturbox-detection/1",
        "victim": {"name": "tiny", "sha256": victim.sha256},
        "detections": [{"scan": "scan", "name": "entropy", **found.to_json()}],
        "warnings": [],
    }
    assert main([*line, "--out", str(tmp_path / "again"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found.to_json()
    assert (tmp_path / "again" / "detection.json").read_bytes() == (out / "detection.json").read_bytes()


def test_detect_leaves_nothing_where_it_is_refused_and_overwrites_nothing(asked, tmp_path, capsys):
    line = ["detect", str(asked / "ct.nii.gz"), "--victim", TINY, "--detector"]
    file = str(asked / "shelf" / "tiny" / "entropy.safetensors")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("mine")
    assert main([*line, file, "--out", str(tmp_path / "mine")]) == 2
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["note.txt"]
    capsys.readouterr()
    assert main([*line, "entropy", "--out", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == ABSENT.format("entropy", "none is shipped for tiny") + "\n"
    assert not (tmp_path / "none").exists()


def test_the_list_says_for_which_victims_one_is_shipped(capsys):
    assert main(["list", "detectors", "--json"]) == 0
    told = {entry["name"]: entry["shipped_for"] for entry in json.loads(capsys.readouterr().out)}
    assert {name for name, where in told.items() if where} == set(NAMES)
    assert told["entropy"] == told["mahalanobis"] == ["ct-organs"]
    assert main(["list", "detectors"]) == 0
    told = capsys.readouterr().out
    assert "Shipped for" in told
    assert "Ask a shipped one: perturbox detect SCAN --detector entropy --victim ct-organs\n" in told
