"""What Slicer's build is told: a real CMake configures the extension against a stand-in for Slicer, which writes down
every call (cmake/SlicerConfig.cmake)."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "slicer_extension" / "Perturbox"
STAND_IN = Path(__file__).parent / "cmake"
LEAST = (3, 28)  # what the extension asks for, as Slicer's own template does
BUILD = "slicerMacroBuildScriptedModule"
UNIT_TEST = "slicer_add_python_unittest"
PACK = "Slicer_EXTENSION_CPACK"
# Nothing is compiled, so any program stands for a compiler; looking for one takes seconds.
NO_COMPILER = [f"-DCMAKE_{what}={sys.executable}" for what in ("C_COMPILER", "CXX_COMPILER")]
NO_COMPILER += ["-DCMAKE_C_COMPILER_FORCED=ON", "-DCMAKE_CXX_COMPILER_FORCED=ON"]

Calls = dict[tuple[str, str, str], list[str]]


def find_cmake() -> str:
    """The CMake beside this Python, or else the system's; skips where there is none or an older one."""
    beside = str(Path(sys.executable).parent)
    cmake = shutil.which("cmake", path=beside) or shutil.which("cmake")
    if cmake is None:
        pytest.skip("needs CMake: pip install 'cmake>=3.28,<4'")
    told = subprocess.run([cmake, "--version"], capture_output=True, text=True, check=True).stdout
    version = tuple(map(int, re.findall(r"version (\d+)\.(\d+)", told)[0]))
    if version < LEAST:
        pytest.skip(f"needs CMake 3.28 as Slicer does, this one is {version[0]}.{version[1]}")
    return cmake


def configure(source: Path, build: Path, *options: str) -> subprocess.CompletedProcess:
    command = [find_cmake(), "-S", str(source), "-B", str(build), f"-DSlicer_DIR={STAND_IN}", *NO_COMPILER, *options]
    return subprocess.run(command, capture_output=True, text=True)


def read_calls(build: Path) -> Calls:
    """(call, folder in the repository, argument) → values; values of repeated calls follow one another."""
    calls: Calls = {}
    for line in (build / "calls.txt").read_text(encoding="utf-8").splitlines():
        name, folder, key, values = line.split("|", 3)
        place = Path(folder).relative_to(ROOT).as_posix()
        calls.setdefault((name, place, key), []).extend(filter(None, values.split(";")))
    return calls


@pytest.fixture(scope="module")
def calls(tmp_path_factory) -> Calls:
    build = tmp_path_factory.mktemp("build")
    done = configure(ROOT, build)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return read_calls(build)


def carried(*patterns: str) -> set[str]:
    """Files of the module that match, as CMake would name them; what Python or an editor leaves is none of it."""
    found = (path for pattern in patterns for path in MODULE.glob(pattern))
    return {
        path.relative_to(MODULE).as_posix()
        for path in found
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }


def test_every_script_is_installed(calls):
    listed = calls[BUILD, "slicer_extension/Perturbox", "SCRIPTS"]
    assert len(listed) == len(set(listed))
    assert set(listed) == carried("*.py", "PerturboxLib/**/*.py")


def test_every_resource_is_installed(calls):
    listed = calls[BUILD, "slicer_extension/Perturbox", "RESOURCES"]
    assert len(listed) == len(set(listed))
    assert set(listed) == carried("Resources/**/*")


def test_nothing_else_lies_in_the_module():
    """Whatever isn't a script, a resource, a test or a CMakeLists.txt would be missing from a package unnoticed."""
    known = carried("*.py", "PerturboxLib/**/*.py", "Resources/**/*", "Testing/**/*", "CMakeLists.txt")
    assert carried("**/*") - known == set()


def test_the_module_is_called_as_its_file(calls):
    assert calls[BUILD, "slicer_extension/Perturbox", "NAME"] == ["Perturbox"]
    assert calls[BUILD, "slicer_extension/Perturbox", "WITH_GENERIC_TESTS"] == ["TRUE"]
    assert (MODULE / "Perturbox.py").is_file()


def test_every_test_script_is_run(calls):
    """The module's own tests, and every file of Testing/Python, each where its CMakeLists.txt lies."""
    run = {f"{place}/{name}" for (call, place, _), names in calls.items() if call == UNIT_TEST for name in names}
    own = {f"slicer_extension/Perturbox/{name}" for name in carried("Testing/Python/*.py")}
    assert run == own | {"slicer_extension/Perturbox/Perturbox.py"}
    assert own


def test_without_tests_none_is_registered(tmp_path):
    """As Slicer's check of Python extensions builds a package."""
    assert configure(ROOT, tmp_path, "-DBUILD_TESTING=OFF").returncode == 0
    assert not [call for call, _, _ in read_calls(tmp_path) if call == UNIT_TEST]


def test_the_package_carries_our_licence_and_our_readme(calls):
    assert calls[PACK, ".", "PROJECT_NAME"] == ["Perturbox"]
    assert calls[PACK, ".", "EXTENSION_LICENSE_FILE"] == [str(ROOT / "LICENSE")]
    assert calls[PACK, ".", "EXTENSION_README_FILE"] == [str(ROOT / "slicer_extension" / "README.md")]
    for key in ("EXTENSION_LICENSE_FILE", "EXTENSION_README_FILE"):
        assert Path(calls[PACK, ".", key][0]).is_file()


def test_the_description_survives_cmake(calls):
    """A semicolon would split it, a newline break the extension's description file."""
    text = re.search(r'EXTENSION_DESCRIPTION "(.*)"\)', (ROOT / "CMakeLists.txt").read_text(encoding="utf-8"))
    assert text and calls[PACK, ".", "EXTENSION_DESCRIPTION"] == [text[1]]
    assert calls[PACK, ".", "EXTENSION_DEPENDS"] == ["NA"]


def test_configuration_is_generated_before_it_is_packed(tmp_path):
    assert configure(ROOT, tmp_path).returncode == 0
    lines = (tmp_path / "calls.txt").read_text(encoding="utf-8").splitlines()
    order = list(dict.fromkeys(line.split("|")[0] for line in lines))
    assert order == [BUILD, UNIT_TEST, "Slicer_EXTENSION_GENERATE_CONFIG", PACK]


def test_the_stand_in_refuses_what_slicer_refuses(tmp_path):
    """Otherwise the tests above would pass for a list that Slicer's macro stops at."""
    source = tmp_path / "source"
    source.mkdir()
    head = "cmake_minimum_required(VERSION 3.28)\nproject(Wrong)\nfind_package(Slicer REQUIRED)\n"
    call = "include(${Slicer_USE_FILE})\nslicerMacroBuildScriptedModule(NAME Wrong SCRIPT Wrong.py)\n"
    (source / "CMakeLists.txt").write_text(head + call, encoding="utf-8")
    done = configure(source, tmp_path / "build")
    assert done.returncode != 0 and "slicerMacroBuildScriptedModule" in done.stderr
