"""The examples of docs/server.md do what they say, run as they stand."""

import re
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "server.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```sh\n(.*?)```", PAGE.partition("## The job API")[2], re.DOTALL)


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="needs curl and jq")
def test_every_example_runs_as_it_stands(server, tmp_path):
    """In one shell, in order; the last is a refusal, whose answer the page quotes."""
    scan = nib.load(server.studies / "case_a.nii.gz")
    for name in ("label", "roi"):
        nib.save(nib.Nifti1Image(np.ones(scan.shape, np.uint8), scan.affine), tmp_path / f"{name}.nii.gz")
    shutil.copyfile(server.studies / "case_a.nii.gz", tmp_path / "scan.nii.gz")
    *works, refusal = EXAMPLES
    script = "\n".join(works).replace("http://127.0.0.1:8000", server.url)
    told = run(script, server, tmp_path)
    assert told.returncode == 0, told.stderr + told.stdout
    said = told.stdout.split("\n")
    assert said[0] == '"1.0"' and '"done"' in said and '"segment"' in said and '"margin"' in said
    assert (tmp_path / "adversarial.nrrd").read_bytes().startswith(b"NRRD0005")
    assert (tmp_path / "result.zip").read_bytes().startswith(b"PK")
    told = run(works[0].replace("http://127.0.0.1:8000", server.url) + refusal, server, tmp_path)
    assert told.returncode != 0
    assert told.stdout.strip() == refusal.split("# ")[1].strip()


def run(script: str, server, folder: Path) -> subprocess.CompletedProcess:
    shell = ["bash", "-e", "-o", "pipefail", "-O", "expand_aliases", "-c", script]
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "PERTURBOX_TOKEN": server.token, "NO_PROXY": "127.0.0.1"}
    return subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
