"""docs/own-models.md: the commands of every framework's section run as they stand, in a folder with small models."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import test_bundle
import test_nnunet_folder
import tiny
from test_nnunet_folder import package  # noqa: F401  (a stand-in for nnU-Net's networks)

from perturbox import io
from perturbox.cli import main
from perturbox.job.folder import verify
from perturbox.load import load_victim

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "own-models.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
NNUNET = "nnUNetTrainer__nnUNetPlans__3d_fullres"
TASK = "Dataset297_TotalSegmentator_total_3mm/nnUNetTrainer_4000epochs_NoMirroring__nnUNetPlans__3d_fullres"
PLAN = {"spacing": [3.0, 3.0, 3.0]}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A CT and an MR on one small grid, in the working folder."""
    monkeypatch.chdir(tmp_path)
    tiny.write_scan("ct.nii.gz")
    io.write_volume(Path("mr.nii.gz"), test_nnunet_folder.scan())
    return tmp_path


def blocks(section: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", SECTIONS[section], re.DOTALL | re.MULTILINE)


def run(section: str, capsys) -> dict[str, str]:
    """Every `perturbox` line of a section, in order; what each printed. A json block is saved as the file before it
    is named."""
    printed: dict[str, str] = {}
    for block in re.findall(r"^```(\w*)\n(.*?)^```", SECTIONS[section], re.DOTALL | re.MULTILINE):
        if block[0] == "python":
            exec(compile(block[1], "docs/own-models.md", "exec"), {})
        elif block[0] == "json":
            Path(f"{json.loads(block[1])['name']}.json").write_text(block[1], encoding="utf-8")
        for line in block[1].splitlines() if not block[0] else ():
            if line.startswith("perturbox "):
                assert main(line.split()[1:]) == 0, (line, capsys.readouterr().err)
                printed[line] = capsys.readouterr().out
    return printed


def attacked(folder: Path, spec: str, trust: bool = False) -> dict:
    """result.json of an attack whose folder verifies; its model is the one that was named."""
    result = json.loads((folder / "result.json").read_text())
    assert verify(folder, trust=True) == []
    assert result["victim"]["sha256"] == load_victim(spec, trust=trust).sha256
    return result


def test_a_bundle(folder, capsys):
    test_bundle.make(Path("spleen_ct_segmentation"))
    printed = run("A MONAI bundle", capsys)
    found = json.loads(Path("check_bundle/check.json").read_text(encoding="utf-8"))
    assert [step["name"] for step in found["steps"]] == ["orient", "spacing", "range"]
    assert found["derivative_error"] < 1e-2 and found["executed"] == [] and Path("check_bundle/check.html").is_file()
    assert len(printed) == 3 and attacked(Path("attacked_bundle"), "spleen_ct_segmentation")["budget"]["eps"] == 10
    assert not Path("ran").exists()


def test_a_folder_of_nnunet(folder, capsys):
    spec = f"nnunet:{test_nnunet_folder.make(Path(NNUNET), folds=2)}:folds=0"
    scan = io.read_volume("mr.nii.gz", unit="intensity")
    Path("predicted").mkdir()
    io.write_labels(Path("predicted/mr.nii.gz"), load_victim(spec).predict(scan), scan)
    run("nnU-Net", capsys)
    found = json.loads(Path("check_nnunet/check.json").read_text(encoding="utf-8"))
    assert found["against"]["differ"] == 0
    budget = attacked(Path("attacked_nnunet"), spec)["budget"]
    assert (budget["unit_asked"], budget["eps_asked"]) == ("percent", 5)
    assert budget["measured"]["linf"] <= budget["eps"] * (1 + 1e-6) and budget["eps"] < 0.05 * np.ptp(scan.data)
    labels = io.read_labels(Path("nnunet_labels.nii.gz"), scan)
    assert np.array_equal(labels, load_victim(spec).predict(scan))


def test_a_task_of_totalsegmentator(folder, capsys):
    Path(TASK).parent.mkdir()
    made = test_nnunet_folder.make(Path(TASK), "CT", labels={"background": 0, "spleen": 1, "liver": 2}, plan=PLAN)
    printed = run("A task of TotalSegmentator", capsys)
    assert "Not differentiable: totalsegmentator-zoom;" in next(iter(printed.values()))
    assert attacked(Path("attacked_task"), f"totalsegmentator:{made}")["attack"]["parameters"]["target"] == ["liver"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript(folder, capsys):
    printed = run("TorchScript", capsys)
    assert next(iter(printed.values())).startswith("Sidecar: mine.json")
    result = attacked(Path("attacked_script"), "mine.ts", trust=True)
    assert result["victim"]["labels"] == {"background": 0, "organ": 1}


def test_a_plain_module(folder, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "victims.md").read_text(encoding="utf-8"), re.DOTALL)
    Path("my_model.py").write_text(code, encoding="utf-8")
    run("A plain module", capsys)
    assert attacked(Path("attacked_module"), "my_model.py:my_model")["budget"]["eps"] == 60
    assert json.loads(Path("check_module/check.json").read_text(encoding="utf-8"))["derivative_error"] < 1e-2


def test_every_section_is_run():
    assert [*SECTIONS] == ["A MONAI bundle", "nnU-Net", "A task of TotalSegmentator", "TorchScript", "A plain module"]
