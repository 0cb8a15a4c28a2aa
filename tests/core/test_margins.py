"""The robustness margin on victims whose breaking point is known to the unit."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import victims

from perturbox import io
from perturbox.attacks import recipes
from perturbox.job import margins as margin
from perturbox.job.execute import Job, Listener
from perturbox.job.folder import verify
from perturbox.job.margins import find_margin
from perturbox.job.trials import folder_name
from perturbox.types import InputError, Volume

HERE = Path(victims.__file__)


def three_tissues(**storage) -> Volume:
    """Soft tissue at 40 HU, in it an organ at 90 and a bone at 400: `victims.layers` loses the organ at 16 HU (below
    74.5), soft tissue at 16 (below 24.5) and the bone at 151 (below 249.5)."""
    shape = (20, 14, 12)
    data = np.full(shape, 40.0)
    data[:10][victims.ball((10, 14, 12), 0.42)] = 90.0
    data[10:][victims.ball((10, 14, 12), 0.42)] = 400.0
    data[0], data[-1, -1, -1] = -900.0, 1500.0
    data[0, 0, 0] = -1000.0
    return Volume(data[None].astype(np.float32), **({"affine": np.diag([2.0, 2.0, 3.0, 1.0])} | storage))


def one_organ(share: float, **storage) -> Volume:
    """An organ for `victims.organ` (from 49.5 HU) of which a share of voxels stands at 54 HU and the rest at 90."""
    image = victims.organ_scan((18, 16, 14), inside=90.0, **storage)
    places = np.argwhere(image.data[0] == 90.0)
    image.data[(0, *places[: round(share * len(places))].T)] = 54.0
    return image


def job_on(image: Volume, folder: Path, victim: str, **changes) -> Job:
    path = folder / "scan.nii.gz"
    io.write_volume(path, image)
    return Job(**({"image": str(path), "victim": f"{HERE}:{victim}", "steps": 10, "force": True} | changes))


def tried(found: dict, *names: str) -> list[tuple[float, bool]]:
    """(limit, whether it broke) of the trials aimed at just these structures."""
    rows = [trial for trial in found["trials"] if trial["aimed"] == list(names)]
    return [(trial["eps"], all(trial["broken"][name] is not None for name in names)) for trial in rows]


@pytest.fixture(scope="module")
def layered(tmp_path_factory) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("layered")
    out = folder / "margin"
    return find_margin(job_on(three_tissues(), folder, "layers"), out, 32.0), out


def test_breaking_points_are_the_known_ones(layered):
    found, _ = layered
    rows = found["structures"]
    assert (rows["organ"]["breaks_at"], rows["organ"]["above"]) == (16.0, 15.0)
    assert (rows["soft"]["breaks_at"], rows["soft"]["above"]) == (16.0, 15.0)
    assert rows["organ"]["limit"] == "vanished"


def test_what_holds_is_above_the_largest_limit_tried(layered):
    found, _ = layered
    assert found["structures"]["bone"] == {
        "verdict": "held", "reason": None, "breaks_at": None, "above": 32.0, "used": 32.0, "limit": None,
        "witness": None, "in_sigma": None,
    }  # fmt: skip


def test_limits_double_then_what_held_is_aimed_at_then_gaps_are_bisected(layered):
    found, _ = layered
    assert tried(found, "soft", "organ", "bone") == [
        (1, False),
        (2, False),
        (4, False),
        (8, False),
        (16, False),
        (32, False),
    ]
    assert tried(found, "bone") == [(32, False)]
    assert tried(found, "organ") == [(12, False), (14, False), (15, False)]
    assert tried(found, "soft") == [(12, False), (14, False), (15, False)]
    joint = [trial for trial in found["trials"] if len(trial["aimed"]) == 3]
    assert [trial["broken"]["organ"] for trial in joint] == [None] * 4 + ["vanished"] * 2
    assert all(trial["linf"] <= trial["eps"] for trial in found["trials"])


def test_the_document_is_the_file_and_says_what_it_means(layered):
    found, out = layered
    assert json.loads((out / "margin.json").read_text()) == found
    assert found["schema"] == "perturbox-margin/1"
    assert "ADVERSARIAL" in found["notice"] and "upper bound" in found["meaning"]
    assert found["noise"]["region"] and set(found["benign"]["dice"]) == {"soft", "organ", "bone"}
    assert found["stopped_early"] is False and found["max_eps"] == 32.0
    assert found["effort"]["backwards"] > 0


def test_each_break_has_a_witness_that_verifies(layered):
    found, out = layered
    for name in ("organ", "soft"):
        row = found["structures"][name]
        result = json.loads((out / row["witness"] / "result.json").read_text())
        assert result["budget"]["measured"]["linf"] == row["breaks_at"]
        assert result["metrics"]["adversarial"][name]["dice"] < found["limits"]["dice"]
    assert verify(out, trust=True) == []


def breaking_points(report: Path) -> dict[str, str]:
    """What a report's table of structures says each breaks at."""
    table = re.search(r'<table class="numbers">(.*?)</table>', report.read_text(encoding="utf-8"), re.DOTALL)
    assert table is not None
    heads = re.findall(r'<th scope="col">(.*?)</th>', table[1])
    (column,) = (at for at, head in enumerate(heads) if head.startswith("Breaks at, HU"))
    rows = re.findall(r"<tr data-structure=(.*?)</tr>", table[1])
    titles = [re.findall(r'class="pick"[^>]*>(.*?)</button>', row)[0] for row in rows]
    return {title: re.findall(r"<td>(.*?)</td>", row)[column - 1] for title, row in zip(titles, rows, strict=True)}


def test_each_witness_repeats_what_the_search_found_and_its_report_shows_it(layered):
    found, out = layered
    witnesses = {row["witness"] for row in found["structures"].values()} - {None}
    assert witnesses
    for witness in witnesses:
        record = json.loads((out / witness / "result.json").read_text())
        assert record["margin"] == found["structures"]
        # One verdict: that of the file that proves the bound.
        for name, row in found["structures"].items():
            assert row["witness"] != witness or row["verdict"] == record["verdicts"][name]
        assert breaking_points(out / witness / "report.html") == {"Organ": "≤ 16", "Soft": "≤ 16", "Bone": "> 32"}
        assert verify(out / witness, trust=True) == []


def test_a_document_that_was_tampered_with_does_not_verify(layered):
    _, out = layered
    text = (out / "margin.json").read_text()
    try:
        (out / "margin.json").write_text(text.replace('"breaks_at": 16.0', '"breaks_at": 9.0'))
        assert "structures.organ.breaks_at: margin.json says 9, the files say 16" in verify(out, trust=True)
    finally:
        (out / "margin.json").write_text(text)


def test_a_witness_that_tells_other_bounds_does_not_verify(layered, tmp_path):
    found, out = layered
    copy = shutil.copytree(out, tmp_path / "copy")
    place = copy / found["structures"]["organ"]["witness"] / "result.json"
    result = json.loads(place.read_text())
    result["margin"]["bone"]["above"] = 64.0
    place.write_text(json.dumps(result))
    said = [line.partition(": result.json says")[0] for line in verify(copy, trust=True)]
    witness = place.parent.name
    assert said[0].startswith(f"{witness}: report.html: isn't what")
    assert said[1] == f"{witness}: margin.bone.above"
    assert said[2].startswith(f"witnesses.{witness}: margin.json says")  # its hash of this result.json


@pytest.mark.parametrize(
    "share, limit, breaks_at", [(0.22, "dice", 5.0), (0.14, "volume", 5.0), (0.06, "vanished", 41.0)]
)
def test_the_limit_that_breaks_is_named(share, limit, breaks_at, tmp_path, monkeypatch):
    """5 HU take the share of voxels at 54 HU: more than 18.2 % cost a Dice of 0.9, more than 10 % the volume; else all
    voxels have to go, at 41 HU."""
    monkeypatch.setattr(margin, "benign_floor", lambda *_: {"organ": 1.0})
    image = one_organ(share)
    image.data[image.data == 1500] = 89.0
    found = find_margin(job_on(image, tmp_path, "organ"), tmp_path / "out", 64.0)
    row = found["structures"]["organ"]
    assert (row["breaks_at"], row["above"], row["limit"]) == (breaks_at, breaks_at - 1, limit)


def test_a_break_counts_only_below_the_benign_floor(tmp_path, monkeypatch):
    monkeypatch.setattr(margin, "benign_floor", lambda *_: {"organ": 0.85})
    found = find_margin(job_on(one_organ(0.22), tmp_path, "organ"), tmp_path / "out", 8.0)
    assert found["structures"]["organ"]["breaks_at"] is None
    assert found["structures"]["organ"]["above"] == 8.0


def test_an_attack_does_not_rest_on_what_a_coarser_grid_costs_the_clean_scan(tmp_path):
    """On a grid of 6 mm the clean prediction, brought there, agrees with itself below the limit before any attack."""
    image, coarse = one_organ(0.5), dataclasses.replace(victims.organ(), spacing=(6.0, 6.0, 6.0))
    ready = margin.prepare_margin(job_on(image, tmp_path, "organ"), 64.0, victim=coarse)
    found = margin._Search(ready, Listener())
    (value,) = found.goal.targets
    assert found.live[value] < 0.89
    outcome = found._try(64.0, (value,), None)
    assert outcome.trace[0].dice[value] >= found._goal_dice(value) and len(outcome.trace) > 1 and outcome.delta.any()


@pytest.mark.parametrize(
    "storage, expected",
    [
        ({"slope": 2.0}, (12.0, 10.0)),
        ({"slope": 0.5}, (10.5, 10.0)),
        ({"dtype": np.dtype(np.float32)}, (10.5, 10.0)),  # without storage steps, 64 parts of the largest limit
    ],
)
def test_limits_are_multiples_of_the_files_step(storage, expected, tmp_path):
    """An organ at 60 HU under a threshold of 49.5 needs 10.5 HU."""
    image = victims.organ_scan((18, 16, 14), inside=60.0, **storage)
    found = find_margin(job_on(image, tmp_path, "organ"), tmp_path / "out", 32.0)
    row = found["structures"]["organ"]
    assert 10.5 <= row["breaks_at"] <= expected[0]
    if image.step is not None:
        assert (row["breaks_at"], row["above"]) == expected
        assert all(trial["eps"] % image.step == 0 for trial in found["trials"])
    else:
        assert row["above"] >= expected[1] - 0.5


def test_named_targets_alone_are_sought(tmp_path):
    found = find_margin(job_on(three_tissues(), tmp_path, "layers", target=("organ",)), tmp_path / "out", 20.0)
    assert list(found["structures"]) == ["organ"]
    assert found["structures"]["organ"]["breaks_at"] == 16.0
    assert [trial["eps"] for trial in found["trials"]] == [1, 2, 4, 8, 16, 12, 14, 15]
    assert found["attack"]["parameters"]["eps"] == 20.0


def test_stopping_leaves_what_was_found(tmp_path):
    said: list[str] = []
    listener = Listener(say=said.append, stop=lambda: sum("Limit" in line for line in said) >= 5)
    found = find_margin(job_on(three_tissues(), tmp_path, "layers"), tmp_path / "out", 32.0, listener)
    assert found["stopped_early"] is True
    assert [trial["eps"] for trial in found["trials"]] == [1, 2, 4, 8, 16]
    assert (tmp_path / "out" / "margin.json").is_file()


def test_a_victim_that_is_loaded_already_gives_the_same_margin(tmp_path):
    job = job_on(victims.organ_scan(), tmp_path, "organ")
    first = find_margin(job, tmp_path / "first", 16.0)
    given = dataclasses.replace(job, victim="no such model")
    again = find_margin(given, tmp_path / "again", 16.0, victim=victims.organ())
    assert again["victim"].pop("spec") == "no such model" and first["victim"].pop("spec") == job.victim
    assert again.pop("witnesses").keys() == first.pop("witnesses").keys()  # hashes of what names the model, too
    assert again == first
    witness = Path(first["structures"]["organ"]["witness"]) / "perturbation.nii.gz"
    assert (tmp_path / "again" / witness).read_bytes() == (tmp_path / "first" / witness).read_bytes()


def test_only_perturbations_still_needed_are_held(tmp_path):
    ready = margin.prepare_margin(job_on(three_tissues(), tmp_path, "layers"), 32.0)
    search = margin._Search(ready, Listener())
    search.double()
    assert len(search.trials) == 6
    assert set(search.found) == {search.trials[4]}


# ---------------------------------------------------------------- other attacks


@pytest.mark.parametrize("attack, settings", [("deepfool", {}), ("medis", {"boundary": 6.0})])
def test_attacks_that_seek_the_smallest_change_are_asked_once_and_then_bisected(attack, settings, tmp_path):
    """No doubling: each structure has one attack at the largest limit, then the gap is closed below what it found."""
    job = job_on(three_tissues(), tmp_path, "layers", attack=attack, settings=settings, target=("organ",), steps=8)
    found = find_margin(job, tmp_path / "out", 32.0)
    row = found["structures"]["organ"]
    assert (row["breaks_at"], row["above"]) == (16.0, 15.0)
    limits = [trial["eps"] for trial in found["trials"]]
    assert limits[0] == 32.0 and all(limit < 32 for limit in limits[1:]) and len(limits) <= 6
    assert verify(tmp_path / "out", trust=True) == []


def made_of(*names: str):
    """A recipe that keeps the worst of some others."""
    from perturbox.attacks.attack import Composed

    @recipes.recipe(title="Both", paper="none", norms=("linf",), cost="all", family="combined")
    def both(eps: float, norm: str, steps: int):
        """The worst of some."""
        return Composed({name: recipes.get(name).build(eps, norm, steps, {}).attack for name in names}, eps)

    return both.recipe


def test_an_attack_made_of_others_is_never_above_any_of_them(tmp_path, monkeypatch):
    known = recipes.discover()
    monkeypatch.setattr(recipes, "discover", lambda: known | {"both": made_of("fgsm", "bim")})
    image = three_tissues(dtype=np.dtype(np.float32))
    job, found = job_on(image, tmp_path, "layers", steps=4), {}
    for name in ("both", "fgsm", "bim"):
        found[name] = find_margin(dataclasses.replace(job, attack=name), tmp_path / name, 32.0)
    both, alone = found["both"], [found["fgsm"], found["bim"]]
    for structure, row in both["structures"].items():
        bounds = [one["structures"][structure]["breaks_at"] for one in alone]
        known_bounds = [bound for bound in bounds if bound is not None]
        assert row["breaks_at"] == (min(known_bounds) if known_bounds else None)
    # Each member's search is the one it would be alone.
    trials = [(trial["eps"], trial["aimed"], trial["linf"]) for trial in both["trials"]]
    assert trials == [(t["eps"], t["aimed"], t["linf"]) for one in alone for t in one["trials"]]
    assert verify(tmp_path / "both", trust=True) == []


def test_folder_names_suit_every_file_system():
    assert folder_name(["liver"], 2.0) == "liver_2"
    assert folder_name(["liver", "left kidney", "a/b"], 2.5) == "liver-left-kidney-a-b_2.5"
    many = folder_name([f"vertebra {k}" for k in range(100)], 31.0)
    assert len(many) < 140 and many.endswith("93-more_31")


@pytest.mark.parametrize(
    "changes, max_eps, words",
    [
        ({}, 0.0, "--max-eps must be a number above 0, not 0.0"),
        ({}, float("nan"), "--max-eps must be a number above 0"),
        ({}, 0.5, "stores steps of 1 HU, so it can't hold any change up to 0.5 HU"),
        ({"norm": "l2"}, 8.0, "norm linf"),
        ({"goal": "vanish", "target": ("organ",)}, 8.0, "goal 'change'"),
        ({"target": ("liver",)}, 8.0, "no structure 'liver'"),
    ],
)
def test_what_makes_no_margin_is_refused_in_words(changes, max_eps, words, tmp_path):
    with pytest.raises(InputError, match=words):
        find_margin(job_on(three_tissues(), tmp_path, "layers", **changes), tmp_path / "out", max_eps)
    assert not (tmp_path / "out").exists()


def test_a_margin_of_an_attack_with_a_budget_of_its_own_says_what_it_is_of(tmp_path):
    io.write_volume(tmp_path / "scan.nii.gz", victims.random_scan())
    job = Job(tmp_path / "scan.nii.gz", "tiny", "bias-field", steps=1, settings={"distance": 8.0})
    found = find_margin(job, tmp_path / "out", max_eps=2.0, victim=victims.textured())
    assert found["warnings"][-1] == (
        "bias-field is limited by strength 0.3 as well: this is the margin of a cap on its largest change, not to be "
        "compared with those of attacks at a limit."
    )
