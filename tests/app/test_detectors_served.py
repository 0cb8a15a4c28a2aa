"""Detectors that the operator names: what they say through the job API equals `px.detect`, alone and of an attack."""

import json
from dataclasses import replace
from pathlib import Path

import httpx
import inside  # noqa: F401
import nibabel as nib
import numpy as np
import pytest
import tiny
from jobs_client import fetch, fetch_json, post, refused, submit, wait
from serving import TINY

import perturbox as px
from lib import victims as served
from lib.options import Options
from perturbox.serve import Serving, check_detectors
from perturbox.types import InputError

OTHER = f"{Path(tiny.__file__)}:flat"


def scan_of(path: Path, seed: int) -> Path:
    """A tiny scan with noise of its own size, so that no two are equally sure."""
    hu = tiny.scan(seed=seed) + np.random.default_rng(seed).normal(0, 10 + seed, tiny.SHAPE)
    nib.save(nib.Nifti1Image(np.rint(hu).astype(np.int16), np.diag([*tiny.SPACING, 1.0])), path)
    return path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> dict[str, Path]:
    """Files of detectors of the tiny victim: of entropy, and of its features."""
    folder = tmp_path_factory.mktemp("detectors")
    clean = [scan_of(folder / f"clean_{seed}.nii.gz", seed) for seed in range(100, 112)]
    found = {}
    for name, method in (("sure", "entropy"), ("sharp", "entropy")):
        px.fit_detector(TINY, method, clean, rate=0.05 if name == "sure" else 0.3).write(folder / f"{name}.safetensors")
        found[name] = folder / f"{name}.safetensors"
    return found


@pytest.fixture(scope="module")
def serving(tmp_path_factory, fitted):
    from serving import start_server

    folder = tmp_path_factory.mktemp("served")
    (folder / "studies").mkdir()
    scan_of(folder / "studies" / "case_a.nii.gz", 3)
    arguments = [word for name, path in fitted.items() for word in ("--detector", f"{name}={path}")]
    server = start_server(folder, victims=[TINY, OTHER], arguments=arguments)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def http(serving) -> httpx.Client:
    return serving.http


def said(scan: Path, fitted: dict[str, Path], name: str) -> dict:
    return px.detect(scan, TINY, fitted[name]).to_json()


def test_the_schema_lists_them_with_the_model_they_belong_to(http, fitted):
    listed = {entry["name"]: entry for entry in http.get("/perturbox/schema").json()["detectors"]}
    assert set(listed) == {"sure", "sharp"}
    for name, entry in listed.items():
        detector = px.Detector.read(fitted[name])
        assert entry == {
            "name": name,
            "victim": "tiny",
            "detector": "entropy",
            "title": detector.method.title,
            "threshold": detector.threshold,
            "clean": 12,
            "alarms": detector.alarms,
        }
    assert str(fitted["sure"].parent) not in http.get("/perturbox/schema").text


def test_what_they_say_of_a_scan_is_what_python_says(http, serving, fitted):
    job = submit(http, kind="detect", image="case_a", detector=["sharp", "sure"])
    done = wait(http, job["id"])
    assert done["request"] == {
        "kind": "detect", "victim": "tiny", "device": "cpu", "force": False, "detector": ["sharp", "sure"],
    }  # fmt: skip
    files = http.get(f"/perturbox/jobs/{job['id']}/files").json()["files"]
    assert [(entry["name"], len(entry["sha256"])) for entry in files] == [("detection.json", 64)]
    found = fetch_json(http, job["id"], "detection.json")
    assert found["schema"] == "perturbox-detection/1" and found["victim"]["name"] == "tiny"
    scan = serving.studies / "case_a.nii.gz"
    assert found["detections"] == [
        {"scan": "scan", "name": name, **said(scan, fitted, name)} for name in ("sharp", "sure")
    ]
    assert found["detections"][0]["threshold"] < found["detections"][1]["threshold"]


def test_of_an_attack_they_see_both_scans(http, serving, fitted, tmp_path):
    job = submit(http, image="case_a", attack="pgd", eps=12, steps=3, detector=["sure"])
    wait(http, job["id"])
    perturbed = fetch(http, job["id"], "adversarial.nii.gz", tmp_path)
    clean = serving.studies / "case_a.nii.gz"
    rows = fetch_json(http, job["id"], "detection.json")["detections"]
    assert rows == [
        {"scan": "perturbed", "name": "sure", **said(perturbed, fitted, "sure")},
        {"scan": "clean", "name": "sure", **said(clean, fitted, "sure")},
    ]
    assert rows[0]["score"] != rows[1]["score"]
    assert "detect" not in json.dumps(fetch_json(http, job["id"])), "the attack's own result is as without"


def test_a_scan_it_was_fitted_on_is_told(http, fitted):
    scan = fitted["sure"].parent / "clean_104.nii.gz"
    job = submit(http, {"image": scan}, kind="detect", detector=["sure"])
    wait(http, job["id"])
    (row,) = fetch_json(http, job["id"], "detection.json")["detections"]
    assert row["fitted_on"] is True and "fitted on this very scan" in row["sentence"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"kind": "detect"}, "A detection needs 'detector', a list of names as GET /perturbox/schema has them."),
        ({"kind": "detect", "detector": []}, "A detection needs 'detector'"),
        ({"kind": "detect", "detector": "sure"}, "The field 'detector' must be a valid array, not 'sure'."),
        ({"kind": "detect", "detector": [1]}, "The field 'detector' must be a valid string"),
        ({"kind": "detect", "detector": [""]}, "The field 'detector' must be at least 1 character"),
        ({"kind": "detect", "detector": ["sure"] * 9}, "The field 'detector' must be at most 8 items"),
        ({"kind": "detect", "detector": ["zebra"]}, "This server has no detector 'zebra' of tiny. It has sure, sharp."),
        ({"kind": "detect", "detector": ["/etc/passwd"]}, "This server has no detector '/etc/passwd' of tiny"),
        ({"kind": "detect", "detector": ["sure=/etc/passwd"]}, "This server has no detector 'sure=/etc/passwd'"),
        (
            {"kind": "detect", "detector": ["sure"], "victim": "tiny-2d"},
            "This server has no detector 'sure' of tiny-2d. Its operator names detectors at the start.",
        ),
        ({"kind": "detect", "detector": ["sure"], "seed": 1}, "The field 'seed' means nothing for kind 'detect'"),
        ({"kind": "margin", "detector": ["sure"]}, "The field 'detector' means nothing for kind 'margin'"),
        ({"kind": "certify", "sigma": 20, "detector": ["sure"]}, "'detector' means nothing for kind 'certify'"),
        (
            {"detector": ["sure"], "defense": ["median"]},
            "A detector looks at a model without defences before it. Leave 'detector' or 'defense' out.",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(http, body, said):
    answer = refused(post(http, image="case_a", **body), 422)
    assert said in f"{answer['detail']} {answer['what_to_do']}"


def test_a_detector_of_a_model_that_is_not_served_is_refused_at_the_start(fitted, tmp_path):
    conf = {"home": str(tmp_path), "victims": OTHER, "detectors": f"sure={fitted['sure']}"}
    with pytest.raises(InputError) as refused:
        served.load(Options.read(conf, {}, []))
    assert str(refused.value) == (
        "The detector 'sure' was fitted on tiny, which isn't served, or on other weights of it; serve that model too, "
        "or leave the detector out."
    )
    found = served.load(Options.read({**conf, "victims": f"{TINY},{OTHER}"}, {}, []))
    assert {name: list(victim.detectors) for name, victim in found.items()} == {"tiny": ["sure"], "tiny-2d": []}


def test_those_that_are_shipped_are_offered_of_the_model_that_they_are_of(tmp_path):
    """By their names in --conf, as `perturbox serve` writes it and as an operator may."""
    from perturbox.detectors.shipped import shipped

    ours = shipped("ct-organs")
    asked = Serving(None, "127.0.0.1", 8000, (), None, None, None, "cpu", (), detectors=("shipped",))
    assert check_detectors(asked) == [f"{name}={path}" for name, path in ours.items()]
    assert check_detectors(replace(asked, victims=(TINY,))) == []
    for word in ("shipped", "entropy,mahalanobis", ",".join(check_detectors(asked))):
        options = Options.read({"home": str(tmp_path), "detectors": word}, {}, [])
        assert options.detectors == ours
    found = served.load(Options.read({"home": str(tmp_path), "detectors": "shipped"}, {}, []))
    assert {name: list(victim.detectors) for name, victim in found.items()} == {
        "ct-organs": ["entropy", "mahalanobis"],
        "ct-organs-2d": [],
    }


def test_a_file_that_is_gone_is_told_by_its_name_alone(http, fitted):
    kept = fitted["sharp"].read_bytes()
    fitted["sharp"].unlink()
    try:
        job = submit(http, kind="detect", image="case_a", detector=["sharp"])
        error = wait(http, job["id"], "failed")["error"]
    finally:
        fitted["sharp"].write_bytes(kept)
    assert error["error"] == "bad-input" and error["detail"].startswith("There is no detector 'sharp'; fit one with")
