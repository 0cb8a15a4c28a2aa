"""What measured: processor and versions."""

import platform
from importlib.metadata import version
from pathlib import Path

import perturbox


def versions() -> dict[str, str]:
    """Of what touches speed."""
    return {
        "perturbox": perturbox.__version__,
        "python": platform.python_version(),
        "torch": version("torch"),
        "monai": version("monai"),
    }


def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
