"""Victims by name and from Python files, and what is said of names, files and devices that can't be used."""

from pathlib import Path

import pytest
import torch
import victims

from perturbox import load, zoo
from perturbox.load import check_device, load_victim
from perturbox.model.victim import Victim
from perturbox.types import InputError

HERE = Path(victims.__file__)

OWN = """
import torch
from torch import nn
from perturbox.model.sliding import Window
from perturbox.model.victim import Victim

made = Victim("own", nn.Conv3d(1, 2, 1), {"background": 0, "thing": 1}, Window((8, 8, 8)))
number = 3

def build(device):
    return Victim("built", nn.Conv3d(1, 2, 1), {"background": 0, "thing": 1}, Window((8, 8, 8)), device=device)

def refuse(device):
    from perturbox.types import InputError
    raise InputError("The weights are elsewhere; fetch them.")

def fail(device):
    raise KeyError("weights")

def nothing(device):
    return None
"""


@pytest.fixture
def own(tmp_path) -> Path:
    path = tmp_path / "model.py"
    path.write_text(OWN)
    return path


def test_a_function_in_a_file_builds_the_victim(own):
    assert load_victim(f"{HERE}:organ").name == "organ"
    victim = load_victim(f"{own}:build")
    assert isinstance(victim, Victim) and victim.name == "built" and victim.device == torch.device("cpu")


def test_an_object_in_a_file_is_the_victim(own):
    assert load_victim(f"{own}:made").name == "own"


def test_an_object_made_for_another_device_is_moved(own, monkeypatch):
    monkeypatch.setattr(load, "check_device", lambda device: torch.device("meta"))
    victim = load_victim(f"{own}:made", "elsewhere")
    assert victim.device.type == "meta" and victim.network.weight.device.type == "meta"


def test_two_files_of_one_name_are_two_victims(tmp_path):
    for folder, name in (("a", "first"), ("b", "second")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.py").write_text(OWN.replace('"built"', f'"{name}"'))
    assert load_victim(f"{tmp_path / 'a' / 'model.py'}:build").name == "first"
    assert load_victim(f"{tmp_path / 'b' / 'model.py'}:build").name == "second"


@pytest.mark.parametrize(
    "name, words",
    [
        ("missing", "'missing' in"),
        ("number", "is no Victim nor a function that returns one"),
        ("nothing", "is no Victim nor a function that returns one"),
        ("fail", "could not be run (KeyError: 'weights'); fix the error and try again."),
        ("refuse", "The weights are elsewhere; fetch them."),
    ],
)
def test_what_is_no_victim_is_refused_in_words(own, name, words):
    with pytest.raises(InputError) as refusal:
        load_victim(f"{own}:{name}")
    assert words in str(refusal.value)


@pytest.mark.parametrize("code", ["def broken(:", "import no_such_module_anywhere", "raise SystemExit(3)", "1 / 0"])
def test_files_that_do_not_run_are_refused_in_words(tmp_path, code):
    path = tmp_path / "model.py"
    path.write_text(code)
    with pytest.raises(InputError, match="could not be run"):
        load_victim(f"{path}:build")


@pytest.mark.parametrize(
    "spec, words",
    [
        ("nowhere.py:build", "There is no Python file 'nowhere.py'; give FILE.py:NAME."),
        ("ct-organ", "Unknown victim 'ct-organ'; did you mean 'ct-organs'?"),
        ("CT-Organs-2D", "did you mean 'ct-organs-2d'?"),
        (
            "unet",
            "Unknown victim 'unet'; there are ct-organs, ct-organs-hardened, ct-organs-2d, or FILE.py:NAME, FILE.ts",
        ),
        ("model.py", "FILE.py:NAME"),
        ("", "Unknown victim ''"),
    ],
)
def test_unknown_victims_are_refused_with_a_near_name(spec, words):
    with pytest.raises(InputError) as refusal:
        load_victim(spec)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_built_in_victims_are_built_on_the_device_asked_for(monkeypatch):
    asked = []
    monkeypatch.setitem(zoo.BUILT_IN, "ct-organs", lambda device: asked.append(device) or victims.organ(device))
    load_victim("ct-organs", "cpu")
    assert asked == [torch.device("cpu")]


@pytest.mark.parametrize("name", zoo.BUILT_IN)
def test_built_in_victims_state_what_they_are(name):
    said = load_victim(name).describe()
    assert "Not a medical device" in said["intended_use"]
    assert "no patient" in said["training_data"] and "phantoms" in said["training_data"]
    assert "Kidneys without contrast" in said["limits"]


@pytest.mark.parametrize(
    "device, words",
    [
        ("banana", "Unknown device 'banana'; use cpu or cuda."),
        ("meta", "Device 'meta' isn't supported; use cpu or cuda."),
        ("cuda:99", "This machine has no device 'cuda:99'; use --device cpu."),
    ],
)
def test_devices_that_are_not_there_are_refused_in_words(device, words):
    with pytest.raises(InputError) as refusal:
        check_device(device)
    assert words in str(refusal.value)


def test_the_cpu_is_always_there():
    assert check_device("cpu") == torch.device("cpu")
