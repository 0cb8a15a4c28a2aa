"""What others build on: commands, options and defaults, files and keys, exit statuses. A change here breaks them."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "core"))
import tiny

from perturbox import defaults
from perturbox.cli import main
from perturbox.cli.commands import command

TINY = f"{Path(tiny.__file__)}:volume"
REQUIRED = object()

SCAN_JOB = {"--victim": "ct-organs", "--device": "cpu", "--force": False}
ATTACK_JOB = {**SCAN_JOB, "--attack": defaults.ATTACK, "--target": None, "--steps": None, "--set": None, "--seed": 0}
ATTACK_JOB |= {"--trust": False, "--allow-cut-gradient": False, "--full-report": False}
COMMANDS = {
    "demo": {"--out": None, "--scan": None, "--phantoms": None},
    "attack": {
        **ATTACK_JOB,
        "IMAGE": REQUIRED,
        "--out": REQUIRED,
        "--eps-unit": "native",
        "--eps": None,  # 4 HU, or what limits an attack with a budget of its own
        "--norm": "linf",
        "--goal": "change",
        "--label": None,
        "--label-map": None,
        "--roi": None,
        "--surrogate": None,
        "--defense": None,
    },
    "margin": {
        **ATTACK_JOB,
        "IMAGE": REQUIRED,
        "--out": REQUIRED,
        "--max-eps": None,
        "--eps-unit": "native",
        "--surrogate": None,
        "--defense": None,
    },
    "segment": {**SCAN_JOB, "IMAGE": REQUIRED, "--out": REQUIRED, "--trust": False, "--defense": None},
    "fit-features": {
        **SCAN_JOB,
        "SCAN": REQUIRED,
        "--out": REQUIRED,
        "--layer": None,
        "--components": 4,
        "--passes": 8,
        "--seed": 0,
    },
    "fit-detector": {
        **SCAN_JOB,
        "--out": REQUIRED,
        "--clean": REQUIRED,
        "--detector": "mahalanobis",
        "--attacked": None,
        "--noise": "equal-norm",
        "--patient": None,
        "--layer": None,
        "--rate": 0.05,
        "--seed": 0,
        "--trust": False,
    },
    "detect": {
        **SCAN_JOB,
        "IMAGE": REQUIRED,
        "--detector": REQUIRED,
        "--out": None,
        "--trust": False,
        "--json": False,
    },
    "list": {"KIND": REQUIRED, "NAME": None, "--json": False},
    "report": {"DIR": REQUIRED, "--scan": None, "--full-report": False},
    "compare": {"DIR": REQUIRED, "--out": REQUIRED},
    "verify": {"DIR": REQUIRED, "--trust": False},
    "replay": {"DIR": REQUIRED, "--out": REQUIRED, "--trust": False},
    "certify": {
        **SCAN_JOB,
        "IMAGE": REQUIRED,
        "--out": REQUIRED,
        "--sigma": REQUIRED,
        "--tau": defaults.TAU,
        "--alpha": defaults.ALPHA,
        "--n0": defaults.CHOOSERS,
        "--n": None,
        "--correction": "holm",
        "--roi": None,
        "--adaptive": False,
        "--group": None,
        "--seed": 0,
        "--trust": False,
    },
    "serve": {
        "--studies": None,
        "--study-results": None,
        "--host": "127.0.0.1",
        "--port": 8000,
        "--victim": None,
        "--detector": None,
        "--token": None,
        "--scheduler": None,
        "--home": None,
        "--device": "cpu",
        "--cors": None,
        "--trust": False,
        "--verbose": False,
    },
    "study": {
        "FILE": REQUIRED,
        "--out": REQUIRED,
        "--workers": None,
        "--scheduler": None,
        "--dry-run": False,
        "--again": False,
        "--device": "cpu",
        "--trust": False,
    },
    "victim sidecar": {"SPEC": REQUIRED, "--trust": False},
    "victim check": {
        "SPEC": REQUIRED,
        "IMAGE": REQUIRED,
        "--against": None,  # "framework", or a label map
        "--framework-python": None,
        "--out": None,
        "--device": "cpu",
        "--trust": False,
        "--json": False,
    },
}


@pytest.mark.parametrize("name", COMMANDS)
def test_options_and_defaults(name):
    places = {
        "image": "IMAGE",
        "scans": "SCAN",
        "kind": "KIND",
        "folder": "DIR",
        "folders": "DIR",
        "name": "NAME",
        "spec": "SPEC",
        "file": "FILE",
    }
    found = {}
    found_command = command()
    for word in name.split():
        found_command = found_command.commands[word]
    for parameter in found_command.params:
        key = parameter.opts[0] if parameter.param_type_name == "option" else places[parameter.name]
        found[key] = REQUIRED if parameter.required else parameter.default
    assert found == COMMANDS[name]


def test_there_are_these_commands_and_global_options():
    assert list(command().commands) == list(dict.fromkeys(name.split()[0] for name in COMMANDS))
    assert list(command().commands["victim"].commands) == ["sidecar", "check"]
    assert [parameter.opts for parameter in command().params] == [["--version"], ["--debug"]]


# ---------------------------------------------------------------- the result folder

NUMBER = (int, float)
MAYBE = (int, float, type(None))
SCORES = {"dice": MAYBE, "iou": MAYBE, "hd95_mm": MAYBE, "nsd": MAYBE, "volume_ml": NUMBER}
STRUCTURES = ("liver", "bone")
FILE = {"path": str, "sha256": str}
RESULT = {
    "schema": str,
    "notice": str,
    "attack": {
        "name": str,
        "title": str,
        "parameters": dict,
        "paper": str,
        "deviations": list,
        "own_budget": (dict, type(None)),
    },
    "victim": {
        "name": str,
        "title": str,
        "spec": str,
        "sha256": str,
        "labels": dict,
        "spacing_mm": (list, type(None)),
        "window": list,
        "intensity_window": (list, type(None)),
        "unit": str,
        "dims": int,
        "channels": int,
        "channel_names": list,
        "licence": str,
        "intended_use": str,
        "training_data": str,
        "limits": str,
    },
    "surrogates": list,
    "crafted_on": list,
    "source": {
        "format": str,
        "dtype": str,
        "shape": list,
        "spacing_mm": list,
        "sizes": str,
        "sha256": (str, type(None)),
        "unit": str,
    },
    "summary": {"headline": str, "broken": list, "look": {"structure": str, "axis": int, "index": int}},
    "reference": str,
    "outlined": type(None),
    "budget": {
        "eps": NUMBER,
        "unit": str,
        "unit_asked": str,
        "eps_asked": NUMBER,
        "norm": str,
        "step": MAYBE,
        "measured": {"linf": NUMBER, "l2": NUMBER, "l0": NUMBER},
    },
    "noise": {"sigma": MAYBE, "region": str, "rms_over_sigma": MAYBE, "eps_over_sigma": MAYBE},
    "metrics": {which: dict.fromkeys(STRUCTURES, SCORES) for which in ("clean", "adversarial", "against_clean")},
    "limits": {"dice": NUMBER, "volume_change": NUMBER, "hd95_mm": NUMBER, "slice_dice": NUMBER, "failed_slices": int},
    "verdicts": dict.fromkeys(STRUCTURES, str),
    "flow": [{"from": str, "to": str, "ml": NUMBER}],
    "precision": type(None),
    "untested": (str, dict, type(None)),
    "image_metrics": {
        "psnr_db": MAYBE,
        "ssim": MAYBE,
        "data_range_hu": NUMBER,
        "energy_above_grid": NUMBER,
        "uninfluential_fraction": MAYBE,
        "unreachable_fraction": NUMBER,
    },
    "success": {"rule": str, "value": NUMBER, "threshold": NUMBER, "succeeded": bool},
    "control": {
        **{which: {"dice": dict.fromkeys(STRUCTURES, MAYBE)} for which in ("noise", "rolled", "benign")},
        "own": type(None),
    },
    "margin": type(None),
    "members": type(None),
    "slices": [{"structure": str, "axis": int, "index": int, "dice": NUMBER, "lost": int, "gained": int}],
    "trace": [
        {
            "step": int,
            "restart": int,
            "member": type(None),
            "loss": MAYBE,
            "score": NUMBER,
            "dice": dict,
            "linf": NUMBER,
        }
    ],
    "best": {"step": int, "restart": int, "score": NUMBER},
    "effort": {
        "forwards": NUMBER,
        "backwards": NUMBER,
        "model_calls": int,
        "seconds": MAYBE,
        "cpu_seconds": MAYBE,
        "peak_bytes": (int, type(None)),
    },
    "versions": dict.fromkeys(("perturbox", "python", "torch", "monai", "numpy", "SimpleITK", "nibabel"), str),
    "device": str,
    "threads": int,
    "window_batch": int,
    "seed": int,
    "force": bool,
    "stopped_early": (str, type(None)),
    "replayable": bool,
    "warnings": list,
    "files": {
        "adversarial": FILE,
        "clean_seg": FILE,
        "adversarial_seg": FILE,
        "difference_seg": FILE,
        "perturbation": FILE,
        "influence": FILE,
        "reference_seg": type(None),
        "roi": type(None),
    },
}
FILES = [
    "adversarial.nii.gz",
    "adversarial_seg.nii.gz",
    "clean_seg.nii.gz",
    "difference_seg.nii.gz",
    "influence.nii.gz",
    "perturbation.nii.gz",
    "report.html",
    "result.json",
]
MARGIN_ROW = {
    "verdict": str,
    "reason": (str, type(None)),
    "breaks_at": MAYBE,
    "used": MAYBE,
    "above": MAYBE,
    "limit": (str, type(None)),
    "witness": (str, type(None)),
    "in_sigma": MAYBE,
}


def follows(value, form, place="result") -> None:
    """The value has exactly the keys of the form, and types as in it."""
    if isinstance(form, dict):
        assert isinstance(value, dict) and set(value) == set(form), f"{place}: {sorted(set(value) ^ set(form))}"
        for key, inner in form.items():
            follows(value[key], inner, f"{place}.{key}")
    elif isinstance(form, list):
        assert value, place
        for entry in value:
            follows(entry, form[0], f"{place}[]")
    else:
        assert isinstance(value, form), f"{place} is {value!r}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("contract")
    tiny.write_scan(folder / "ct.nii.gz")
    arguments = ["attack", str(folder / "ct.nii.gz"), "--victim", TINY, "--eps", "10", "--steps", "2"]
    assert main([*arguments, "--out", str(folder / "R")]) == 0
    return folder


def test_files_of_a_result(folder):
    assert sorted(path.name for path in (folder / "R").iterdir()) == FILES


def test_keys_of_result_json(folder):
    result = json.loads((folder / "R" / "result.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    follows(result, RESULT)
    assert result["schema"] == "perturbox-result/2"
    assert result["notice"] == "ADVERSARIAL - NOT FOR CLINICAL USE"
    assert set(result["attack"]["parameters"]) >= {"eps", "norm", "steps", "goal", "target"}
    assert {row["axis"] for row in result["slices"]} == {0, 1, 2}
    assert [row["step"] for row in result["trace"]] == [0, 1, 2]


def test_keys_of_margin_json(folder):
    arguments = ["margin", str(folder / "ct.nii.gz"), "--victim", TINY, "--max-eps", "2", "--steps", "1"]
    assert main([*arguments, "--target", "bone", "--out", str(folder / "M")]) == 0
    margin = json.loads((folder / "M" / "margin.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert margin["schema"] == "perturbox-margin/1"
    assert margin["notice"] == "ADVERSARIAL - NOT FOR CLINICAL USE"
    follows(margin["structures"], {"bone": MARGIN_ROW})
    assert {"sigma", "region"} <= set(margin["noise"])
    assert margin["structures"]["bone"]["breaks_at"] is None and margin["structures"]["bone"]["above"] == 2


# ---------------------------------------------------------------- lists and exit statuses

ATTACK = {
    "name": str,
    "title": str,
    "paper": str,
    "space": str,
    "norm": list,
    "dims": list,
    "targeted": bool,
    "access": str,
    "family": str,
    "use": str,
    "default": bool,
    "steps": int,
    "notes": list,
    "own_budget": (dict, type(None)),
    "cost": str,
    "parameters": list,
    "deviations": list,
}
PARAMETER = {
    "name": str,
    "type": str,
    "unit": str,
    "default": object,
    "minimum": MAYBE,
    "maximum": MAYBE,
    "choices": (list, type(None)),
    "help": str,
    "local": bool,
}
DEFENSE = {
    "name": str,
    "title": str,
    "paper": str,
    "unit": str | None,
    "random": bool,
    "stand_ins": list,
    "inverse": str,
    "parameters": list,
    "deviations": list,
}
DETECTOR = {
    "name": str,
    "title": str,
    "paper": str,
    "sees": str,
    "supervised": bool,
    "two_sided": bool,
    "differentiable": bool,
    "shipped_for": list,
    "deviations": list,
}
VICTIM = {
    "name": str,
    "title": str,
    "labels": dict,
    "spacing_mm": (list, type(None)),
    "window": list,
    "unit": str,
    "dims": int,
    "channels": int,
    "channel_names": list,
    "licence": str,
    "intended_use": str,
    "training_data": str,
    "limits": str,
    "intensity_window": (list, type(None)),
}


def listed(*which, capsys):
    capsys.readouterr()
    assert main(["list", *which, "--json"]) == 0
    return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


def test_list_of_attacks(capsys):
    found = listed("attacks", capsys=capsys)
    follows(found, [ATTACK])
    assert listed("attacks", "pgd", capsys=capsys) == [entry for entry in found if entry["name"] == "pgd"]
    assert {"noise", "fgsm", "bim", "pgd", "mi-fgsm"} <= {entry["name"] for entry in found}
    assert all(entry["access"] in ("white", "black") for entry in found)
    for entry in found:
        assert entry["parameters"], entry["name"]
        follows(entry["parameters"], [PARAMETER], entry["name"])
        assert {parameter["type"] for parameter in entry["parameters"]} <= {"float", "int", "bool", "str"}
    assert [entry["name"] for entry in found if entry["default"]] == [defaults.ATTACK]
    (pgd,) = (entry for entry in found if entry["name"] == "pgd")
    found = {parameter["name"]: parameter["default"] for parameter in pgd["parameters"]}
    assert found == {"loss": "dice-ce", "alpha": None, "random_start": True, "restarts": 1}


def test_list_of_victims(capsys, monkeypatch):
    from perturbox import zoo

    monkeypatch.setattr(zoo, "BUILT_IN", {"tiny": tiny.volume})
    found = listed("victims", capsys=capsys)
    follows(found, [VICTIM])
    assert found[0]["labels"] == {"background": 0, "liver": 1, "bone": 2}


def test_list_of_defenses(capsys):
    found = listed("defenses", capsys=capsys)
    follows(found, [DEFENSE])
    for entry in found:
        follows(entry["parameters"], [PARAMETER], entry["name"])
    names = "aegis bit-depth dct gaussian lgs median park smoothing tv"
    assert [entry["name"] for entry in found] == names.split()


def test_the_list_of_detectors(capsys):
    found = listed("detectors", capsys=capsys)
    follows(found, [DETECTOR])
    assert [entry["name"] for entry in found if entry["supervised"]] == ["dnn", "svm"]
    assert [entry["name"] for entry in found] == sorted(entry["name"] for entry in found) and len(found) == 10


def test_exit_statuses(folder, capsys, monkeypatch):
    assert main(["verify", str(folder / "R"), "--trust"]) == 0
    assert main(["verify", str(folder)]) == 2
    assert main(["attack", str(folder / "ct.nii.gz"), "--victim", TINY, "--out", str(folder / "R")]) == 2

    def broken(*arguments, **settings):
        raise RuntimeError

    monkeypatch.setattr("perturbox.job.folder.examine", broken)
    assert main(["verify", str(folder / "R"), "--trust", "--debug"]) == 1
