"""What the server needs is what the extra lists; the wheel carries the app; nothing drags CUDA in."""

import ast
import json
import os
import re
import subprocess
import sys
import time
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement
from serving import APP, ROOT, clean_environment, free_port

from perturbox import serve

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WITHOUT_DEPENDENCIES = ("monailabel", "pydicom-seg")
# Every datastore, the client, the server, and what runs in the processes it starts.
USED = (
    "monailabel.main, monailabel.app, monailabel.client, monailabel.interfaces.utils.app, "
    "monailabel.datastore.local, monailabel.datastore.dicom, monailabel.datastore.xnat, monailabel.datastore.dsa"
)
# Modules of ours that the server process or a worker loads.
OURS = (
    "perturbox.jobs, perturbox.job.margins, lib.api, lib.guard, lib.infers, lib.scoring, "
    "lib.activelearning, lib.trainers"
)
SHOW = f"""
import json, sys, warnings
warnings.simplefilter("ignore")
import {USED}, {OURS}
from importlib.metadata import packages_distributions
known = packages_distributions()
modules = {{name.partition(".")[0] for name in sys.modules}}
sources = [module.__file__ for name, module in sys.modules.items() if name.startswith("monailabel.")]
print("FOUND", json.dumps([{{name: known.get(name, []) for name in modules}}, [file for file in sources if file]]))
"""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(requirements: list[str]) -> set[str]:
    """Distributions that installing these brings, by what the installed ones say of themselves."""
    found: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(line) for line in requirements]
    while waiting:
        requirement = waiting.pop()
        key = (normal(requirement.name), frozenset(requirement.extras))
        if key in found:
            continue
        found.add(key)
        try:
            lines = distribution(requirement.name).requires or []
        except PackageNotFoundError:
            continue  # for another system
        for inner in map(Requirement, lines):
            extras = requirement.extras or {""}
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(inner)
    return {name for name, _ in found}


@pytest.fixture(scope="module")
def imported() -> tuple[dict[str, list[str]], list[Path]]:
    """({top-level module: distributions that may hold it}, MONAI Label's own files) of a fresh process that imported
    all that the server uses."""
    result = subprocess.run(
        [sys.executable, "-c", SHOW],
        env=clean_environment(PYTHONPATH=f"{ROOT / 'core'}{os.pathsep}{APP}"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("FOUND ")]
    modules, files = json.loads(line.removeprefix("FOUND "))
    return modules, [Path(file) for file in files]


@pytest.fixture(scope="module")
def loaded(imported) -> dict[str, list[str]]:
    return imported[0]


def test_all_that_is_loaded_comes_with_the_extra(loaded):
    """What is only there because something else brought it would be missing in a fresh environment."""
    installed = closure([*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["server"]])
    installed |= {"perturbox", *WITHOUT_DEPENDENCIES}
    # Libraries look what else there is, and take it where it is there; none of these is needed. The last are copies
    # that setuptools keeps.
    optional = closure(
        [
            "matplotlib",
            "pandas",
            "pyarrow",
            "scikit-learn",
            "scikit-image",
            "torchio",
            "bcrypt",
            "pysocks",
            "sniffio",
            "setuptools",
            "pytest",
            "pygments",
            "packaging",
        ]
    )
    optional |= {"backports-tarfile", "jaraco-context", "jaraco-functools", "jaraco-text", "more-itertools"}
    homeless = {
        name: kinds
        for name, kinds in loaded.items()
        if kinds and not {normal(kind) for kind in kinds} & (installed | optional)
    }
    assert homeless == {}


def test_monai_labels_own_imports_are_all_listed(imported):
    """Read from the source of the modules loaded, so that no import hides behind what another package brings."""
    loaded, files = imported
    names = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    lines = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["server"]
    listed = {normal(Requirement(line).name) for line in lines} | set(WITHOUT_DEPENDENCIES)
    brought = {name: {normal(kind) for kind in loaded.get(name, [])} for name in names}
    assert len(brought) > 20
    # `google` is many distributions' namespace; one of them being listed is enough.
    assert {name: kinds for name, kinds in brought.items() if kinds and not kinds & listed} == {}


@pytest.mark.parametrize("module", ["torchvision", "sam2", "mlflow", "openslide", "tensorboard", "ignite"])
def test_nothing_loads_what_breaks_or_weighs(loaded, module):
    """torchvision from PyPI is linked against CUDA and fails to import beside a CPU build of torch."""
    assert module not in loaded


@pytest.mark.parametrize("word", ["BasicInferTask", "monailabel.transform", "monailabel.tasks.infer", "torchvision"])
def test_the_app_stays_clear_of_monai_labels_broken_parts(word):
    """BasicInferTask fails on NIfTI with MONAI 1.6, and its transforms import torchvision."""
    assert [path.name for path in APP.rglob("*.py") if word in path.read_text(encoding="utf-8")] == []


def test_setup_installs_monai_label_without_its_list_and_everything_under_the_pins():
    script = (ROOT / "scripts" / "setup").read_text(encoding="utf-8")
    (line,) = [line for line in script.splitlines() if "--no-deps" in line]
    assert line.split()[-2:] == list(WITHOUT_DEPENDENCIES)
    assert script.count("-m pip install") == 1 and "-c constraints.txt" in script


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_carries_the_app_and_serve_finds_it_there(wheel, tmp_path, monkeypatch):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    carried = {
        path.relative_to(tmp_path / "perturbox" / "_app") for path in (tmp_path / "perturbox/_app").rglob("*.py")
    }
    assert carried == {path.relative_to(APP) for path in APP.rglob("*.py")}
    monkeypatch.setattr(serve.perturbox, "__file__", str(tmp_path / "perturbox" / "__init__.py"))
    assert serve.find_app() == tmp_path / "perturbox" / "_app"


def test_an_editable_install_serves_the_checkouts_app():
    assert serve.find_app() == APP


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_wheel_in_a_clean_environment_serves(wheel, tmp_path):
    """With the two commands that the documents give, outside the checkout, with nothing of it on any path."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    scripts = environment / ("Scripts" if os.name == "nt" else "bin")
    pip = [scripts / "python", "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, f"perturbox[server] @ {wheel.as_uri()}"], check=True)
    subprocess.run([*pip, "--no-deps", *WITHOUT_DEPENDENCIES], check=True)
    listing = subprocess.run([scripts / "python", "-m", "pip", "list"], capture_output=True, text=True, check=True)
    assert not re.search(r"^(nvidia|torchvision|triton)", listing.stdout, re.MULTILINE)

    port = free_port()
    clean = {name: value for name, value in clean_environment().items() if name != "PYTHONPATH"}
    clean["PERTURBOX_HOME"] = str(tmp_path / "data")
    command = [scripts / "perturbox", "serve", "--port", str(port), "--victim", "ct-organs"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=clean, stdout=log, stderr=log)
    try:
        models = until_up(f"http://127.0.0.1:{port}/info/", server, tmp_path / "log")["models"]
        assert {"ct-organs", "ct-organs-pgd"} <= set(models)
        assert [path.name for path in (tmp_path / "data").iterdir() if path.name.startswith("app-")]
    finally:
        server.terminate()
        server.wait(30)


def until_up(url: str, server: subprocess.Popen, log: Path) -> dict:
    end = time.monotonic() + 300
    while time.monotonic() < end and server.poll() is None:
        try:
            return httpx.get(url, timeout=10, trust_env=False).json()
        except httpx.TransportError:
            time.sleep(0.3)
    raise AssertionError(log.read_text(encoding="utf-8")[-4000:])
