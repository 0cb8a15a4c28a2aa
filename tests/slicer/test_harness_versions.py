"""Logic and rendering with the other published version of slicer-core, on another Python."""

import importlib.metadata
import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CONSTRAINTS = HERE.parents[1] / "constraints.txt"
OTHER = "5.12.4.0"
LOGIC = "harness harness_module harness_views geometry nrrd results scene charts views pixels navigation blink saving"
WANTED = ("PySide6-Essentials", "pytest", "pytest-timeout", "requests", "numpy")


def find_python() -> str | None:
    """A Python 3.12 that runs; a version manager's own is looked for, as its shim may stand for none."""
    managed = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions").glob("3.12*/bin/python")
    for candidate in [shutil.which("python3.12"), *sorted(map(str, managed))]:
        if candidate and subprocess.run([candidate, "-c", "import venv"], capture_output=True).returncode == 0:
            return candidate
    return None


@pytest.fixture
def other_python(tmp_path):
    """Python of an environment with the other version; gone afterwards, as it takes a gigabyte."""
    python = find_python()
    if python is None:
        pytest.skip("needs Python 3.12 beside this one")
    constraints = tmp_path / "constraints.txt"
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    constraints.write_text("\n".join(line for line in lines if not line.startswith("slicer-core")), encoding="utf-8")
    subprocess.run([python, "-m", "venv", str(tmp_path / "venv")], check=True)
    made = tmp_path / "venv" / "bin" / "python"
    install = [str(made), "-m", "pip", "install", "--quiet", "-c", str(constraints), f"slicer-core=={OTHER}", *WANTED]
    subprocess.run(install, check=True)
    yield made
    shutil.rmtree(tmp_path / "venv")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_other_published_version_passes(other_python):
    program = "import importlib.metadata as m, sys; print(m.version('slicer-core'), *sys.version_info[:2])"
    found = subprocess.run([str(other_python), "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == [OTHER, "3", "12"] and importlib.metadata.version("slicer-core") != OTHER
    command = [str(other_python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--without-server"]
    command += [str(HERE / f"test_{name}.py") for name in LOGIC.split()]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
