"""What would not fit in memory isn't started, from whichever face it is asked for; whoever asks may insist."""

import dataclasses
import json

import numpy as np
import pytest
import tiny
import torch
import victims

import perturbox as px
from perturbox.certificates.smoothed import Question
from perturbox.cli import main
from perturbox.defenses import defend
from perturbox.job.certify import estimate_certificate, prepare_certificate
from perturbox.job.estimate import SCAN_BUFFERS, estimate_attack, estimate_prediction, measure_costs
from perturbox.job.execute import Job, prepare, run_job, segment
from perturbox.job.margins import find_margin
from perturbox.jobs import Order
from perturbox.jobs.worker import carry_out
from perturbox.model import memory
from perturbox.types import InputError

CPU = torch.device("cpu")
TINY = f"{tiny.__file__}:volume"
FAST = {"attack": "fgsm", "eps": 12.0}
SAID = r"needs \d+\.\d GB of memory on cpu with this model.* use a device with more memory, or pass --force to try\."


@pytest.fixture
def scan(tmp_path):
    return str(tiny.write_scan(tmp_path / "ct.nii.gz"))


@pytest.fixture
def short(monkeypatch):
    """A machine with less memory than anything needs."""
    monkeypatch.setattr("perturbox.job.estimate.available_bytes", lambda device: -(10**9))


# ---------------------------------------------------------------- the faces


def test_python_refuses_and_goes_on_when_forced(scan, short):
    with pytest.raises(InputError, match=SAID):
        px.attack(scan, TINY, "fgsm", eps=12)
    with pytest.raises(InputError, match=SAID):
        px.margin(scan, TINY, "fgsm", max_eps=12)
    with pytest.raises(InputError, match=SAID):
        px.segment(scan, TINY)
    with pytest.raises(InputError, match=SAID):
        px.certify(scan, TINY, sigma=20, n=60)
    assert px.segment(scan, TINY, force=True).max() > 0
    assert px.certify(scan, TINY, sigma=20, n0=1, n=60, force=True).record["n"] == 60
    assert px.attack(scan, TINY, "fgsm", eps=12, force=True).record["force"] is True
    assert px.margin(scan, TINY, "fgsm", max_eps=12, target="liver", force=True)["liver"] <= 12


def test_nothing_is_left_of_what_is_refused(scan, short, tmp_path):
    out = tmp_path / "R"
    with pytest.raises(InputError, match=SAID):
        run_job(Job(scan, victim=TINY, **FAST), out)
    with pytest.raises(InputError, match=SAID):
        find_margin(Job(scan, victim=TINY, attack="fgsm"), out, 12.0)
    with pytest.raises(InputError, match=SAID):
        segment(Job(scan, victim=TINY), tmp_path / "R.nii.gz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ct.nii.gz"]
    assert segment(Job(scan, victim=TINY, force=True), tmp_path / "R.nii.gz")["volumes_ml"]["liver"] > 0


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> str:
    """The file of a detector of the tiny victim."""
    file = tmp_path_factory.mktemp("detector") / "sure.safetensors"
    grid = np.diag([*tiny.SPACING, 1.0])
    px.fit_detector(TINY, "entropy", [(tiny.scan(seed=seed), grid) for seed in range(1, 13)]).write(file)
    return str(file)


@pytest.mark.parametrize("kind", ["attack", "margin", "segment", "certify", "detect"])
def test_the_servers_worker_refuses_before_it_begins(kind, scan, short, detector, tmp_path):
    said = []

    def ended(force: bool, out: str) -> dict:
        job = Job(scan, victim=TINY, force=force, **(FAST if kind in ("attack", "margin") else {}))
        question = Question(20.0, n0=1, n=60) if kind == "certify" else None
        asked = {"sure": detector} if kind in ("attack", "detect") else {}
        order = Order(kind, job, max_eps=12.0, name="case", client="test", question=question, detectors=asked)
        where = {"out": str(tmp_path / out), "threads": torch.get_num_threads()}
        (tmp_path / out).mkdir()
        return carry_out("0" * 32, json.loads(json.dumps(order.to_json())), where, said.append)

    problem = ended(False, "R")["problem"]
    assert problem["error"] == "bad-input" and problem["detail"].startswith("This scan needs ")
    assert problem["detail"].endswith("or pass --force to try.")  # which the server says as a client would
    phases = [event["phase"] for event in said if "phase" in event]
    assert not any(phase.startswith(("Attacking", "Segmenting", "Limit", "Choosing", "Asking")) for phase in phases), (
        phases
    )
    assert "problem" not in ended(True, "again")


def test_the_command_line_segments_no_more_than_fits(scan, short, tmp_path, capsys):
    command = ["segment", scan, "--victim", TINY, "--out", str(tmp_path / "R.nii.gz")]
    assert main(command) == 2
    assert "GB of memory on cpu with this model" in capsys.readouterr().err and not (tmp_path / "R.nii.gz").exists()
    assert main([*command, "--force"]) == 0


# ---------------------------------------------------------------- how much it is


def test_a_workers_own_limit_counts(monkeypatch):
    """Of 10 GB free, a process that takes 1 GB and may take 3 has 2 left."""
    monkeypatch.setattr(memory, "_meminfo", lambda: 10 * 10**9)
    monkeypatch.setattr(memory, "_cgroup", lambda: None)
    monkeypatch.setattr(memory, "taken", lambda: 10**9)
    try:
        assert memory.available_bytes(CPU) == 10 * 10**9
        memory.limit_memory(3 * 10**9)
        assert memory.available_bytes(CPU) == 2 * 10**9
        memory.limit_memory(10**8)
        assert memory.available_bytes(CPU) == 0
        memory.limit_memory(10**11)
        assert memory.available_bytes(CPU) == 10 * 10**9
        monkeypatch.setattr(memory, "taken", lambda: None)  # where the system doesn't say
        memory.limit_memory(10**8)
        assert memory.available_bytes(CPU) == 10 * 10**9
    finally:
        memory.limit_memory(None)


def test_a_certificate_also_keeps_the_labels_of_the_copies_that_choose(scan, monkeypatch):
    """One byte a voxel and copy, of a region its voxels alone; all else is a prediction's."""
    monkeypatch.setattr("perturbox.job.estimate.peak_bytes", lambda device: 0)
    asked = prepare_certificate(Job(scan, victim=TINY), Question(20.0, n0=1000, n=60))
    one, all_of_it = estimate_prediction(asked.victim, asked.image, timed=False), estimate_certificate(asked, False)
    assert all_of_it.least - one.least == all_of_it.grows - one.grows == 1000 * np.prod(tiny.SHAPE)
    where = np.zeros(tiny.SHAPE, bool)
    where[:5] = True
    assert dataclasses.replace(asked, where=where).held == 1000 * where.sum()


def test_what_this_process_takes_is_less_than_it_took_at_most():
    held, peak = memory.taken(), memory.peak_bytes(CPU)
    assert held is not None and peak is not None and 10**7 < held <= 1.01 * peak


def test_the_memory_alone_is_that_of_the_whole_estimate(monkeypatch):
    monkeypatch.setattr("perturbox.job.estimate.peak_bytes", lambda device: 0)
    monkeypatch.setattr("perturbox.job.estimate.available_bytes", lambda device: 10**12)
    monkeypatch.setattr("perturbox.job.estimate.graph_budget", lambda device, logits: 10**12)
    ready = prepare(Job("", attack="pgd"), image=victims.random_scan(), victim=victims.textured(3))
    whole, alone = estimate_attack(ready), estimate_attack(ready, timed=False)
    assert whole.seconds > 0 == alone.seconds
    for name in ("bytes", "least", "grows", "scores", "classes", "windows"):
        assert getattr(whole, name) == getattr(alone, name) > 0, name


def test_every_draw_and_every_state_of_a_defence_is_counted(monkeypatch):
    """5 copies cost 5 times what one does; total variation keeps one scan per axis and iteration for a gradient."""
    monkeypatch.setattr("perturbox.job.estimate.peak_bytes", lambda device: 0)
    image, plain = victims.random_scan(), victims.textured(3)

    def need(*specs: str, attack: str = "pgd") -> int:
        victim = defend(plain, *specs) if specs else plain
        return estimate_attack(prepare(Job("", attack=attack), image=image, victim=victim), timed=False).least

    once = need()
    assert need("gaussian") == once and need("smoothing:copies=5") == 5 * once
    voxels = 4 * image.data.size
    assert need("tv:iterations=7:low=0:high=9") == once + 7 * image.dims * voxels
    assert need("tv:iterations=7:low=0:high=9", "smoothing:copies=2") == 2 * (once + 7 * image.dims * voxels)
    assert need("tv:iterations=7:low=0:high=9", attack="square") == need(attack="square")  # which takes no gradient
    prediction = estimate_prediction(plain, image, timed=False)
    behind = estimate_prediction(defend(plain, "smoothing:copies=5"), image, timed=False)
    assert (behind.least, behind.scores) == (5 * prediction.least, 5 * prediction.scores)
    assert prediction.grows - prediction.scores == SCAN_BUFFERS * voxels


def test_every_draw_of_a_defence_takes_its_time(monkeypatch):
    """A prediction of 1.5 s behind five copies takes 7.5 s."""
    costs = dataclasses.replace(
        measure_costs(victims.textured(3), victims.random_scan(), None), forward=1, labelling=0.5
    )
    monkeypatch.setattr("perturbox.job.estimate.measure_costs", lambda *asked: costs)
    image, plain = victims.random_scan(), victims.textured(3)
    assert estimate_prediction(plain, image).seconds == 1.5
    assert estimate_prediction(defend(plain, "smoothing:copies=5"), image).seconds == 7.5


def test_a_plan_by_the_scans_values_takes_one_copy(monkeypatch):
    """A model that plans by the scan's values behind a thousand copies plans before any estimate is made."""
    from perturbox.model.ensemble import ensemble_of

    plain = ensemble_of([victims.textured(3), dataclasses.replace(victims.textured(3), name="second")])
    noisy, image, seen = defend(plain, "smoothing:copies=1000:sigma=1"), victims.random_scan(), []
    own = noisy.chain[0].filter
    chain = (dataclasses.replace(noisy.chain[0], filter=lambda x, s, g: seen.append(len(x)) or own(x, s, g)),)
    dataclasses.replace(noisy, chain=chain).on(image)
    assert seen == [1]
