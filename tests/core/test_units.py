"""Limits in the scan's noise and in percent of its range: what they are in its own unit, the same bytes for the same
limit, every face, and refusals that name what works."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tiny

import perturbox as px
from perturbox.cli import main
from perturbox.job.execute import Job, run_job
from perturbox.job.folder import examine, replay, unlike
from perturbox.job.margins import find_margin
from perturbox.judge.noise import scan_noise
from perturbox.judge.units import one_of, require_room_for_a_step
from perturbox.load import load_victim
from perturbox.types import InputError, Volume

HERE = Path(__file__).parent
TISSUE = f"{HERE / 'mr.py'}:tissue"
TINY = f"{HERE / 'tiny.py'}:volume"
FAST = {"attack": "pgd", "steps": 2}


def same_files(one: Path, other: Path, *names: str) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


@pytest.fixture(scope="session")
def real_mr(data_dir) -> Path:
    path = data_dir / "mr_abdomen" / "example_mr_sm.nii.gz"
    if not path.exists():
        pytest.skip(f"no {path.name} in {path.parent}; set PERTURBOX_DATA to run this test")
    return path


@pytest.fixture
def phantom(tmp_path) -> Path:
    return tiny.write_scan(tmp_path / "scan.nii.gz", (46, 44, 32))


def sigma_of(path: Path, spec: str) -> float:
    victim = load_victim(spec)
    image = px.read(path, victim.unit)
    return scan_noise(image.data, victim.predict(image), victim.labels, image.spacing)["sigma"]


def test_sigma_and_its_native_value_make_the_same_bytes_of_a_real_mr(real_mr, tmp_path):
    """0.5 σ is as many intensities as the noise says, measured apart from the attack."""
    sigma = sigma_of(real_mr, TISSUE)
    asked = Job(str(real_mr), victim=TISSUE, eps=0.5, eps_unit="sigma", **FAST)
    native = Job(str(real_mr), victim=TISSUE, eps=0.5 * sigma, **FAST)
    first, second = run_job(asked, tmp_path / "S"), run_job(native, tmp_path / "N")
    assert same_files(tmp_path / "S", tmp_path / "N", "adversarial.nii.gz", "perturbation.nii.gz")
    budget = first["budget"]
    assert (budget["unit_asked"], budget["eps_asked"], budget["unit"]) == ("sigma", 0.5, "intensity")
    assert budget["eps"] == second["budget"]["eps"] == 0.5 * sigma
    assert first["noise"]["eps_over_sigma"] == pytest.approx(0.5, rel=1e-12)
    assert second["budget"]["unit_asked"] == "native" and second["budget"]["eps_asked"] == second["budget"]["eps"]
    assert first["effort"]["forwards"] == second["effort"]["forwards"]  # the clean prediction is made once
    assert first["budget"]["measured"]["linf"] > 0


def test_percent_is_of_the_range_between_the_1st_and_99th_percentile(real_mr, tmp_path):
    values = np.asarray(nib.load(real_mr).dataobj, np.float64).ravel()
    low, high = np.sort(values)[[0, -1]]
    # The percentile by its definition: linear between the order statistics.
    ordered, places = np.sort(values), np.array([0.01, 0.99]) * (values.size - 1)
    below = np.floor(places).astype(int)
    low, high = ordered[below] + (places - below) * (ordered[below + 1] - ordered[below])
    result = run_job(Job(str(real_mr), victim=TISSUE, eps=2, eps_unit="percent", **FAST), tmp_path / "P")
    assert result["budget"]["eps"] == pytest.approx(0.02 * (high - low), rel=1e-12)
    assert result["budget"]["measured"]["linf"] <= 0.02 * (high - low)
    assert "2 % of this scan's range" in result["summary"]["headline"]


def test_padding_is_no_part_of_the_range():
    data = np.zeros((1, 20, 20, 20), np.float32)
    data[0, 10:] = np.arange(4000).reshape(10, 20, 20) % 100
    data[0, :4] = -2000
    kept = data[data > -2000]
    assert one_of("percent", Volume(data)) == pytest.approx(np.diff(np.percentile(kept, [1, 99]))[0] / 100)


def test_every_face_takes_the_unit(phantom, tmp_path):
    """Command line, Python and job document make the same files."""
    run_job(Job(str(phantom), victim=TINY, eps=2, eps_unit="sigma", **FAST), tmp_path / "job")
    result = px.attack(phantom, TINY, "pgd", eps=2, eps_unit="sigma", steps=2)
    arguments = ["attack", str(phantom), "--victim", TINY, "--attack", "pgd", "--steps", "2"]
    assert main([*arguments, "--eps", "2", "--eps-unit", "sigma", "--out", str(tmp_path / "cli")]) in (0, None)
    for folder in (tmp_path / "cli", result.folder):
        assert same_files(tmp_path / "job", folder, "adversarial.nii.gz")
    assert result.record["budget"]["eps"] == 2 * sigma_of(phantom, TINY)


def test_verify_and_replay_know_the_unit(phantom, tmp_path):
    run_job(Job(str(phantom), victim=TINY, eps=2, eps_unit="sigma", **FAST), tmp_path / "R")
    assert examine(tmp_path / "R").problems == []
    replay(tmp_path / "R", tmp_path / "again")
    assert unlike(tmp_path / "R", tmp_path / "again") == []
    record = json.loads((tmp_path / "R" / "result.json").read_text())
    record["budget"]["eps_asked"] = 1.0
    (tmp_path / "R" / "result.json").write_text(json.dumps(record))
    assert any("budget.eps_asked: 1 sigma are" in line for line in examine(tmp_path / "R").problems)


def test_a_margin_in_sigma_has_the_bounds_of_its_native_value(phantom, tmp_path):
    sigma = sigma_of(phantom, TINY)
    job = Job(str(phantom), victim=TINY, attack="pgd", steps=2)
    asked = find_margin(Job(**{**vars(job), "eps_unit": "sigma"}), tmp_path / "S", 4.0)
    native = find_margin(job, tmp_path / "N", 4 * sigma)
    assert asked["structures"] == native["structures"] and asked["trials"] == native["trials"]
    assert asked["asked"] == {"unit": "sigma", "max_eps": 4.0, "one": sigma} and asked["max_eps"] == 4 * sigma
    assert examine(tmp_path / "S").problems == []
    from perturbox.cli.words import margin_summary

    head = [str(column.header) for column in margin_summary(asked, tmp_path)[1].columns]
    cells = [list(column.cells) for column in margin_summary(asked, tmp_path)[1].columns]
    assert head == ["Structure", "Breaks at", "that is", "Verdict"]
    row = asked["structures"]["liver"]
    at = [str(cell) for cell in cells[0]].index("liver")
    assert (
        str(cells[1][at]) == f"≤ {row['breaks_at'] / sigma:.3g} σ" and str(cells[2][at]) == f"≤ {row['breaks_at']:g} HU"
    )


def test_crops_of_bytes_are_refused_at_once_with_what_works(data_dir, tmp_path):
    """A hippocampus crop counts in whole steps up to 106, and holds no structure large enough to measure noise in."""
    crop = data_dir / "mr_hippocampus_msd" / "images" / "hippocampus_001.nii.gz"
    if not crop.exists():
        pytest.skip(f"no {crop.name} in {crop.parent}; set PERTURBOX_DATA to run this test")
    with pytest.raises(
        InputError, match=r"stores steps of 1, so .* 1 percent \(0.97\); set .* to 1.04 percent or more"
    ):
        run_job(Job(str(crop), victim=TISSUE, eps=1, eps_unit="percent", **FAST), tmp_path / "P")
    with pytest.raises(InputError) as refusal:
        run_job(Job(str(crop), victim=TISSUE, eps=1, eps_unit="sigma", **FAST), tmp_path / "S")
    assert "percent (1.04 or more; 1 % of its range is 0.97) or native (1 or more)" in str(refusal.value)
    # What the refusals name does work.
    result = run_job(Job(str(crop), victim=TISSUE, eps=1.04, eps_unit="percent", **FAST), tmp_path / "W")
    assert result["budget"]["measured"]["linf"] == 1.0


@pytest.mark.parametrize("step", [1.0, 0.1, 0.25, 3.0])
@pytest.mark.parametrize("one", [0.97, 2.5, 0.0041, 130.0])
def test_the_least_limit_that_is_named_has_room_for_a_step(step, one):
    image = Volume(np.arange(27.0).reshape(1, 3, 3, 3), slope=step)
    with pytest.raises(InputError) as refusal:
        require_room_for_a_step(0.5 * step, image, "sigma", one)
    least = float(str(refusal.value).split("(eps) to ")[1].split(" ")[0])
    require_room_for_a_step(least * one, image, "sigma", one)
    assert least * one < 1.011 * step  # three digits


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"eps": 2, "eps_unit": "sigmas"}, "Unknown unit 'sigmas' of eps; choose native, sigma or percent."),
        ({"eps_unit": "sigma"}, "The limit's unit is sigma, but there is no limit; give eps too."),
        ({"eps": 0.1, "eps_unit": "percent", "norm": "l0", "attack": "square"}, "With norm l0, eps is a share"),
    ],
)
def test_units_that_say_nothing_are_refused(phantom, tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        run_job(Job(str(phantom), victim=TINY, **changes), tmp_path / "R")


def test_a_scan_of_one_value_but_for_specks_has_no_range():
    data = np.zeros((1, 20, 20, 20), np.float32)
    data[0, 0, 0, 0] = 50
    with pytest.raises(InputError, match=r"percent of its range means nothing; give the limit in native \(1 or more\)"):
        one_of("percent", Volume(data, unit="intensity"))
