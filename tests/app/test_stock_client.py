"""MONAI Label's own client, unchanged, against the running server: what it lists, segments, attacks and stores."""

import hashlib
import json
import math
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tiny
import torch

from perturbox import io
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.recipes import discover
from perturbox.judge.metrics import dice
from perturbox.types import ADVERSARIAL_NOTICE

ATTACK = {"eps": "10", "steps": "4", "seed": "3", "target": "liver"}


@pytest.fixture
def client(server, tmp_path):
    return server.stock_client(tmp_path)


@pytest.fixture(scope="module")
def attacked(server, tmp_path_factory):
    """(label map "*s", JSON, SHA-256 of the source before) of one PGD attack on case_a."""
    before = sha256(server.studies / "case_a.nii.gz")
    client = server.stock_client(tmp_path_factory.mktemp("attacked"))
    file, told = client.infer("tiny-pgd", "case_a", dict(ATTACK))
    return voxels(file), told, before


def voxels(path: str | Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj).astype(int)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---------------------------------------------------------------- what it lists


def test_every_victim_and_every_attack_on_it_is_a_segmentation_task(client):
    models = client.info()["models"]
    assert set(models) == {"tiny", *(f"tiny-{name}" for name, recipe in discover().items() if recipe.remote)}
    assert {model["type"] for model in models.values()} == {"segmentation"}
    assert all(model["labels"] == {"liver": 1, "bone": 2} and model["dimension"] == 3 for model in models.values())
    warned = {name for name, model in models.items() if ADVERSARIAL_NOTICE in model["description"]}
    assert warned == set(models) - {"tiny"}


def test_the_form_follows_the_recipes_signature_and_monai_labels_rules(client):
    models = client.info()["models"]
    assert models["tiny"]["config"] == {"device": ["cpu"]}
    assert models["tiny-pgd"]["config"] == {
        "eps": "4",
        "eps_unit": ["native", "sigma", "percent"],
        "steps": "20",
        "target": ["all", "liver", "bone"],
        "goal": ["change", "vanish", "grow", "become=liver", "become=bone"],
        "reference": ["prediction", "final"],
        "norm": ["linf", "l2"],
        "loss": list(LOSSES),
        "alpha": "",
        "random_start": True,
        "restarts": "1",
        "seed": "0",
        "device": ["cpu"],
    }
    for model in models.values():
        for value in model["config"].values():
            # A bare number would be shown blank (0) or refuse fractions (whole ones).
            assert isinstance(value, bool | str) or all(isinstance(entry, str) for entry in value)


def test_it_lists_what_else_there_is(client):
    info = client.info()
    assert info["name"] == "Perturbox" and info["labels"] == ["liver", "bone"]
    assert set(info["trainers"]) == {"adversarial_finetuning"} and set(info["scoring"]) == {"robustness"}
    assert set(info["strategies"]) == {"most_fragile", "first", "random"}
    assert "not scored yet come before" in info["strategies"]["most_fragile"]["description"]


# ---------------------------------------------------------------- what it gets


def test_it_segments_as_the_victim_predicts(server, client):
    file, told = client.infer("tiny", "case_a", {})
    scan = io.read_volume(server.studies / "case_a.nii.gz")
    expected = tiny.volume(torch.device("cpu")).predict(scan)
    assert np.array_equal(voxels(file), expected)
    assert np.array_equal(nib.load(file).affine, scan.affine)
    assert told["label_names"] == {"liver": 1, "bone": 2}
    assert told["volumes_ml"] == {
        name: pytest.approx((expected == value).sum() * 0.012) for name, value in (("liver", 1), ("bone", 2))
    }


def test_an_attack_answers_with_the_label_map_of_the_perturbed_scan(server, attacked, tmp_path):
    labels, told, _ = attacked
    answer = server.http.get(f"/perturbox/jobs/{told['job']}/files/adversarial_seg.nii.gz")
    assert answer.status_code == 200
    (tmp_path / "seg.nii.gz").write_bytes(answer.content)
    assert np.array_equal(labels, voxels(tmp_path / "seg.nii.gz"))

    perturbed = io.read_volume(server.studies / f"{told['image']}.nii.gz")
    assert np.array_equal(labels, tiny.volume(torch.device("cpu")).predict(perturbed))


def test_its_numbers_are_those_of_the_label_maps(server, attacked):
    labels, told, _ = attacked
    clean = tiny.volume(torch.device("cpu")).predict(io.read_volume(server.studies / "case_a.nii.gz"))
    for name, value in (("liver", 1), ("bone", 2)):
        assert told["metrics"]["adversarial"][name]["dice"] == pytest.approx(dice(labels == value, clean == value))
    assert told["metrics"]["adversarial"]["liver"]["dice"] < 0.6  # 10 HU take a liver of 8 HU away
    assert told["reference"] == "clean_prediction" and told["seed"] == 3
    assert told["budget"]["eps"] == 10 and told["budget"]["measured"]["linf"] <= 10


def test_the_perturbed_scan_is_a_new_image_that_says_what_it_is(server, attacked):
    _, told, before = attacked
    assert told["adversarial"] is True and told["notice"] == ADVERSARIAL_NOTICE and told["source"] == "case_a"
    assert told["image"] == f"case_a__pgd__{told['job'][:8]}"
    assert sha256(server.studies / "case_a.nii.gz") == before
    delta = voxels(server.studies / f"{told['image']}.nii.gz") - voxels(server.studies / "case_a.nii.gz")
    assert np.abs(delta).max() == 10

    stored = server.http.get("/datastore/?output=all").json()["objects"][told["image"]]["image"]["info"]
    assert {key: stored[key] for key in ("adversarial", "notice", "source", "job", "attack", "eps")} == {
        "adversarial": True,
        "notice": ADVERSARIAL_NOTICE,
        "source": "case_a",
        "job": told["job"],
        "attack": "pgd",
        "eps": 10.0,
    }


def test_the_same_seed_gives_the_same_answer_and_no_input_is_deleted(server, client, attacked):
    labels, told, before = attacked
    file, again = client.infer("tiny-pgd", "case_a", dict(ATTACK))
    assert np.array_equal(voxels(file), labels) and again["image"] != told["image"]
    assert sha256(server.studies / "case_a.nii.gz") == before
    assert voxels(server.studies / f"{again['image']}.nii.gz").tobytes() == (
        voxels(server.studies / f"{told['image']}.nii.gz").tobytes()
    )


def test_a_form_sent_back_whole_means_its_defaults(server, client):
    form = client.info()["models"]["tiny-fgsm"]["config"]
    _, told = client.infer("tiny-fgsm", "case_b", {**form, "eps": 6})
    record = server.http.get(f"/perturbox/jobs/{told['job']}").json()
    assert told["budget"]["eps"] == 6.0 and told["budget"]["norm"] == "linf"
    assert record["state"] == "done"


def test_a_session_is_attacked_like_an_image(server, client, tmp_path):
    scan = tiny.write_scan(tmp_path / "elsewhere.nii.gz", seed=5)
    session = client.create_session(str(scan))["session_id"]
    file, told = client.infer("tiny-noise", "", {"eps": "10", "steps": "2"}, session_id=session)
    assert voxels(file).shape == tiny.SHAPE and told["adversarial"] is True
    assert not (server.studies / "elsewhere.nii.gz").exists()
    client.remove_session(session)


def test_undefined_numbers_are_null(server, client, tmp_path):
    """A structure that the scan doesn't hold has neither a Dice nor a distance."""
    scan = tiny.scan()
    nib.save(nib.Nifti1Image(np.where(scan > 100, -100, scan), np.diag([*tiny.SPACING, 1.0])), tmp_path / "soft.nii.gz")
    session = client.create_session(str(tmp_path / "soft.nii.gz"))["session_id"]
    answer = server.http.post(
        f"/infer/tiny-noise?session_id={session}&output=json",
        data={"params": json.dumps({"eps": 1, "steps": 1, "target": "liver"})},
    )
    told = json.loads(answer.text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    rows = told["metrics"]["adversarial"]
    numbers = [value for row in rows.values() for value in row.values()]
    assert all(value is None or math.isfinite(value) for value in numbers)
    assert rows["liver"]["hd95_mm"] is not None
    assert rows["bone"]["hd95_mm"] is None and rows["bone"]["dice"] is None


@pytest.mark.parametrize(
    ("task", "settings", "sentence"),
    [
        ("tiny-pgd", {"epss": 3}, "tiny-pgd has no setting 'epss'; did you mean 'eps'?"),
        ("tiny-pgd", {"eps": "nan"}, "'eps' needs a number, not 'nan'."),
        ("tiny-pgd", {"goal": "vanish"}, "The goal 'vanish' needs 'target' with the structure it is about."),
        ("tiny-pgd", {"eps": "large"}, "'eps' needs a number, not 'large'."),
        ("tiny-pgd", {"steps": "2.5"}, "'steps' needs a whole number, not '2.5'."),
        ("tiny-pgd", {"restarts": "0"}, "The setting 'restarts' must be between 1 and 1000, not 0."),
        ("tiny-fgsm", {"norm": "l2"}, "fgsm works with norm linf, not 'l2'."),
        ("tiny-pgd", {"reference": "first"}, "'reference' must be prediction or final, not 'first'."),
        ("tiny-pgd", {"force": "yes"}, "'force' must be true or false, not 'yes'."),
        ("tiny-pgd", {"target": "lung"}, "This victim has no structure 'lung'; it knows liver, bone."),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_in_a_sentence(server, task, settings, sentence):
    answer = server.http.post(f"/infer/{task}?image=case_a", data={"params": json.dumps(settings)})
    told, (wrong, _, remedy) = answer.json(), sentence.partition("; ")
    assert answer.status_code == 422 and told["detail"].rstrip(".") == wrong.rstrip(".")
    assert not remedy or told["what_to_do"].casefold() == remedy.casefold()


def test_a_label_that_an_attack_left_says_so_and_is_never_final(server, client):
    http, told, final = server.http, {"label": "case_b", "tag": "attacked"}, {"label": "case_b", "tag": "final"}
    before = http.get("/datastore/label", params=final).content
    client.infer("tiny-pgd", "case_b", {"steps": "1", "save_label": True, "label_tag": "attacked"})
    info = http.get("/datastore/label/info", params=told).json()
    assert info["model"] == "tiny-pgd" and info["params"]["notice"] == ADVERSARIAL_NOTICE
    assert "/" not in info["params"]["victim"]
    http.delete("/datastore/label", params={"id": "case_b", "tag": "attacked"})
    held = {"data": {"params": json.dumps({"steps": "1", "save_label": True, "label_tag": "final"})}}
    for answer in (
        http.post("/infer/tiny-pgd?image=case_b", **held),
        http.post("/batch/infer/tiny-pgd?images=all", json={"label_tag": "final"}),
    ):
        assert answer.status_code == 422 and "not a final label" in answer.json()["detail"]
    assert http.get("/datastore/label", params=final).content == before


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_real_ct_is_segmented_and_attacked(real_ct, start_server, tmp_path):
    """The whole of it on a scan of a patient, with the model that ships, by nothing but MONAI Label's client."""
    server = start_server(studies=tmp_path / "studies", victims=("ct-organs",))
    client = server.stock_client(tmp_path)
    client.upload_image(str(real_ct), "patient")
    before = sha256(server.studies / "patient.nii.gz")
    clean, told = client.infer("ct-organs", "patient", {})
    attacked, harm = client.infer("ct-organs-pgd", "patient", {"eps": "4", "steps": "2"})
    assert voxels(clean).shape == voxels(attacked).shape == nib.load(real_ct).shape
    assert told["volumes_ml"]["liver"] > 300 and not np.array_equal(voxels(clean), voxels(attacked))
    assert harm["budget"]["measured"]["linf"] <= 4
    assert sha256(server.studies / "patient.nii.gz") == before == sha256(real_ct)


# ---------------------------------------------------------------- ids as Slicer's module makes them

IDS = ["2: CT Abdomen", "5: Thorax/Abd ^ 1.0; 50% *", "Ä" * 200, "CT 1/2", "<b>x</b>?|", "3: " + "long" * 40]


@pytest.mark.parametrize("id", IDS)
def test_slicers_ids_are_uploaded_segmented_and_labelled(server, client, tmp_path, id):
    """Slicer's module calls a volume from DICOM "NUMBER: DESCRIPTION" and uses that as the image's id throughout."""
    before = set(server.studies.iterdir())
    scan = tmp_path / "scan.nii.gz"
    tiny.write_scan(scan, seed=3)
    kept = client.upload_image(str(scan), id)["image"]
    try:
        assert (server.studies / f"{kept}.nii.gz").read_bytes() == scan.read_bytes()
        file, told = client.infer("tiny", id, {})
        assert voxels(file).shape == tiny.SHAPE and told["victim"] == "tiny"
        assert client.save_label(id, file, "mine", {})["image"] == kept
        assert np.array_equal(voxels(server.studies / "labels" / "mine" / f"{kept}.nii.gz"), voxels(file))
        answer = server.http.get("/datastore/image", params={"image": id})
        assert answer.status_code == 200 and answer.content == scan.read_bytes()
        assert server.http.get("/datastore/image/info", params={"image": id}).json()["client_name"] == id
        job = server.http.post("/perturbox/jobs", json={"kind": "segment", "image": id})
        assert job.status_code == 202
        again = {"file": ("x.nii.gz", scan.read_bytes())}
        assert server.http.put("/datastore/image", params={"image": id}, files=again).status_code == 409
    finally:
        assert server.http.delete("/datastore/image", params={"id": id}).status_code == 200
    assert set(server.studies.iterdir()) - before <= {server.studies / "labels"}


def test_files_of_such_names_in_the_studies_folder_can_be_used(server, client):
    name = "2: CT ^ 50%; *"
    tiny.write_scan(server.studies / f"{name}.nii.gz", seed=4)
    try:
        end = time.monotonic() + 30
        while name not in client.datastore()["objects"] and time.monotonic() < end:
            time.sleep(0.2)
        file, _ = client.infer("tiny", name, {})
        assert voxels(file).shape == tiny.SHAPE
        assert server.http.get("/datastore/image", params={"image": name}).status_code == 200
    finally:
        (server.studies / f"{name}.nii.gz").unlink()


@pytest.mark.parametrize("id", ["../x", "/x", "a/../x", "a//b", "..", ".", "a\\b", "~/x", "a\nb", "a\0b", "x" * 201])
def test_ids_that_read_like_paths_are_refused(server, id):
    scan = {"file": ("x.nii.gz", (server.studies / "case_a.nii.gz").read_bytes())}
    assert server.http.put("/datastore/image", params={"image": id}, files=scan).status_code == 422
    assert server.http.post("/infer/tiny", params={"image": id}).status_code == 422
