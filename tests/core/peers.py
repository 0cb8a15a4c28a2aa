"""Other packages for the length of a test, without what else they would pull in."""

import importlib
import json
import os
import subprocess
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SITE = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
ALONE = ["nnunetv2", "dynamic-network-architectures", "batchgenerators", "batchgeneratorsv2", "acvl-utils"]
NEEDED = ["scikit-image", "scikit-learn", "threadpoolctl", "connected-components-3d", "blosc2", "einops", "graphviz",
          "tifffile", "matplotlib", "seaborn", "imagecodecs", "yacs", "future", "tqdm", "pandas", "requests",
          "pytorch-ignite"]  # fmt: skip


@contextmanager
def installed(
    folder: Path, requirement: str, modules: Sequence[str], absent: Mapping[str, Any] | None = None
) -> Iterator[list[Any]]:
    """The modules of a package that is installed into `folder`; skips the test where it can't be.

    The packages they lie in are entered empty, so that none of their __init__ runs. absent: {"module.name": value} in
    place of modules that are imported but not used.
    """
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    done = subprocess.run(
        [*command, "-c", str(ROOT / "constraints.txt"), requirement], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        pytest.skip(f"{requirement} could not be installed: {reason}")
    stand_ins: dict[str, types.ModuleType] = {}
    for name in [*modules, *(absent or {})]:
        parts = name.split(".")
        for depth in range(1, len(parts)):
            package = types.ModuleType(".".join(parts[:depth]))
            package.__path__ = [str(folder.joinpath(*parts[:depth]))]
            stand_ins.setdefault(package.__name__, package)
    for name, value in (absent or {}).items():
        place, _, attribute = name.rpartition(".")
        stand_ins[place] = types.ModuleType(place)
        setattr(stand_ins[place], attribute, value)
    sys.modules |= stand_ins
    try:
        yield [importlib.import_module(name) for name in modules]
    finally:
        root = modules[0].split(".")[0]
        for name in [name for name in sys.modules if name.split(".")[0] == root]:
            del sys.modules[name]


@contextmanager
def appended(folder: str) -> Iterator[None]:
    """A folder at the end of sys.path, so that nothing of it hides what is installed."""
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def framework_python(place: Path) -> Path:
    """A Python that has nnU-Net, pytorch-ignite and what this one has: that which PERTURBOX_PEER names, or a new one.

    Its packages are installed without what they would pull in: nnU-Net asks for timm, timm for torchvision, and that
    would replace torch, though nothing on the way to a prediction imports it.
    """
    if named := os.environ.get("PERTURBOX_PEER"):
        return Path(named)
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    site = subprocess.run([python, "-c", SITE], capture_output=True, text=True, check=True).stdout.strip()
    Path(site, "shared.pth").write_text(sysconfig.get_paths()["purelib"], encoding="utf-8")
    pins = place / "pins.txt"
    others = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("torch==")]
    pins.write_text("\n".join([f"torch=={version('torch')}", *others]))
    for given in (["--no-deps", *ALONE], NEEDED):
        command = [str(python), "-m", "pip", "install", "--quiet", "-c", str(pins), *given]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"nnU-Net could not be installed: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")
    return python


def site_of(python: Path) -> str:
    """Where that Python's own packages lie."""
    return subprocess.run([python, "-c", SITE], capture_output=True, text=True, check=True).stdout.strip()


def nnunet_folder(python: Path, folder: Path, **told: Any) -> Path:
    """A model folder made by nnU-Net's own classes, see make_nnunet.py."""
    script = Path(__file__).with_name("make_nnunet.py")
    run(python, script, str(folder), json.dumps(told))
    return folder


def run(python: Path, script: Path, *arguments: str, **settings: str) -> None:
    """A script in that Python, which must succeed."""
    command = [str(python), str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **settings})
    assert done.returncode == 0, done.stderr[-2000:]
