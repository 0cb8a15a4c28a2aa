"""docs/evaluate.md runs as it stands, from scans to the card."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("pyarrow", reason="studies need the extra 'study'")

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(r"```(sh|yaml|python)\n(.*?)```", (ROOT / "docs" / "evaluate.md").read_text("utf-8"), re.DOTALL)


@pytest.mark.slow
def test_the_page_runs_as_it_stands(tmp_path):
    """In order: its recomputation agrees with the study to 1e-12, as it asserts itself, and with the verdict."""
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(ROOT / "core")}
    said = []
    for kind, text in BLOCKS:
        if kind == "yaml":
            (tmp_path / "evaluation.yaml").write_text(text, encoding="utf-8")
            continue
        command = ["bash", "-e", "-c", text] if kind == "sh" else [sys.executable, "-c", text]
        ran = subprocess.run(
            command, cwd=tmp_path, env={**environment, "HOME": str(tmp_path)}, capture_output=True, text=True
        )
        assert ran.returncode == 0, ran.stderr + ran.stdout
        said.append(ran.stdout)
    _, price, study, verified, recomputed = said
    assert "2 attacks and 2 judgements" in price
    before, after = re.fullmatch(r"from (\d\.\d+) to (\d\.\d+)\n", recomputed).groups()
    assert f"{float(before):.2f}" in study and f"{float(after):.2f}" in study
    record = json.loads((tmp_path / "evaluation" / "study.json").read_text(encoding="utf-8"))
    assert re.search(r"^All [1-9]\d\d+ values that can be recomputed hold\.", verified, re.MULTILINE)
    (kept,) = record["worst"]
    assert (tmp_path / "evaluation" / kept["folder"] / "result.json").is_file()
    card = yaml.safe_load((tmp_path / "evaluation" / "card.yaml").read_text(encoding="utf-8"))
    assert card["criterion_fixed_before"].startswith("at 4 HU") and card["result"] == record["verdict"]
    assert any("step" in sentence for sentence in card["what_it_cannot_carry"])
