"""The tests that run inside Slicer's desktop application run here, too, unchanged, so that none of them is first run by
a user; and the script that runs them there is run with a stand-in for Slicer."""

import importlib
import os
import subprocess
import sys
import unittest
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "slicer_extension" / "Perturbox"
FOLDER = MODULE / "Testing" / "Python"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))


def run(suite: unittest.TestSuite) -> unittest.TestResult:
    result = unittest.TestResult()
    suite.run(result)
    return result


@pytest.mark.parametrize("name", NAMES)
def test_script(name, scene, monkeypatch):
    """As slicer.testing.runUnitTest does: the folder on the path, every test of that name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    result = run(unittest.TestLoader().loadTestsFromName(name))
    sys.modules.pop(name)
    assert result.wasSuccessful(), "\n".join(text for _, text in result.failures + result.errors)
    assert result.testsRun >= 1 and not result.skipped


def test_reload_and_test(load_module, slicer_app):
    """The module's own class, by the method that “Reload & Test” calls."""
    load_module()
    case = sys.modules["Perturbox"].PerturboxTest()
    case.messageDelay = 0
    case.runTest()
    slicer_app.processEvents()


def test_a_failing_script_is_seen(monkeypatch, tmp_path):
    code = "import unittest\nclass Wrong(unittest.TestCase):\n    def test(self):\n        self.fail('seen')\n"
    (tmp_path / "WrongDesktopTest.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    result = run(unittest.TestLoader().loadTestsFromName("WrongDesktopTest"))
    assert not result.wasSuccessful() and "seen" in result.failures[0][1]


# ---------------------------------------------------------------- scripts/run_slicer_tests

needs_shell = pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")


def run_script(executable: Path | None, *names: str) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key != "SLICER_EXECUTABLE"}
    if executable:
        environment["SLICER_EXECUTABLE"] = str(executable)
    command = ["sh", str(ROOT / "scripts" / "run_slicer_tests"), *names]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture
def slicer_stand_in(tmp_path):
    """A program that writes its arguments down, a line each, and fails for tests with Wrong in their name."""
    program = tmp_path / "Slicer"
    told = tmp_path / "calls"
    program.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" >> "{told}"\nfor last; do :; done\ncase $last in *Wrong*) exit 1;; esac\n',
        encoding="utf-8",
    )
    program.chmod(0o755)
    return program, lambda: told.read_text(encoding="utf-8").splitlines()


@needs_shell
def test_every_test_gets_a_slicer_of_its_own(slicer_stand_in):
    program, calls = slicer_stand_in
    done = run_script(program)
    assert done.returncode == 0, done.stderr
    assert "all passed" in done.stdout
    code = "import slicer.testing; slicer.testing.runUnitTest([r'{}', r'{}'], '{}')"
    expected = []
    for name in ["Perturbox", *NAMES]:
        expected += ["--no-splash", "--testing", "--additional-module-paths", str(MODULE), "--python-code"]
        expected.append(code.format(MODULE, FOLDER, name))
    assert calls() == expected


@needs_shell
def test_failures_are_told_and_the_rest_still_runs(slicer_stand_in):
    program, calls = slicer_stand_in
    done = run_script(program, "WrongTest", "RightTest")
    assert done.returncode == 1
    assert done.stderr.strip() == "run_slicer_tests: failed: WrongTest"
    assert sum("RightTest" in line for line in calls()) == 1


@needs_shell
@pytest.mark.parametrize("executable", [None, FOLDER, FOLDER / "nothing"])
def test_without_slicer_it_says_what_to_do(executable):
    done = run_script(executable)
    assert done.returncode == 2
    assert done.stderr.startswith("run_slicer_tests: set SLICER_EXECUTABLE") and done.stderr.count("\n") == 1
