"""Scans of several channels: how they are named, that each comes back in its file's own format and type, limits per
channel, and refusals that name both files and what differs."""

import json
import shutil
from pathlib import Path

import mr
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import victims

import perturbox as px
from perturbox import io
from perturbox.cli import main
from perturbox.job.execute import Job, run_job, segment
from perturbox.job.folder import examine, replay, unlike
from perturbox.job.margins import find_margin
from perturbox.jobs import Order
from perturbox.jobs.files import take_in
from perturbox.judge.units import ones_of
from perturbox.report.load import load
from perturbox.types import InputError

FOUR = f"{Path(__file__).parent / 'mr.py'}:four"
AFFINE = np.diag([-2.0, -2.0, 2.0, 1.0])  # as ITK's axes lie
SHAPE = (30, 28, 24)
FAST = {"victim": FOUR, "attack": "pgd", "steps": 2}


def write_itk(values: np.ndarray, path: Path) -> None:
    image = sitk.GetImageFromArray(values.transpose())
    image.SetSpacing((2.0, 2.0, 2.0))
    sitk.WriteImage(image, str(path))


def values_of(path: Path) -> np.ndarray:
    """The numbers of a file, read by another library."""
    if path.name.endswith((".nii", ".nii.gz")):
        return np.asanyarray(nib.load(path).dataobj)
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).transpose()


@pytest.fixture
def files(tmp_path) -> list[Path]:
    """Four sequences in four formats and three types."""
    names = [tmp_path / name for name in ("t1.nii.gz", "t1c.nrrd", "t2.mha", "flair.nii")]
    for path, values in zip(names, mr.sequences(SHAPE), strict=True):
        if ".nii" in path.name:
            nib.save(nib.Nifti1Image(values, AFFINE), path)
        else:
            write_itk(values, path)
    return names


def listed(files) -> str:
    return ",".join(map(str, files))


def test_each_channel_comes_back_in_its_own_format_and_type(files, tmp_path):
    out = tmp_path / "R"
    result = run_job(Job(listed(files), eps=2, eps_unit="percent", **FAST), out)
    names = [f"adversarial_000{n}{suffix}" for n, suffix in enumerate((".nii.gz", ".nrrd", ".mha", ".nii"))]
    keys = ["adversarial", "adversarial_0001", "adversarial_0002", "adversarial_0003"]
    assert [result["files"][key]["path"] for key in keys] == names
    for number, (source, name) in enumerate(zip(files, names, strict=True)):
        before, after = values_of(source), values_of(out / name)
        assert after.dtype == before.dtype and after.shape == before.shape
        change = after.astype(np.float64) - before
        # The limit is 2 % of this channel's own range; what was written is what was measured.
        low, high = np.percentile(before, [1, 99])
        row = result["budget"]["channels"][number]
        assert row["eps"] == pytest.approx(0.02 * (high - low), rel=1e-6)
        assert 0 < np.abs(change).max() <= row["eps"] * (1 + 1e-6) + np.spacing(np.float32(before.max()))
        assert row["linf"] == pytest.approx(np.abs(change).max(), rel=1e-9)
        assert row["l2"] == pytest.approx(np.sqrt(np.square(change).mean()), rel=1e-6)
        assert row["l0"] == pytest.approx((change != 0).mean())
        stored = values_of(out / f"perturbation_000{number}.nii.gz")
        assert np.array_equal(stored, change)
        if np.issubdtype(before.dtype, np.integer):
            assert before.min() <= after.min() and after.max() <= before.max() and row["step"] == 1.0
    budget = result["budget"]
    assert (budget["unit"], budget["eps"], budget["eps_asked"]) == ("percent", 2, 2)
    assert budget["measured"]["linf"] <= 2 * (1 + 1e-6)
    assert "2 % of each channel's range" in result["summary"]["headline"]
    assert [row["format"] for row in result["source"]["channels"]] == [".nii.gz", ".nrrd", ".mha", ".nii"]


def test_a_result_verifies_replays_and_is_found_out(files, tmp_path):
    out = tmp_path / "R"
    run_job(Job(listed(files), eps=3, eps_unit="percent", **FAST), out)
    assert examine(out).problems == []
    replay(out, tmp_path / "again")
    assert unlike(out, tmp_path / "again") == []
    image = sitk.ReadImage(str(out / "adversarial_0002.mha"))
    sitk.WriteImage(image + 1, str(out / "adversarial_0002.mha"))
    problems = examine(out).problems
    assert any(line.startswith("adversarial_0002.mha: isn't the file that was saved") for line in problems)


def test_a_limit_per_channel_is_that_of_channels_divided_by_it(tmp_path):
    """With fractional storage, percent of each channel's range changes what a native limit changes of channels that
    were divided by that percent before: the model scores each channel by its own spread."""
    values = [part.astype(np.float32) for part in mr.sequences(SHAPE)]
    ones = [float(np.diff(np.percentile(part, [1, 99]))[0]) / 100 for part in values]
    for number, (part, one) in enumerate(zip(values, ones, strict=True)):
        nib.save(nib.Nifti1Image(part, AFFINE), tmp_path / f"a_000{number}.nii.gz")
        nib.save(nib.Nifti1Image((part / one).astype(np.float32), AFFINE), tmp_path / f"b_000{number}.nii.gz")
    names = {case: listed(tmp_path / f"{case}_000{n}.nii.gz" for n in range(4)) for case in "ab"}
    run_job(Job(names["a"], eps=2, eps_unit="percent", **FAST), tmp_path / "A")
    run_job(Job(names["b"], eps=2, **FAST), tmp_path / "B")
    for number, one in enumerate(ones):
        first, second = (values_of(tmp_path / k / f"perturbation_000{number}.nii.gz") for k in "AB")
        # A sign flips only where the gradient is 0 but for rounding.
        assert np.mean(np.abs(first / one - second) > 1e-3) < 1e-3


def test_every_way_to_name_them_is_the_same_scan(files, tmp_path):
    """Listed, as a folder of CASE_0000… files, as one 4D file, and as objects in memory."""
    values = [values_of(path).astype(np.float32) for path in files]
    folder, listed_files = tmp_path / "case", []
    folder.mkdir()
    for number, part in enumerate(values):
        listed_files.append(tmp_path / f"part{number}.nii.gz")
        nib.save(nib.Nifti1Image(part, AFFINE), listed_files[-1])
        shutil.copy(listed_files[-1], folder / f"brain_000{number}.nii.gz")
    nib.save(nib.Nifti1Image(np.stack(values, -1), AFFINE), tmp_path / "all.nii.gz")
    ways = {"list": listed(listed_files), "folder": str(folder), "four": str(tmp_path / "all.nii.gz")}
    for way, named in ways.items():
        run_job(Job(named, eps=1, eps_unit="percent", **FAST), tmp_path / way)
    made = px.attack([(part, AFFINE) for part in values], FOUR, "pgd", eps=1, eps_unit="percent", steps=2)
    again = px.attack([str(path) for path in listed_files], FOUR, "pgd", eps=1, eps_unit="percent", steps=2)
    for number, part in enumerate(values):
        name = f"adversarial_000{number}.nii.gz"
        found = [values_of(place / name) for place in (*(tmp_path / way for way in ways), made.folder, again.folder)]
        assert all(np.array_equal(one, found[0]) for one in found[1:])
        assert np.array_equal(made.adversarial[number], found[0])
        assert np.array_equal(made.delta[number], found[0].astype(np.float64) - part)
    four = px.segment(str(tmp_path / "all.nii.gz"), FOUR)
    assert np.array_equal(four, px.segment([str(path) for path in listed_files], FOUR))
    described = segment(Job(str(folder), victim=FOUR), tmp_path / "seg.nii.gz")
    assert described["victim"]["channel_names"] == ["T1", "T1 with contrast", "T2", "FLAIR"]


def test_a_name_with_a_comma_is_one_name(tmp_path):
    paths = [tmp_path / name for name in ("a,b.nii.gz", "c.nii.gz", "d,e,f.nii.gz")]
    for path in paths:
        nib.save(nib.Nifti1Image(victims.random_scan().data[0].astype(np.int16), AFFINE), path)
    assert io.sources(paths[0]) == (paths[0],)
    assert io.sources(listed(paths)) == tuple(paths)
    assert io.sources(f"{paths[1]},missing.nii.gz") == (paths[1], Path("missing.nii.gz"))
    assert px.read(str(paths[0])).data.shape[0] == 1
    assert px.read(listed(paths)).data.shape[0] == 3


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda f: f[:2], r"2 files are given \(t1.nii.gz, …\) and the model reads 4 channels; give one file for each"),
        (lambda f: [*f, f[0]], "5 files are given"),
        (
            lambda f: f[:1],
            r"This scan has 1 channel and four reads 4 \(T1, T1 with contrast, T2, FLAIR\); give one file",
        ),
        (
            lambda f: [*f[:3], f[0].with_name("other.nii.gz")],
            "don't lie on the same voxels: 30 × 28 × 24 and 30 × 28 × 23",
        ),
        (lambda f: [*f[:3], f[0].with_name("moved.nii.gz")], "they are placed up to 5 mm apart; resample them"),
        (lambda f: [*f[:3], f[0].with_name("coarse.nii.gz")], "2 × 2 × 2 and 2 × 2 × 3 mm apart; resample them"),
        (lambda f: [*f[:3], ""], "has an empty name between commas"),
    ],
)
def test_what_does_not_fit_is_one_sentence(files, tmp_path, change, words):
    values = values_of(files[0])
    nib.save(nib.Nifti1Image(values[..., :-1], AFFINE), tmp_path / "other.nii.gz")
    moved, coarse = AFFINE.copy(), AFFINE.copy()
    moved[2, 3], coarse[2, 2] = 5, 3
    nib.save(nib.Nifti1Image(values, moved), tmp_path / "moved.nii.gz")
    nib.save(nib.Nifti1Image(values, coarse), tmp_path / "coarse.nii.gz")
    with pytest.raises(InputError, match=words) as refusal:
        run_job(Job(listed(change(files)), eps=1, eps_unit="percent", **FAST), tmp_path / "R")
    assert "\n" not in str(refusal.value) and not (tmp_path / "R").exists()


def test_folders_that_are_not_one_case_are_refused(tmp_path):
    for name in ("a_0000.nii.gz", "a_0002.nii.gz"):
        nib.save(nib.Nifti1Image(np.arange(27, dtype=np.int16).reshape(3, 3, 3), AFFINE), tmp_path / name)
    with pytest.raises(InputError, match="lacks a_0001"):
        io.sources(tmp_path)
    shutil.copy(tmp_path / "a_0000.nii.gz", tmp_path / "b_0000.nii.gz")
    with pytest.raises(InputError, match=r"holds 2 cases \(a, b\); name the files of one"):
        io.sources(tmp_path)


def test_a_model_of_one_channel_takes_no_list(files, tmp_path):
    one = f"{Path(__file__).parent / 'mr.py'}:tissue"
    with pytest.raises(InputError, match=r"4 files are given .* and the model reads 1 channel;"):
        run_job(Job(listed(files), victim=one), tmp_path / "R")
    nib.save(nib.Nifti1Image(np.stack(mr.sequences(SHAPE)[1:3], -1), AFFINE), tmp_path / "time.nii.gz")
    with pytest.raises(InputError, match="like a time series"):
        run_job(Job(str(tmp_path / "time.nii.gz"), victim=one), tmp_path / "R")


def test_the_unit_must_fit_every_channel(files, tmp_path):
    """The bytes of the first have a step of almost 1 % of their range."""
    with pytest.raises(InputError, match=r"stores steps of 1, so .* 0.5 percent"):
        run_job(Job(listed(files), eps=0.5, eps_unit="percent", **FAST), tmp_path / "R")
    with pytest.raises(InputError, match=r"^Channel 0: This scan's noise can't be measured"):
        run_job(Job(listed(files), eps=0.5, eps_unit="sigma", **FAST), tmp_path / "R")


def test_sigma_is_that_of_each_channel(tmp_path):
    """Noise of known size in each, in a core that is large enough to measure it in."""
    shape = (44, 42, 40)
    for number, values in enumerate(mr.sequences(shape)):
        nib.save(nib.Nifti1Image(values, AFFINE), tmp_path / f"case_000{number}.nii.gz")
    result = run_job(Job(str(tmp_path), eps=1, eps_unit="sigma", **FAST), tmp_path / "R")
    known = [0.03 * level + 0.02 for level in (40, 300, 900, 2.0)]
    found = [row["eps"] for row in result["budget"]["channels"]]
    assert found == pytest.approx(known, rel=0.1)
    assert result["noise"]["sigma"] == pytest.approx(1, abs=1e-6) and result["budget"]["unit"] == "sigma"
    assert examine(tmp_path / "R").problems == []


def test_a_margin_counts_in_the_unit_of_each_channel(files, tmp_path):
    job = Job(listed(files), eps_unit="percent", **FAST)
    found = find_margin(job, tmp_path / "M", 4.0)
    assert found["unit"] == "percent" and found["asked"] == {"unit": "percent", "max_eps": 4.0, "one": 1.0}
    broken = {name: row for name, row in found["structures"].items() if row["breaks_at"] is not None}
    assert broken and all(row["breaks_at"] <= 4.0 * (1 + 1e-6) for row in broken.values())
    assert examine(tmp_path / "M").problems == []


def test_the_command_line_reads_them(files, tmp_path, capsys):
    out = tmp_path / "R"
    arguments = ["--victim", FOUR, "--attack", "pgd", "--steps", "2", "--eps", "2", "--eps-unit", "percent"]
    assert main(["attack", listed(files), *arguments, "--out", str(out)]) == 0
    assert main(["victim", "check", FOUR, listed(files), "--json"]) == 0
    check = json.loads(capsys.readouterr().out.partition("{")[2].join(["{", ""]))
    assert check["derivative_error"] < 1e-2
    assert main(["segment", listed(files), "--victim", FOUR, "--out", str(tmp_path / "s.nii.gz")]) == 0
    assert main(["verify", str(out)]) == 0
    assert main(["report", str(out)]) == 0


def test_the_report_shows_the_first_channel_and_says_so(files, tmp_path):
    out = tmp_path / "R"
    run_job(Job(listed(files), eps=2, eps_unit="percent", **FAST), out)
    read = load(out)
    assert np.array_equal(read.perturbed()[0], values_of(out / "adversarial_0000.nii.gz"))
    assert np.array_equal(read.change()[0], values_of(out / "perturbation_0000.nii.gz"))
    assert "the first of 4 channels" in (out / "report.html").read_text()


def test_the_queue_keeps_copies_without_names(files, tmp_path):
    order = take_in(Order("attack", Job(listed(files), **FAST)), tmp_path / "inputs")
    kept = io.sources(order.job.image)
    assert [path.name for path in kept] == ["scan_0000.nii.gz", "scan_0001.nrrd", "scan_0002.mha", "scan_0003.nii"]
    assert all(np.array_equal(values_of(a), values_of(b)) for a, b in zip(kept, files, strict=True))


def test_what_a_scan_stores_is_the_same_in_any_unit():
    image = mr.scan(SHAPE)
    told = image.in_units(ones_of("percent", image), "percent")
    for here, there in zip(image.split(), told.split(), strict=True):
        assert np.array_equal(here.stored(), there.stored()) or np.allclose(here.stored(), there.stored(), rtol=1e-6)
        assert here.stored().dtype == there.stored().dtype
    assert np.array_equal(told.as_saved(told.data), told.data)
    assert image.in_units((), "native") is image


@pytest.mark.slow
def test_four_channels_of_a_real_head(data_dir, tmp_path):
    """Made of its T1, as no public case of several sequences is at hand."""
    path = data_dir / "mr_brain_t1" / "t1_crop.nii.gz"
    if not path.exists():
        pytest.skip(f"no {path.name} in {path.parent}; set PERTURBOX_DATA to run this test")
    source = nib.load(path)
    values = np.asanyarray(source.dataobj)[64:192:2, 64:192:2, 64:192:2]
    for number, part in enumerate(mr.of_t1(values)):
        nib.save(nib.Nifti1Image(part, np.diag([2.0, 2, 2, 1])), tmp_path / f"head_000{number}.nii.gz")
    result = run_job(Job(str(tmp_path), eps=2, eps_unit="percent", **FAST), tmp_path / "R")
    assert result["budget"]["measured"]["linf"] > 0 and examine(tmp_path / "R").problems == []
