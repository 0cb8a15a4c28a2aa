"""Final labels as a reference: by the names they were saved with, never by numbers that mean something else."""

import ast
import json
from pathlib import Path

import inside  # noqa: F401
import nibabel as nib
import numpy as np
import pytest
import tiny
from jobs_client import fetch_json, submit, wait
from serving import TINY

import perturbox
from lib import labels, trainers
from lib.words import OPTION, for_clients
from perturbox import io
from perturbox.defaults import ATTACK
from perturbox.job.execute import Job, run_job
from perturbox.load import load_victim
from perturbox.types import InputError

STRUCTURES = {"liver": 1, "bone": 2}
SWAPPED = {"label_info": [{"name": "bone", "idx": 1}, {"name": "liver", "idx": 2}]}
CORE = Path(perturbox.__file__).parent

# ---------------------------------------------------------------- what values mean


@pytest.mark.parametrize(
    ("info", "meant"),
    [
        ({}, None),
        ({"ts": 1, "name": "a.nii.gz"}, None),
        ({"label_info": []}, None),
        ({"label_info": "liver"}, None),
        ({"label_info": [{"color": [1, 2, 3]}]}, None),
        ({"label_info": [{"name": "liver", "idx": 1}, {"name": "bone", "idx": 2}]}, "liver=1,bone=2"),
        (SWAPPED, "bone=1,liver=2"),
        ({"label_info": [{"name": "spleen", "id": 1}, {"name": "liver", "id": 2}]}, "liver=2"),
        ({"label_info": [{"name": "bone"}]}, "bone=1"),
        ({"params": {"label_names": {"bone": 7, "gut": 3}}}, "bone=7"),
        ({"params": {"label_names": None}}, None),
        ({"params": "x"}, None),
    ],
    ids=str,
)
def test_a_label_is_read_by_the_names_it_came_with(info, meant):
    assert labels.label_map(info, STRUCTURES) == meant


@pytest.mark.parametrize(
    ("numbers", "shown"), [([2, 3], "2, 3"), ([1, 3], "1, 3"), ([2, 1], "2, 1"), ([None, 2], "None, 2")]
)
def test_segments_that_are_numbered_otherwise_than_stored_are_refused(numbers, shown):
    info = {"label_info": [{"name": name, "idx": n} for name, n in zip(STRUCTURES, numbers, strict=True)]}
    with pytest.raises(InputError, match=f"numbered {shown}, but are stored as 1 to 2"):
        labels.label_map(info, STRUCTURES)


def test_a_label_of_other_structures_is_refused():
    with pytest.raises(InputError, match=r"The label is of lung; the model knows liver, bone\."):
        labels.label_map({"label_info": [{"name": "lung", "idx": 1}]}, STRUCTURES)


def test_training_reads_labels_by_their_names(tmp_path):
    scan = io.read_volume(tiny.write_scan(tmp_path / "a.nii.gz"))
    truth = np.where(scan.data[0] > 100, 2, 1)
    io.write_labels(tmp_path / "swapped.nii.gz", 3 - truth, scan)
    case = trainers.LabelledCase("a", tmp_path / "a.nii.gz", tmp_path / "swapped.nii.gz", SWAPPED)
    _, read = trainers.read(case, load_victim(TINY))
    assert np.array_equal(read, truth)
    judged = trainers.judge(load_victim(TINY), [case], trainers.Settings(eps=1.0, steps=1))
    job = Job(str(case.image), TINY, label=str(case.label), label_map="bone=1,liver=2", eps=1.0, steps=10, seed=1)
    rows = run_job(job, tmp_path / "here")["metrics"]["clean"].values()
    assert judged["clean_dice"] == pytest.approx(np.mean([row["dice"] for row in rows]))


def test_an_empty_segment_says_nothing_of_its_structure(tmp_path):
    scan = io.read_volume(tiny.write_scan(tmp_path / "a.nii.gz"))
    io.write_labels(tmp_path / "liver.nii.gz", 2 * (scan.data[0] > 0).astype(np.uint8), scan)
    assert labels.outlined(tmp_path / "liver.nii.gz", "bone=1,liver=2") == "liver=2"
    assert labels.outlined(tmp_path / "liver.nii.gz", "bone=1") == "bone=1"  # refused where it is read
    assert labels.outlined(tmp_path / "liver.nii.gz", None) is None


# ---------------------------------------------------------------- on a server


@pytest.fixture
def labelled(server, tmp_path):
    """labelled(info) saves a final label of case_a whose liver is 2 and whose bone is 1; deleted afterwards."""
    scan = io.read_volume(server.studies / "case_a.nii.gz")
    truth = np.select([scan.data[0] > 100, scan.data[0] > -50], [1, 2], 0)
    io.write_labels(tmp_path / "label.nii.gz", truth, scan)

    def save(info: dict) -> Path:
        sent = {"label": ("label.nii.gz", (tmp_path / "label.nii.gz").read_bytes())}
        where = {"image": "case_a", "tag": "final"}
        answer = server.http.put("/datastore/label", params=where, files=sent, data={"params": json.dumps(info)})
        assert answer.status_code == 200, answer.text
        return tmp_path / "label.nii.gz"

    yield save
    server.http.delete("/datastore/label", params={"id": "case_a", "tag": "final"})


def expected(server, tmp_path, label: Path, label_map: str, attack: str = ATTACK) -> dict:
    scan, how = str(server.studies / "case_a.nii.gz"), {"eps": 6.0, "steps": 2}
    job = Job(scan, TINY, attack, label=str(label), label_map=label_map, **how)
    run_job(job, tmp_path / "here")
    return json.loads((tmp_path / "here" / "result.json").read_text())


def test_a_stock_attack_is_measured_against_the_final_label(server, labelled, tmp_path):
    label = labelled(SWAPPED)
    sent = {"eps": "6", "steps": "2", "reference": "final"}
    _, told = server.stock_client(tmp_path).infer("tiny-pgd", "case_a", sent)
    own = expected(server, tmp_path, label, "liver=2,bone=1", "pgd")
    assert told["reference"] == own["reference"] == "label" and told["metrics"] == own["metrics"]
    _, plain = server.stock_client(tmp_path).infer("tiny-pgd", "case_a", {"eps": "6", "steps": "2"})
    assert plain["reference"] == "clean_prediction" and plain["metrics"] != told["metrics"]


def test_a_job_reads_a_tagged_label_by_its_names_unless_told_otherwise(server, labelled, tmp_path):
    label = labelled(SWAPPED)
    sent = {"image": "case_a", "label": "final", "eps": 6.0, "steps": 2}
    id = submit(server.http, **sent)["id"]
    wait(server.http, id)
    assert fetch_json(server.http, id)["metrics"] == expected(server, tmp_path, label, "liver=2,bone=1")["metrics"]
    id = submit(server.http, **sent, label_map="liver=1,bone=2")["id"]
    wait(server.http, id)
    own = expected(server, tmp_path / "second", label, "liver=1,bone=2")
    assert fetch_json(server.http, id)["metrics"] == own["metrics"]


@pytest.mark.parametrize(
    ("info", "image", "sentence"),
    [
        (None, "case_a", "'case_a' has no final label"),
        ({"label_info": [{"name": "lung", "idx": 1}]}, "case_a", "The label is of lung"),
        ({"label_info": [{"name": "background", "idx": 0}, {"name": "liver", "idx": 1}]}, "case_a", "numbered 0, 1"),
        (None, "", "A scan that is sent along has no final label"),
    ],
)
def test_a_final_label_that_cannot_be_a_reference_is_refused(server, labelled, tmp_path, info, image, sentence):
    if info is not None:
        labelled(info)
    files = None if image else {"file": ("a.nii.gz", (server.studies / "case_a.nii.gz").read_bytes())}
    sent = {"data": {"params": '{"reference": "final", "steps": "1"}'}, "files": files}
    answer = server.http.post("/infer/tiny-pgd", params={"image": image} if image else {}, **sent)
    assert answer.status_code == 422 and sentence in answer.json()["detail"], answer.text


def test_values_the_model_does_not_know_are_told_in_fields_not_options(server, labelled, tmp_path):
    scan = io.read_volume(server.studies / "case_a.nii.gz")
    nib.save(nib.Nifti1Image(np.full(tiny.SHAPE, 9, np.uint8), scan.affine), tmp_path / "label.nii.gz")
    labelled({})
    answer = server.http.post("/infer/tiny-pgd?image=case_a", data={"params": '{"reference": "final"}'})
    assert answer.status_code == 422 and "--" not in answer.text
    assert "map them with 'label_map'" in answer.json()["detail"] + answer.json()["what_to_do"]
    id = submit(server.http, image="case_a", label="final", steps=1)["id"]
    error = wait(server.http, id, "failed")["error"]
    assert "'label_map'" in error["detail"] and "--" not in str(error)


@pytest.mark.parametrize("task", ["tiny", "tiny-noise"])
def test_a_scan_that_is_no_ct_says_how_to_go_on_and_then_does(server, tmp_path, task):
    scan = np.select([tiny.scan() > 100, tiny.scan() > -50], [240, 60], 0).astype(np.int16)
    nib.save(nib.Nifti1Image(scan, np.diag([*tiny.SPACING, 1.0])), tmp_path / "mr.nii.gz")
    sent = {"params": {"output": "json"}, "files": {"file": ("a.nii.gz", (tmp_path / "mr.nii.gz").read_bytes())}}
    answer = server.http.post(f"/infer/{task}", data={"params": '{"steps": "1"}'}, **sent)
    told = answer.json()
    assert answer.status_code == 422 and "send 'force' as true" in told["detail"] + told["what_to_do"]
    forced = server.http.post(f"/infer/{task}", data={"params": '{"steps": "1", "force": true}'}, **sent)
    assert forced.status_code == 200 and forced.json()["victim"] == "tiny"


# ---------------------------------------------------------------- the core's own sentences


def spoken() -> list[str]:
    """Every text in those modules of the core whose sentences reach a client, placeholders left out."""
    apart = (
        "cli",
        "against",
        "studies",
        "serve.py",
        "folder.py",
        "demo.py",
        "report",
        "zoo",
        "cluster.py",
        "queue.py",
        "files.py",
        # What only the command line and Python offer: fitting detectors, and training.
        "certified.py",
        "detecting.py",
        "fitting.py",
        "organs.py",
        "training.py",
    )
    found = []
    for path in sorted(CORE.rglob("*.py")):
        if set(path.relative_to(CORE).parts) & set(apart):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_no_option_of_the_command_line_is_left_in_what_the_core_says_to_clients():
    texts = [text for text in spoken() if "--" in text and "\n" not in text and "`" not in text]
    assert len(texts) >= 8 and any(OPTION.search(text) for text in texts)
    left = [text for text in texts if "--" in for_clients(text)]
    assert left == []


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("map them with --label-map.", "map them with 'label_map'."),
        ("e.g. --goal become=spleen.", "e.g. 'goal' become=spleen."),
        ("Load the original CT or pass --force.", "Load the original CT or send 'force' as true."),
        (
            "use a device with more memory, or pass --force to try.",
            "use a device with more memory, or send 'force' as true to try.",
        ),
        ("--max-eps 3 is less", "'max_eps' 3 is less"),
        ("--labels and --label--map and a--eps-b", "--labels and --label--map and a--eps-b"),
        ("a - b -- c", "a - b -- c"),
    ],
)
def test_options_become_fields(said, meant):
    assert for_clients(said) == meant
