"""The documentation's code runs, and what it says about results is complete."""

import dataclasses
import importlib.util
import io as streams
import json
import re
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from torch import nn

from perturbox import io, zoo
from perturbox.attacks import recipes
from perturbox.attacks.objectives import LOSSES
from perturbox.cli import main
from perturbox.job.execute import Job, run_job
from perturbox.job.folder import verify
from perturbox.job.margins import find_margin
from perturbox.load import load_victim
from perturbox.model.sliding import Window
from perturbox.model.victim import Victim
from perturbox.types import ADVERSARIAL_NOTICE, Volume

DOCS = Path(__file__).resolve().parents[2] / "docs"
sys.path.insert(0, str(DOCS.parent / "benchmarks"))
import catalogue  # noqa: E402
import pictures  # noqa: E402
import prepared  # noqa: E402

ORGAN_HU, BODY_HU = 100, 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """my_model.py as docs/victims.md gives it, and a CT at 4 mm: a cube of 100 HU in a body of 0 HU in air."""
    folder = tmp_path_factory.mktemp("docs")
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "victims.md").read_text(encoding="utf-8"), re.DOTALL)
    (folder / "my_model.py").write_text(code, encoding="utf-8")
    hu = np.full((1, 24, 22, 20), -1000.0, np.float32)
    hu[:, 3:-3, 3:-3, 3:-3] = BODY_HU
    hu[:, 6:18, 6:16, 5:15] = ORGAN_HU
    hu[:, 3:-3, 3:-3, 3:-3] += np.random.default_rng(0).integers(-3, 4, (1, 18, 16, 14))
    io.write_volume(folder / "ct.nii.gz", Volume(hu, np.diag([4.0, 4.0, 4.0, 1.0])))
    return folder


@pytest.fixture(scope="module")
def job(folder) -> Job:
    return Job(str(folder / "ct.nii.gz"), f"{folder / 'my_model.py'}:my_model", attack="fgsm", target=("organ",))


@pytest.fixture(scope="module")
def result(job, folder) -> dict:
    return run_job(dataclasses.replace(job, eps=60.0, goal="vanish"), folder / "result")


@pytest.fixture(scope="module")
def margin(job, folder) -> dict:
    return find_margin(job, folder / "margin", max_eps=64.0)


def test_the_example_model_finds_the_organ(job, folder):
    victim = load_victim(job.victim)
    found = victim.predict(io.read_volume(job.image)) == 1
    expected = np.zeros((24, 22, 20), bool)
    expected[6:18, 6:16, 5:15] = True
    assert 2 * (found & expected).sum() / (found.sum() + expected.sum()) > 0.95


def test_the_example_is_attacked_as_its_weights_say(result, folder):
    """The organ lies 40 HU above the threshold: 60 HU towards it, the way the gradient points, leave nothing."""
    assert result["attack"]["name"] == "fgsm"
    assert result["budget"]["measured"]["linf"] == 60.0
    assert result["metrics"]["adversarial"]["organ"] == {
        "dice": 0.0,
        "iou": 0.0,
        "hd95_mm": None,
        "nsd": 0.0,
        "volume_ml": 0.0,
    }
    assert result["verdicts"] == {"organ": "vanished"}
    assert result["control"]["noise"]["dice"]["organ"] > 0.7
    assert verify(folder / "result", trust=True) == []


def test_the_examples_margin_brackets_what_its_weights_say(margin, folder):
    """Below 10 HU even the organ's rim keeps its side of the threshold; 43 HU take the brightest voxels across."""
    row = margin["structures"]["organ"]
    assert 1 <= row["breaks_at"] <= 43
    assert row["above"] < row["breaks_at"]
    witness = json.loads((folder / "margin" / row["witness"] / "result.json").read_text())
    assert witness["budget"]["measured"]["linf"] == row["breaks_at"]


def keys(value: object) -> set[str]:
    """All keys in a JSON document."""
    if isinstance(value, dict):
        return set(value) | {key for part in value.values() for key in keys(part)}
    if isinstance(value, list):
        return {key for part in value for key in keys(part)}
    return set()


@pytest.mark.parametrize("name", ["result", "margin"])
def test_every_key_is_explained(name, request):
    """Names that aren't ours (structures, packages, an attack's own settings) needn't be."""
    document = dict(request.getfixturevalue(name))
    recipe = {"loss", "alpha"}
    foreign = {"organ", "background"} | set(document.pop("versions")) | set(document.get("witnesses", ())) | recipe
    words = re.findall(r"`([\w.*]+)`", (DOCS / "results.md").read_text(encoding="utf-8"))
    explained = {word.partition(".")[0] for word in words}
    assert keys(document) - foreign - explained == set()


def test_every_file_is_explained(result):
    text = (DOCS / "results.md").read_text(encoding="utf-8")
    for key, name in result["files"].items():
        assert f"`{key}." in text, name


def test_every_field_of_a_victim_is_explained():
    text = (DOCS / "victims.md").read_text(encoding="utf-8")
    assert [field.name for field in dataclasses.fields(Victim) if f"`{field.name}`" not in text] == []
    assert [
        field.name for field in dataclasses.fields(Window) if not re.search(rf"Window\([^)]*\b{field.name}\b", text)
    ] == []


# ---------------------------------------------------------------- the catalogue of attacks


def test_the_catalogue_is_what_the_recipes_say_now():
    current = (DOCS / "attacks.md").read_text(encoding="utf-8") == catalogue.page()
    assert current, "docs/attacks.md is not what the recipes say; run `python -m benchmarks catalogue`"


@pytest.mark.parametrize("name", recipes.discover())
def test_every_attack_has_a_small_picture_or_a_reason_for_none(name):
    path = catalogue.IMAGES / f"{name}.png"
    assert path.exists() != (name in catalogue.NO_PICTURE), (
        f"run `python -m benchmarks catalogue --pictures {name}`, or say in catalogue.NO_PICTURE why there is none"
    )
    if path.exists():
        content = path.read_bytes()
        assert ADVERSARIAL_NOTICE.encode() in content and len(content) < 60_000


def test_there_are_no_pictures_and_settings_of_attacks_that_are_not():
    known = set(recipes.discover())
    assert {path.stem for path in catalogue.IMAGES.glob("*.png")} <= known
    assert {*catalogue.NO_PICTURE, *pictures.SHOWN, *prepared.GREY, *prepared.NEEDS} <= known


def test_every_attack_and_link_of_the_guide_is_there():
    text = (DOCS / "attacks.md").read_text(encoding="utf-8")
    named = set(re.findall(r"--attack ([a-z0-9-]+)", text)) | set(re.findall(r"\]\(#([a-z0-9-]+)\)", text))
    assert named - set(recipes.discover()) == set()
    assert set(re.findall(r"\[([a-z0-9-]+)\]\(#", text)) == set(recipes.discover())
    assert [path for path in re.findall(r"\]\(([\w./-]+\.(?:md|png))\)", text) if not (DOCS / path).exists()] == []


@pytest.mark.parametrize("name", recipes.discover())
def test_a_section_says_paper_parameters_and_deviations(name):
    recipe, text = recipes.get(name), catalogue.page()
    (section,) = re.findall(rf"^### {name}\n(.*?)(?=^### |\Z)", text, re.DOTALL | re.MULTILINE)
    assert recipe.paper in section and recipe.title in section
    assert all(f"- {deviation}\n" in section for deviation in recipe.deviations)
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| `")]
    assert [row[0] for row in rows] == [f"| `{entry['name']}`" for entry in recipe.parameters]
    for row, entry in zip(rows, recipe.parameters, strict=True):
        assert row[1:3] == [entry["help"], entry["unit"]]
        assert (entry["default"] in (None, "")) == ("`" not in row[4]), row


def test_a_range_is_said_in_words():
    said = {entry["name"]: catalogue._range(entry) for entry in recipes.get("nes").parameters}
    assert said["pairs"] == "1 to 100000" and said["alpha"] == "≥ 0"
    assert said["loss"] == ", ".join(f"`{name}`" for name in LOSSES)


def test_a_picture_shows_what_changed_in_its_colours():
    """Half of it 4 HU brighter, half 2 HU darker: full red and half blue on a scale that goes to 4 HU."""
    change = np.full((12, 40), 4.0)
    change[:, 20:] = -2.0
    values, labels = np.full((12, 40), 40.0), np.zeros((12, 40), np.uint8)
    content = pictures.compose(values, change, labels, labels, (-160.0, 240.0), "HU", 0.5, ["liver"])
    image = np.asarray(Image.open(streams.BytesIO(content)).convert("RGB"))
    top, left = pictures.TITLE, 80 + pictures.GAP
    assert ADVERSARIAL_NOTICE.encode() in content
    assert tuple(image[top + 5, left + 5]) == tuple(pictures.RED)
    half = pictures.diverging(np.array([-0.5]))[0]
    assert tuple(image[top + 5, left + 75]) == tuple(half) and half[2] > half[0]
    assert tuple(image[top + 5, 5]) == (124, 124, 124)  # 40 HU, in the middle of the window
    assert pictures.nice(4.0) == 4 and pictures.nice(4.1) == 5 and pictures.nice(987) == 1000 and pictures.nice(0) == 1


# ---- the README ----


def test_the_readmes_commands_run_as_they_stand(tmp_path, monkeypatch, capfd):
    """Every line under "Use it", in order, in an empty folder; a tiny scan and model stand for the shipped ones."""
    names = {"background": 0, "liver": 1, "spleen": 2}
    affine = np.diag([*tiny.SPACING, 1.0])
    monkeypatch.setattr("perturbox.job.demo.phantom_case", lambda seed: (tiny.scan(seed=seed), tiny.scan() > 0, affine))
    volume, flat = (dataclasses.replace(made(torch.device("cpu")), labels=names) for made in (tiny.volume, tiny.flat))
    unchanged = nn.Conv3d(1, 1, 1)
    nn.init.ones_(unchanged.weight), nn.init.zeros_(unchanged.bias)  # fit-features wants convolutions
    volume = dataclasses.replace(volume, network=nn.Sequential(unchanged, deepcopy(unchanged), volume.network))
    monkeypatch.setitem(zoo.BUILT_IN, "ct-organs", lambda device: volume)
    monkeypatch.setitem(zoo.BUILT_IN, "ct-organs-2d", lambda device: flat)
    monkeypatch.chdir(tmp_path)
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    used = readme.partition("## Use it")[2].partition("\n## ")[0]
    lines = [line.partition(" #")[0].strip() for line in used.splitlines() if line.startswith("perturbox ")]
    assert len(lines) >= 11 and lines[0] == "perturbox demo --scan ct.nii.gz"
    for line in lines:
        assert main(line.split()[1:]) == 0, (line, capfd.readouterr().err)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("ct.nii.gz", "segmentation.nii.gz", "clean.safetensors"),
        *("result", "vanished", "transfer", "margin", "compared", "again", "defended"),
    }


def test_the_readme_leaves_nothing_to_be_filled_in():
    """No address, file or folder that a reader would have to invent, and no name that no index has."""
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    assert readme.index("git clone https://github.com/perturbox/perturbox") < readme.index("make demo")
    assert not re.search(r"--index-url (?!https://)", readme)
    for page in [DOCS.parent / "README.md", *DOCS.rglob("*.md"), *(DOCS.parent / "slicer_extension").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        assert "pip install perturbox" not in text and "perturbox[server]'" not in text, page


def test_the_map_of_modules_is_what_the_modules_say_now():
    spec = importlib.util.spec_from_file_location("module_map", DOCS.parent / "scripts" / "module_map.py")
    assert spec is not None and spec.loader is not None
    module_map = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module_map)
    page = module_map.PAGE.read_text(encoding="utf-8")
    assert module_map.written(page) == page, "run scripts/module_map.py"
    assert "| `attacks.runner` | " in page


def test_the_loop_of_the_page_on_training_runs_and_learns_under_attack(capsys):
    """Both blocks, one after the other, as they stand."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "hardening.md").read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    torch.manual_seed(0)
    for block in blocks:
        exec(block, names)
    hard, network = names["hard"], names["network"]
    assert hard.calls == 8 and hard.reach == 10.0 and len(blocks) == 2
    own, many = names["watch"].seen[0]
    assert 0 <= many <= 1 and 0 <= own <= 1
    moved = (hard.perturb(network, names["hu"], names["labels"]) - names["hu"]).abs().max()
    assert moved.item() == 10.0
