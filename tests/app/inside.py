"""Importing this makes the app's own modules importable in the tests' process: `import inside` before `lib…`."""

import sys
import warnings
from pathlib import Path

import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label; `make setup` installs it")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "monailabel_app"))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what MONAI Label imports uses modules that Python has given up
    import lib.api  # noqa: F401
    import lib.guard  # noqa: F401
