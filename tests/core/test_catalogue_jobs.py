"""The catalogue from the command line: what it records, verifies and replays of surrogates, own budgets and members."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny

from perturbox import io
from perturbox.cli import main
from perturbox.job.execute import Job, prepare, run_job
from perturbox.job.folder import replay, verify
from perturbox.types import InputError

TINY = f"{Path(tiny.__file__)}:volume"
HERE = Path(__file__)


def other(device):
    """A surrogate: the tiny victim with other limits and labels in another order."""
    import dataclasses

    import torch

    made = tiny.volume(device)
    network = tiny.Ranges(3)
    network.offsets += torch.tensor([0.0, 0.01, 0.02])
    order = torch.tensor([0, 2, 1])
    network.offsets, network.slopes = network.offsets[order], network.slopes[order]
    return dataclasses.replace(made, name="other", network=network, labels={"background": 0, "bone": 1, "liver": 2})


@pytest.fixture(scope="module")
def ct(tmp_path_factory) -> Path:
    return tiny.write_scan(tmp_path_factory.mktemp("ct") / "ct.nii.gz")


def delta(folder: Path) -> np.ndarray:
    return io.read_volume(folder / "perturbation.nii.gz", allow_constant=True).data


def attacked(ct: Path, out: Path, *arguments: str) -> dict:
    assert main(["attack", str(ct), "--victim", TINY, "--steps", "3", *arguments, "--out", str(out)]) == 0
    return json.loads((out / "result.json").read_text(encoding="utf-8"))


# ---------------------------------------------------------------- surrogates


def test_a_transfer_cell_from_the_command_line(ct, tmp_path, capsys):
    spec = f"{HERE}:other"
    result = attacked(ct, tmp_path / "R", "--attack", "bim", "--eps", "10", "--surrogate", spec, "--surrogate", TINY)
    assert [(model["name"], model["spec"]) for model in result["surrogates"]] == [("other", spec), ("tiny", TINY)]
    assert all(len(model["sha256"]) == 64 for model in result["surrogates"])
    assert result["metrics"]["adversarial"]["liver"]["dice"] < 0.9
    assert verify(tmp_path / "R", trust=True) == []
    again = replay(tmp_path / "R", tmp_path / "again", trust=True)
    assert again["surrogates"] == result["surrogates"]
    assert np.array_equal(delta(tmp_path / "R"), delta(tmp_path / "again"))
    assert "other and tiny for tiny" in capsys.readouterr().err


def test_a_surrogate_with_other_weights_than_then_is_not_replayed(ct, tmp_path):
    attacked(ct, tmp_path / "R", "--attack", "fgsm", "--surrogate", f"{HERE}:other")
    path = tmp_path / "R" / "result.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    result["surrogates"][0]["sha256"] = "0" * 64
    path.write_text(json.dumps(result), encoding="utf-8")
    with pytest.raises(InputError, match="surrogate 'other' has other weights"):
        replay(tmp_path / "R", tmp_path / "again", trust=True)


def test_surrogates_that_cannot_be_used_are_refused(ct, tmp_path, capsys):
    out = ["--out", str(tmp_path / "R")]
    assert main(["attack", str(ct), "--victim", TINY, "--surrogate", "no-such", *out]) == 2
    assert "Unknown victim 'no-such'" in capsys.readouterr().err
    flat = f"{Path(tiny.__file__)}:flat"
    scan = tiny.write_scan(tmp_path / "flat.nii.gz", (24, 22))
    assert main(["attack", str(scan), "--victim", flat, "--surrogate", TINY, *out]) == 2
    assert "needs a 3D volume" in capsys.readouterr().err


# ---------------------------------------------------------------- budgets of their own


def test_a_budget_of_its_own_is_told_measured_and_replayed(ct, tmp_path, capsys):
    result = attacked(ct, tmp_path / "R", "--attack", "bias-field", "--set", "strength=0.05", "--set", "distance=20")
    own = result["attack"]["own_budget"]
    assert (own["parameter"], own["value"], own["unit"]) == ("strength", 0.05, "")
    assert result["attack"]["parameters"]["eps"] is None
    assert result["budget"]["eps"] == result["budget"]["measured"]["linf"] > 10 and result["budget"]["norm"] == "linf"
    assert set(result["control"]["own"]["dice"]) == {"liver", "bone"}
    assert any("budget of its own (strength 0.05:" in warning for warning in result["warnings"])
    assert "(strength 0.05)" in capsys.readouterr().out
    assert verify(tmp_path / "R", trust=True) == []
    again = replay(tmp_path / "R", tmp_path / "again", trust=True)
    assert again["attack"] == result["attack"] and again["control"] == result["control"]
    assert np.array_equal(delta(tmp_path / "R"), delta(tmp_path / "again"))


def test_eps_caps_such_an_attack_only_where_it_was_given(ct, tmp_path):
    settings = ["--attack", "bias-field", "--set", "distance=20"]
    capped = attacked(ct, tmp_path / "C", *settings, "--eps", "4")
    assert capped["attack"]["parameters"]["eps"] == 4 and np.abs(delta(tmp_path / "C")).max() <= 4
    free = attacked(ct, tmp_path / "F", *settings)
    assert np.abs(delta(tmp_path / "F")).max() > 4 and free["budget"]["eps"] > 4
    replay(tmp_path / "C", tmp_path / "again", trust=True)
    assert np.array_equal(delta(tmp_path / "C"), delta(tmp_path / "again"))


def test_a_jobs_limit_is_what_it_gives_or_the_usual_one_but_none_for_such_an_attack(ct):
    job = Job(str(ct), victim=TINY, attack="bias-field")
    assert prepare(job).attack.limit is None and prepare(job).eps is None
    assert prepare(Job(str(ct), victim=TINY, attack="bias-field", eps=2.0)).eps == 2.0
    assert prepare(Job(str(ct), victim=TINY, attack="bim")).eps == 4.0
    assert prepare(Job(str(ct), victim=TINY, attack="bim", eps=2.0)).eps == 2.0


def test_lists_of_a_json_document_become_tuples():
    job = Job(image="x", target=["liver"], surrogate=["tiny"])
    assert (job.target, job.surrogate) == (("liver",), ("tiny",))


# ---------------------------------------------------------------- members


def test_what_every_member_found_is_told(ct, tmp_path):
    job = Job(str(ct), victim=TINY, attack="medis", eps=12.0, steps=4, settings={"boundary": 6.0})
    result = run_job(job, tmp_path / "R")
    assert [member["name"] for member in result["members"]] == [
        "weighted", "lovasz", "log-cosh", "dice-bce", "exp-log", "mix",
    ]  # fmt: skip
    for member in result["members"]:
        assert set(member["lowest_dice"]) == {"liver", "bone"}
        assert member["succeeded"] == (member["score"] <= 0.49)
    assert {row["member"] for row in result["trace"]} == {member["name"] for member in result["members"]}
    assert verify(tmp_path / "R", trust=True) == []
    replay(tmp_path / "R", tmp_path / "again", trust=True)
    assert np.array_equal(delta(tmp_path / "R"), delta(tmp_path / "again"))


@pytest.mark.parametrize(
    "name, settings",
    [
        ("apgd", {}), ("segpgd", {}), ("di-fgsm", {}), ("deepfool", {}), ("square", {}), ("nes", {"pairs": 2}),
        ("vafa", {"block": 8}),
    ],
)  # fmt: skip
def test_a_job_of_each_family_is_replayed_to_the_bit(ct, tmp_path, name, settings):
    run_job(Job(str(ct), victim=TINY, attack=name, eps=12.0, steps=3, settings=settings), tmp_path / "R")
    replay(tmp_path / "R", tmp_path / "again", trust=True)
    assert np.array_equal(delta(tmp_path / "R"), delta(tmp_path / "again"))
    assert delta(tmp_path / "R").any()
